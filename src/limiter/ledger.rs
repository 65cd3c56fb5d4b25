//! The word that holds every reservation, and the bounds it is compared with.
//!
//! One `u64` carries a waiters flag, how many requests are in flight and how
//! many KiB they have reserved:
//!
//! ```text
//! 63        62 … 43          42 … 0
//! waiters   requests (20)    reserved KiB (43)
//! ```
//!
//! [`Bounds`] has the same layout for what may be reserved, so an admission is
//! two loads, two comparisons and one compare-and-swap, and a release is one
//! subtraction.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

const FLAG: u64 = 1 << 63;
const COUNT_SHIFT: u32 = 43;
const ONE: u64 = 1 << COUNT_SHIFT;

/// The largest number of requests in flight that can be told apart.
pub(crate) const MAX_COUNT: u32 = (1 << 20) - 1;
/// The largest number of KiB that can be reserved (8 PiB).
pub(crate) const MAX_KIB: u64 = ONE - 1;

/// Whole KiB that cover `bytes`; never 0, so that a word with a request in
/// flight is never empty.
pub(crate) fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024).clamp(1, MAX_KIB)
}

/// A flag, a count and an amount in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(u64);

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

    /// Nothing in flight, whether or not somebody waits.
    fn is_idle(self) -> bool {
        self.0 & !FLAG == 0
    }
}

/// Why a reservation was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guard takes no new work: critical pressure, or a blind sensor.
    Gate,
    /// Somebody waits already, and nobody overtakes.
    Waiters,
    /// As many requests in flight as the guard allows.
    Count,
    /// The bytes do not fit.
    Bytes,
    /// Enough was admitted since the last sample to look again first.
    Stale,
}

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// What is reserved for it.
    pub(crate) kib: u64,
    /// What it is known to need at least: enough to start it when nothing else runs.
    pub(crate) low_kib: u64,
}

/// What a waiter needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// What its guard estimates when its turn comes: estimates are corrected
    /// while it waits.
    Estimated,
    Known(Ask),
}

impl Need {
    pub(super) fn ask(self, bounds: &Bounds) -> Ask {
        match self {
            Need::Estimated => bounds.estimate(),
            Need::Known(ask) => ask,
        }
    }
}

/// How strictly [`Ledger::try_reserve`] applies the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A newcomer: behind every waiter, and on a fresh enough sample.
    Newcomer,
    /// A newcomer that has just looked at a fresh sample.
    Refreshed,
    /// The oldest waiter (the queue is locked).
    Waiter,
    /// Bounds do not apply: a probe, or a guard that only observes.
    Force,
}

/// What one guard may reserve; written by its controller at every sample.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Gate flag, most requests in flight, most KiB reserved.
    limits: AtomicU64,
    /// Above this many reserved KiB an admission refreshes the sample first.
    refresh_kib: AtomicU64,
    /// KiB free below the hard limit, for a request that comes when nothing runs.
    idle_kib: AtomicU64,
    /// What a request is estimated to ask for.
    request_kib: AtomicU64,
    low_kib: AtomicU64,
    /// Requests that may be admitted past the bounds, to find out whether
    /// memory that looks full really is.
    probes: AtomicU32,
    /// The count of a guard that is not the first on its ledger; the first
    /// one's is in the ledger's word, which saves it a second shared counter.
    own_count: Option<AtomicU32>,
}

impl Bounds {
    pub(crate) fn new(first: bool) -> Self {
        Self {
            limits: AtomicU64::new(Packed::new(false, MAX_COUNT, MAX_KIB).0),
            refresh_kib: AtomicU64::new(MAX_KIB),
            idle_kib: AtomicU64::new(MAX_KIB),
            request_kib: AtomicU64::new(1),
            low_kib: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            own_count: (!first).then(|| AtomicU32::new(0)),
        }
    }

    pub(crate) fn limits(&self) -> Packed {
        Packed(self.limits.load(Ordering::Acquire))
    }

    /// Publishes new bounds. The caller then pumps the queue (under its lock),
    /// which is what makes them visible to everybody who waits.
    pub(crate) fn publish(&self, limits: Packed, refresh_kib: u64, idle_kib: u64) {
        self.refresh_kib.store(refresh_kib, Ordering::Relaxed);
        self.idle_kib.store(idle_kib, Ordering::Relaxed);
        self.limits.store(limits.0, Ordering::Release);
    }

    /// What a request is estimated to ask for.
    #[inline]
    pub(crate) fn estimate(&self) -> Ask {
        Ask {
            kib: self.request_kib.load(Ordering::Relaxed),
            low_kib: self.low_kib.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_estimate(&self, estimate: Ask) {
        self.request_kib.store(estimate.kib, Ordering::Relaxed);
        self.low_kib.store(estimate.low_kib, Ordering::Relaxed);
    }

    pub(crate) fn set_probes(&self, probes: u32) {
        self.probes.store(probes, Ordering::Relaxed);
    }

    pub(crate) fn probes(&self) -> u32 {
        self.probes.load(Ordering::Relaxed)
    }

    pub(crate) fn take_probe(&self) -> bool {
        self.probes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }

    /// What one request of this guard adds to the count in the word.
    fn unit(&self) -> u64 {
        if self.counts_in_word() { ONE } else { 0 }
    }

    /// Its requests are counted in the ledger's word, not beside it.
    pub(crate) fn counts_in_word(&self) -> bool {
        self.own_count.is_none()
    }
}

/// The reservations of all guards that watch one source.
#[derive(Debug)]
pub(crate) struct Ledger {
    word: AtomicU64,
    /// Requests of the guards that have a count of their own, together.
    beside: AtomicU32,
    /// Admissions without bytes: another guard holds them for the same request.
    nested: AtomicU32,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            beside: AtomicU32::new(0),
            nested: AtomicU32::new(0),
        }
    }

