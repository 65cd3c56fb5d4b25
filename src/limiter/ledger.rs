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
//! [`Bounds`] have the same layout for what may be reserved, so an admission is
//! a few loads and comparisons and one compare-and-swap, and a release is two
//! additions.

mod ended;
mod more;

use std::sync::atomic::AtomicU64 as Counter;

use super::bounds::{Ask, Bounds};
use super::word::{FLAG, MAX_COUNT, Packed};
use crate::class::tag::Tag;
use crate::sync::sharded::ShardedCounter;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::MAX_KIB;
pub(crate) use more::Staged;

/// Why a reservation was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guard takes no new work: critical pressure, or a blind sensor.
    Gate,
    /// Somebody waits already, and nobody overtakes.
    Waiters,
    /// As many requests in flight as the guard allows.
    Count,
    /// As much as its tenant may have.
    Quota,
    /// The bytes do not fit.
    Bytes,
    /// Enough was admitted since the last sample to look again first.
    Stale,
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

/// Who waits for what was given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Released {
    pub(crate) somebody_waits: bool,
    /// Somebody waits until its tenant gives something back.
    pub(crate) of_tenant: bool,
}

/// How a request is counted before it is known whether it fits.
#[derive(Clone, Copy, Debug)]
struct Entered {
    /// How often it is among those [beside](Ledger::beside) the word.
    own: u32,
    /// Nothing was in flight when it was counted there.
    is_first: bool,
}

/// The reservations of all guards that watch one source.
#[derive(Debug)]
pub(crate) struct Ledger {
    word: AtomicU64,
    /// KiB whose work is over, ever, and how many of them are off the word. The rest
    /// still counts as reserved, until a sample has shown what the allocator keeps.
    /// Not model-checked: they only rise, and hand nothing over.
    finished_kib: ShardedCounter,
    settled_kib: Counter,
    /// Requests of the guards that have a count of their own, together.
    beside: AtomicU32,
    /// Admissions without bytes: another guard holds them for the same request.
    nested: AtomicU32,
    /// Requests that were admitted for their bodies alone, so far.
    staged: more::Counts,
}

