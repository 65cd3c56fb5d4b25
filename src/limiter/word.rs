//! A flag, a count and an amount in one word.

use crate::units::MAX_KIB;

pub(super) const FLAG: u64 = 1 << 63;
pub(super) const COUNT_SHIFT: u32 = 43;
pub(super) const ONE: u64 = 1 << COUNT_SHIFT;
const _: () = assert!(MAX_KIB == ONE - 1);

/// The largest number of requests in flight that can be told apart.
pub(crate) const MAX_COUNT: u32 = (1 << 20) - 1;

/// A flag, a count and an amount in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(pub(super) u64);

impl Packed {
    pub(crate) fn new(flag: bool, count: u32, kib: u64) -> Self {
        let flag = if flag { FLAG } else { 0 };
        Self(flag | u64::from(count.min(MAX_COUNT)) << COUNT_SHIFT | kib.min(MAX_KIB))
    }

    pub(crate) fn flag(self) -> bool {
        self.0 & FLAG != 0
    }

    pub(crate) fn count(self) -> u32 {
        ((self.0 & !FLAG) >> COUNT_SHIFT) as u32
    }

    pub(crate) fn kib(self) -> u64 {
        self.0 & MAX_KIB
    }

    /// As a bound: it is not all that can be counted.
    #[inline]
    pub(super) fn bounds_kib(self) -> bool {
        self.kib() < MAX_KIB
    }
}
