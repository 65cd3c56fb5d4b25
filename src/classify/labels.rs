//! From a request's class to numbers, which are all that admission sees of it.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::names::Names;
use super::tenants::Tenants;
use crate::class::tag::{CLASSES, ClassKey, Tag};
use crate::class::{Class, Priority};

/// A request's class as numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub(crate) tag: Tag,
    pub(crate) deadline: Option<Duration>,
    /// What is reserved until its body has been read; `None`: all that it needs, at once.
    pub(crate) body_kib: Option<NonZeroU64>,
}

/// A class whose names may be a request's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) name: &'a str,
    pub(crate) priority: Priority,
    pub(crate) tenant: &'a str,
    pub(crate) tier: &'a str,
    pub(crate) cost_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
}

impl<'a> From<&'a Class> for Parts<'a> {
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

    /// The numbers of a class.
    pub(crate) fn entry<'a>(&self, class: impl Into<Parts<'a>>) -> Entry {
        let class = class.into();
        let hint_kib = class.cost_bytes.and_then(hint_kib);
        Entry {
            tag: Tag {
                key: self.key(class.name, hint_kib.is_some()),
                priority: class.priority,
                tenant: self.tenants.number(class.tenant, class.tier),
                hint_kib,
            },
            deadline: class.deadline,
            body_kib: None,
        }
    }

    pub(crate) fn key(&self, class: &str, is_hinted: bool) -> ClassKey {
        ClassKey::new(self.classes.number(class), is_hinted)
    }

    /// The name of its class.
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
        let plain = labels.entry(&Class::new("render"));
        let sized = labels.entry(&Class::new("render").cost(1500));
        assert_eq!(
            (plain.tag.hint_kib, sized.tag.hint_kib),
            (None, NonZeroU32::new(2))
        );
        assert!(sized.tag.key.is_hinted() && !plain.tag.key.is_hinted());
        for key in [plain.tag.key, sized.tag.key] {
            assert_eq!(labels.name(key), "render");
        }
        assert_eq!(labels.entry(&Class::default()).tag, Tag::NONE);
        assert_eq!(labels.entry(&Class::new("").cost(0)).tag, Tag::NONE);
    }
}
