//! [`Tag`]: what a permit, and the ledger, know of a request.

use std::num::NonZeroU32;

use crate::class::Priority;

/// Classes that are told apart, the nameless one and the one for the rest included.
pub(crate) const CLASSES: usize = 64;
/// Requests with a cost hint are learned as if their hint were this.
pub(crate) const HINT_UNIT_KIB: u64 = 16 << 10;
/// What critical work is expected to need until some has been seen.
pub(crate) const CRITICAL_KIB: u64 = 1 << 10;

/// A kind of requests, which is told apart from others: those of one class with a cost hint,
/// or those without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey(u8);

impl ClassKey {
    pub(crate) const COUNT: usize = 2 * CLASSES;

    pub(crate) const fn new(class: u16, is_hinted: bool) -> Self {
        Self(class as u8 * 2 + is_hinted as u8)
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// The number of the class among the guard's names.
    pub(crate) fn class(self) -> u16 {
        u16::from(self.0 / 2)
    }

    pub(crate) fn is_hinted(self) -> bool {
        self.0 % 2 == 1
    }

    /// Its own among all that there may be.
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A request's class as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Tag {
    pub(crate) key: ClassKey,
    pub(crate) priority: Priority,
    pub(crate) tenant: u16,
    pub(crate) hint_kib: Option<NonZeroU32>,
}

impl Tag {
    /// Of requests that nobody classified.
    pub(crate) const NONE: Self = Self {
        key: ClassKey::new(0, false),
        priority: Priority::Normal,
        tenant: 0,
        hint_kib: None,
    };

    #[inline(always)]
    pub(crate) fn is_classified(self) -> bool {
        self.bits() != Self::NONE.bits()
    }

    /// All of it in one word, as it lies in memory: compared at once.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u64 {
        let key = self.key.0 as u64;
        let priority = (self.priority as u64) << 8;
        let tenant = (self.tenant as u64) << 16;
        let hint_kib = match self.hint_kib {
            Some(kib) => kib.get(),
            None => 0,
        };
        key | priority | tenant | (hint_kib as u64) << 32
    }

    /// What [`bits`](Self::bits) are of.
    pub(crate) const fn of_bits(bits: u64) -> Self {
        let priority = match (bits >> 8) as u8 {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            _ => Priority::Critical,
        };
        Self {
            key: ClassKey(bits as u8),
            priority,
            tenant: (bits >> 16) as u16,
            hint_kib: NonZeroU32::new((bits >> 32) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Tag {
        pub(crate) const fn of_tenant(tenant: u16) -> Self {
            Self {
                tenant,
                ..Self::NONE
            }
        }
    }

    #[test]
    fn a_tag_comes_back_from_its_bits() {
        for priority in Priority::ALL {
            let tag = Tag {
                key: ClassKey::new(63, true),
                priority,
                tenant: 1023,
                hint_kib: Some(NonZeroU32::MAX),
            };
            assert_eq!(Tag::of_bits(tag.bits()), tag);
        }
    }
}