/// Why bytes are not to be had, if they are not. `alone`: there is nothing to wait for,
/// and what is surely needed is free.
#[inline(always)]
fn refuses(
    word: Packed,
    bounds: &Bounds,
    limits: Packed,
    slice_kib: u64,
    ask: Ask,
    mode: Mode,
    alone: impl FnOnce() -> bool,
) -> Option<Refused> {
    let total_kib = word.kib() + ask.kib;
    if total_kib > MAX_KIB {
        return Some(Refused::Bytes);
    }
    if mode == Mode::Force || ask.kib == 0 {
        return None;
    }
    let newcomer = matches!(mode, Mode::Newcomer | Mode::Refreshed) && slice_kib == 0;
    if newcomer && word.flag() {
        return Some(Refused::Waiters);
    }
    let refresh_kib = bounds.refresh_kib.load(Ordering::Relaxed);
    let stale = mode == Mode::Newcomer && slice_kib == 0;
    if stale && total_kib > refresh_kib {
        return Some(Refused::Stale);
    }
    let fits = total_kib <= limits.kib() + slice_kib
        || bounds.critical_kib() + ask.kib <= slice_kib
        || alone();
    (!fits).then_some(Refused::Bytes)
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            finished_kib: ShardedCounter::default(),
            settled_kib: Counter::new(0),
            beside: AtomicU32::new(0),
            nested: AtomicU32::new(0),
            staged: more::Counts::default(),
        }
    }

    /// Requests of all guards in flight, each once.
    pub(crate) fn all_in_flight(&self) -> u32 {
        let admissions = self.load().count() + self.beside.load(Ordering::Relaxed);
        admissions.saturating_sub(self.nested.load(Ordering::Relaxed))
    }

    /// Nothing of anybody's is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle_at(self.load(), 0)
    }

    /// Nothing is but the one that asks, which is among those beside `own` times.
    #[inline(always)]
    fn is_idle_at(&self, word: Packed, own: u32) -> bool {
        // Acquire: see `enter`.
        word.count() == 0 && self.beside.load(Ordering::Acquire) == own
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
    pub(crate) fn try_reserve(
        &self,
        bounds: &Bounds,
        ask: Ask,
        mode: Mode,
    ) -> Result<bool, Refused> {
        self.try_reserve_inline(bounds, ask, mode)
    }

    /// [`try_reserve`](Self::try_reserve), for where what is asked is partly known when
    /// it is compiled: the rest of the questions go away there.
    #[inline(always)]
    pub(crate) fn try_reserve_inline(
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
        let slice_kib = bounds.slice_kib(ask.tag);
        let passes = force || slice_kib > 0;
        if limits.flag() && !passes && !nested {
            return Err(Refused::Gate);
        }
        let tenant = ask.tag.tenant;
        if !bounds.shares.enter(tenant, ask.kib, passes) {
            return Err(Refused::Quota);
        }
        let cap = if passes { MAX_COUNT } else { limits.count() };
        let reserved = match self.enter(bounds, cap) {
            Some(entered) => {
                let caps = (limits, cap, slice_kib);
                let reserved = self.reserve_word(bounds, caps, entered, ask, mode);
                if reserved.is_err() {
                    self.leave(bounds);
                }
                reserved
            }
            None => Err(Refused::Count),
        };
        if reserved.is_err() {
            bounds.shares.leave(tenant, ask.kib);
            return reserved;
        }
        bounds.hold(ask.tag, ask.kib);
        if nested {
            self.nested.fetch_add(1, Ordering::Relaxed);
        }
        reserved
    }

    /// `Ok(true)` if nothing was in flight before.
    #[inline(always)]
    fn reserve_word(
        &self,
        bounds: &Bounds,
        (limits, cap, slice_kib): (Packed, u32, u64),
        entered: Entered,
        ask: Ask,
        mode: Mode,
    ) -> Result<bool, Refused> {
        let unit = bounds.unit();
        // Acquire: whoever sees a release sees what it counted as finished.
        let mut current = self.word.load(Ordering::Acquire);
        loop {
            let word = Packed(current);
            if unit != 0 && word.count() >= cap {
                return Err(Refused::Count);
            }
            // With nothing in flight there is nothing to wait for: the request runs if
            // what it surely needs is free.
            let is_idle = self.is_idle_at(word, entered.own);
            let alone = || is_idle && ask.low_kib <= bounds.idle_kib();
            if let Some(refused) = refuses(word, bounds, limits, slice_kib, ask, mode, alone) {
                return Err(refused);
            }
            // AcqRel: an admission sees what the releases before it did.
            match self.word.compare_exchange_weak(
                current,
                current + unit + ask.kib,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(is_idle || entered.is_first),
                Err(actual) => current = actual,
            }
        }
    }

    /// One more in the guard's own count, if it has one and it stays within `cap`.
    #[inline]
    fn enter(&self, bounds: &Bounds, cap: u32) -> Option<Entered> {
        let Some(own) = &bounds.own_count else {
            return Some(Entered {
                own: 0,
                is_first: false,
            });
        };
        let nothing_in_word = self.load().count() == 0;
        let more = |count| (count < cap).then_some(count + 1);
        own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        // AcqRel: whoever sees this one beside has not changed the word before the look at
        // it above. So of those that begin at once, one at least finds nothing in flight.
        let before = self.beside.fetch_add(1, Ordering::AcqRel);
        Some(Entered {
            own: 1,
            is_first: nothing_in_word && before == 0,
        })
    }

    #[inline]
    fn leave(&self, bounds: &Bounds) {
        if let Some(own) = &bounds.own_count {
            own.fetch_sub(1, Ordering::Relaxed);
            self.beside.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives a reservation back. Says who waits: the caller pumps the queue.
    #[inline]
    pub(crate) fn release(&self, bounds: &Bounds, kib: u64, tag: Tag) -> Released {
        self.leave(bounds);
        bounds.let_go(tag, kib);
        let of_tenant = bounds.shares.leave(tag.tenant, kib);
        if kib == 0 {
            self.nested.fetch_sub(1, Ordering::Relaxed);
        }
        // AcqRel: releases what this request did, and sees a flag set before.
        let before = self.word.fetch_sub(bounds.unit() + kib, Ordering::AcqRel);
        debug_assert!(Packed(before).kib() >= kib, "released more than reserved");
        Released {
            somebody_waits: Packed(before).flag(),
            of_tenant,
        }
    }

    /// Reserves more for work that is admitted; within the bounds, unless `force`.
    pub(crate) fn grow(&self, bounds: &Bounds, kib: u64, tag: Tag, force: bool) -> bool {
        let limits = bounds.limits();
        let more = |current| {
            let total_kib = Packed(current).kib() + kib;
            let fits = force || total_kib <= limits.kib();
            (fits && total_kib <= MAX_KIB).then_some(current + kib)
        };
        let grown = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok();
        if grown {
            bounds.hold(tag, kib);
            bounds.shares.grow(tag.tenant, kib);
        }
        grown
    }

    /// Makes a reservation of `kib`, made before it was known for what, one for `ask`.
    /// `Ok(true)`: it became smaller, and somebody waits.
    pub(crate) fn retag(&self, bounds: &Bounds, kib: u64, ask: Ask) -> Result<bool, Refused> {
        let tag = ask.tag;
        if !bounds.shares.enter(tag.tenant, ask.kib, false) {
            return Err(Refused::Quota);
        }
        let more_kib = ask.kib.saturating_sub(kib);
        if more_kib > 0 && !self.grow(bounds, more_kib, Tag::NONE, false) {
            bounds.shares.leave(tag.tenant, ask.kib);
            return Err(Refused::Bytes);
        }
        bounds.hold(tag, ask.kib);
        let less_kib = kib.saturating_sub(ask.kib);
        let before = self.word.fetch_sub(less_kib, Ordering::AcqRel);
        Ok(less_kib > 0 && Packed(before).flag())
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