    /// Requests of all guards in flight, each once.
    pub(crate) fn all_in_flight(&self) -> u32 {
        let admissions = self.load().count() + self.beside.load(Ordering::Relaxed);
        admissions.saturating_sub(self.nested.load(Ordering::Relaxed))
    }

    /// Nothing is reserved by anybody.
    pub(super) fn is_idle(&self) -> bool {
        self.load().is_idle()
    }

    pub(crate) fn load(&self) -> Packed {
        Packed(self.word.load(Ordering::Acquire))
    }

    /// How many requests of the guard with these bounds are in flight.
    pub(crate) fn count(&self, bounds: &Bounds) -> u32 {
        match &bounds.own_count {
            Some(own) => own.load(Ordering::Relaxed),
            None => self.load().count(),
        }
    }

    /// Reserves what `ask` says. `Ok(true)` if nothing was in flight before.
    #[inline]
    pub(crate) fn try_reserve(
        &self,
        bounds: &Bounds,
        ask: Ask,
        mode: Mode,
    ) -> Result<bool, Refused> {
        // Acquire: pairs with `publish`, whose other fields are read below.
        let limits = bounds.limits();
        // What another guard on this ledger has admitted must not wait behind
        // those who wait for its bytes: only the count binds.
        let nested = ask.kib == 0;
        let force = mode == Mode::Force;
        if limits.flag() && !force && !nested {
            return Err(Refused::Gate);
        }
        let cap = if force { MAX_COUNT } else { limits.count() };
        if !self.enter(bounds, cap) {
            return Err(Refused::Count);
        }
        let reserved = self.reserve_word(bounds, limits, cap, ask, mode);
        if reserved.is_err() {
            self.leave(bounds);
        } else if nested {
            self.nested.fetch_add(1, Ordering::Relaxed);
        }
        reserved
    }

    #[inline]
    fn reserve_word(
        &self,
        bounds: &Bounds,
        limits: Packed,
        cap: u32,
        ask: Ask,
        mode: Mode,
    ) -> Result<bool, Refused> {
        let unit = bounds.unit();
        let mut current = self.word.load(Ordering::Relaxed);
        loop {
            let word = Packed(current);
            let newcomer = matches!(mode, Mode::Newcomer | Mode::Refreshed);
            if newcomer && word.flag() && ask.kib != 0 {
                return Err(Refused::Waiters);
            }
            if unit != 0 && word.count() >= cap {
                return Err(Refused::Count);
            }
            let total_kib = word.kib() + ask.kib;
            if mode != Mode::Force && ask.kib != 0 {
                if mode == Mode::Newcomer && total_kib > bounds.refresh_kib.load(Ordering::Relaxed)
                {
                    return Err(Refused::Stale);
                }
                let fits = total_kib <= limits.kib()
                    // With nothing in flight there is nothing to wait for: the
                    // request runs if what it surely needs is free.
                    || (word.is_idle() && ask.low_kib <= bounds.idle_kib.load(Ordering::Relaxed));
                if !fits {
                    return Err(Refused::Bytes);
                }
            }
            if total_kib > MAX_KIB {
                return Err(Refused::Bytes);
            }
            // AcqRel: an admission sees what the releases before it did.
            match self.word.compare_exchange_weak(
                current,
                current + unit + ask.kib,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(word.is_idle()),
                Err(actual) => current = actual,
            }
        }
    }

    /// One more in the guard's own count, if it has one and it stays within `cap`.
    #[inline]
    fn enter(&self, bounds: &Bounds, cap: u32) -> bool {
        let Some(own) = &bounds.own_count else {
            return true;
        };
        let more = |count| (count < cap).then_some(count + 1);
        let entered = own
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok();
        if entered {
            self.beside.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    #[inline]
    fn leave(&self, bounds: &Bounds) {
        if let Some(own) = &bounds.own_count {
            own.fetch_sub(1, Ordering::Relaxed);
            self.beside.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives a reservation back. `true` if somebody waits: the caller pumps the queue.
    #[inline]
    pub(crate) fn release(&self, bounds: &Bounds, kib: u64) -> bool {
        self.leave(bounds);
        if kib == 0 {
            self.nested.fetch_sub(1, Ordering::Relaxed);
        }
        // AcqRel: releases what this request did, and sees a flag set before.
        let before = self.word.fetch_sub(bounds.unit() + kib, Ordering::AcqRel);
        debug_assert!(Packed(before).kib() >= kib, "released more than reserved");
        Packed(before).flag()
    }

    /// Says that somebody waits. Only under the queue's lock.
    pub(crate) fn set_waiters(&self) {
        // AcqRel: whoever releases after this sees the flag; whatever was
        // released before it is seen by the attempt that follows.
        self.word.fetch_or(FLAG, Ordering::AcqRel);
    }

    /// Says that nobody waits. Only under the queue's lock.
    pub(crate) fn clear_waiters(&self) {
        self.word.fetch_and(!FLAG, Ordering::AcqRel);
    }
}
