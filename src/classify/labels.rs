//! From a request's class to numbers and a [`Demand`], which are all that admission sees of it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::names::Names;
use super::tenants::Tenants;
use crate::class::tag::{CLASSES, ClassKey, Tag};
use crate::class::{Class, Priority};
use crate::limiter::Need;

/// What a request asks for, and how long it may wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub(crate) need: Need,
    pub(crate) deadline: Option<Duration>,
}

impl Demand {
    /// Of a request that nobody classified.
    pub(crate) const NONE: Self = Self {
        need: Need::Estimated(Tag::NONE),
        deadline: None,
    };

    /// Of whatever comes.
    pub(crate) const ANY: Self = Self {
        need: Need::Any,
        ..Self::NONE
    };

    #[inline(always)]
    pub(crate) const fn is_for_any(&self) -> bool {
        matches!(self.need, Need::Any)
    }

    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        self.need.tag()
    }

    /// It asks for what its body needs, and for the rest once that has been read.
    #[inline]
    pub(crate) fn is_for_body(&self) -> bool {
        matches!(self.need, Need::Known(_))
    }

    /// All that it needs, without its body first.
    pub(crate) fn at_once(self) -> Self {
        let need = Need::Estimated(self.tag());
        Self { need, ..self }
    }
}

/// A class whose names may be a request's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classified<'a> {
    pub(crate) name: &'a str,
    pub(crate) priority: Priority,
    pub(crate) tenant: &'a str,
    pub(crate) tier: &'a str,
    pub(crate) cost_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
}

impl<'a> From<&'a Class> for Classified<'a> {
    #[inline]
    fn from(class: &'a Class) -> Self {
        Self {
            name: &class.name,
            priority: class.priority,
            tenant: &class.tenant,
            tier: &class.tier,
            cost_bytes: class.cost_bytes,
            deadline: class.deadline,
        }
    }
}

/// The names that a guard has met.
#[derive(Debug)]
pub struct Labels {
    classes: Names,
    tenants: Tenants,
}

impl Labels {
    pub(crate) fn new(tenants: Tenants) -> Self {
        Self {
            classes: Names::new(CLASSES as u16),
            tenants,
        }
    }

    pub(crate) fn demand<'a>(&self, class: impl Into<Classified<'a>>) -> Demand {
        let class = class.into();
        let hint_kib = class.cost_bytes.and_then(hint_kib);
        let tag = Tag {
            key: self.key(class.name, hint_kib.is_some()),
            priority: class.priority,
            tenant: self.tenants.number(class.tenant, class.tier),
            hint_kib,
        };
        Demand {
            need: Need::Estimated(tag),
            deadline: class.deadline,
        }
    }

    pub(crate) fn key(&self, class: &str, is_hinted: bool) -> ClassKey {
        ClassKey::new(self.classes.number(class), is_hinted)
    }

    pub(crate) fn name(&self, key: ClassKey) -> &str {
        self.class_name(key.class())
    }

    pub(crate) fn class_name(&self, number: u16) -> &str {
        self.classes.name(number)
    }

    /// There are numbers left for classes.
    pub(crate) fn has_room(&self) -> bool {
        self.classes.has_room()
    }
}

/// Up to 4 TiB. `None`: there are no bytes.
fn hint_kib(bytes: u64) -> Option<NonZeroU32> {
    let kib = u32::try_from(bytes.div_ceil(1024));
    NonZeroU32::new(kib.unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_kind_with_a_hint_and_one_without() {
        let labels = Labels::new(Tenants::new(Vec::new()));
        let tag = |class| labels.demand(&class).tag();
        let plain = tag(Class::new("render"));
        let sized = tag(Class::new("render").cost(1500));
        assert_eq!((plain.hint_kib, sized.hint_kib), (None, NonZeroU32::new(2)));
        assert!(sized.key.is_hinted() && !plain.key.is_hinted());
        for key in [plain.key, sized.key] {
            assert_eq!(labels.name(key), "render");
        }
        assert_eq!(tag(Class::default()), Tag::NONE);
        assert_eq!(tag(Class::new("").cost(0)), Tag::NONE);
    }
}
