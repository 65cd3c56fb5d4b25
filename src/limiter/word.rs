//! A flag, a count of requests and KiB in one word, with three meanings.

use std::marker::PhantomData;

use crate::units::MAX_KIB;

pub(super) const FLAG: u64 = 1 << 63;
pub(super) const COUNT_SHIFT: u32 = 43;
pub(super) const ONE: u64 = 1 << COUNT_SHIFT;
const _: () = assert!(MAX_KIB == ONE - 1);

/// The largest number of requests in flight that can be told apart.
pub(crate) const MAX_COUNT: u32 = (1 << 20) - 1;

/// A flag that means `F`, a count and an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<F>(u64, PhantomData<F>);

/// What is on a ledger, and whether somebody waits for it.
pub(crate) type InUse = Word<Waiters>;
/// What a guard may have, and whether its gate is shut.
pub(crate) type Caps = Word<Gate>;
/// What a tenant has, and whether a flow of it is parked until it gives some of that back.
pub(crate) type TenantUse = Word<Parked>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiters {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {}

impl<F> Word<F> {
    pub(crate) fn new(flag: bool, count: u32, kib: u64) -> Self {
        let flag = if flag { FLAG } else { 0 };
        Self::of(flag | u64::from(count.min(MAX_COUNT)) << COUNT_SHIFT | kib.min(MAX_KIB))
    }

    pub(super) fn of(bits: u64) -> Self {
        Self(bits, PhantomData)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    fn is_flagged(&self) -> bool {
        self.0 & FLAG != 0
    }

    pub(crate) fn count(&self) -> u32 {
        ((self.0 & !FLAG) >> COUNT_SHIFT) as u32
    }

    pub(crate) fn kib(&self) -> u64 {
        self.0 & MAX_KIB
    }
}

impl InUse {
    pub(crate) fn has_waiters(self) -> bool {
        self.is_flagged()
    }
}

impl Caps {
    pub(crate) fn is_shut(self) -> bool {
        self.is_flagged()
    }

    /// Its KiB are not all that can be counted.
    #[inline]
    pub(super) fn bounds_kib(self) -> bool {
        self.kib() < MAX_KIB
    }
}

impl TenantUse {
    pub(crate) fn is_parked(self) -> bool {
        self.is_flagged()
    }
}
