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
mod reserve;
mod staged;

use std::sync::atomic::{AtomicU32 as SmallCounter, AtomicU64 as Counter};

use super::bounds::Bounds;
use super::count::GuardCount;
use super::word::{FLAG, InUse, ONE};
use crate::class::tag::Tag;
use crate::sync::sharded::ShardedCounter;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::MAX_KIB;
pub(crate) use staged::OpenBodies;

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
    Bytes,
    /// Enough was admitted since the last sample to look again first.
    Stale,
}

/// Who waits for what was given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    pub(super) somebody_waits: bool,
    /// Somebody waits until its tenant gives something back.
    pub(super) of_tenant: bool,
}

/// How a request is counted that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// It was before it asked.
    Before,
    /// In the word, with what it reserves.
    InWord,
    /// [Beside](Ledger::beside) the word, before it is known whether it fits. `is_first`:
    /// nothing was in flight then.
    Beside { is_first: bool },
}

impl Counted {
    #[inline(always)]
    fn unit(self) -> u64 {
        if self == Counted::InWord { ONE } else { 0 }
    }
}

/// The reservations of all guards that watch one source.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    word: AtomicU64,
    /// KiB whose work is over, ever, and how many of them are off the word. The rest
    /// still counts as reserved, until a sample has shown what the allocator keeps.
    /// Not model-checked: they only rise, and hand nothing over.
    ended_kib: ShardedCounter,
    freed_kib: Counter,
    /// Requests of the guards that have a count of their own, together.
    beside: AtomicU32,
    /// Admissions without bytes: another guard holds them for the same request.
    nested: AtomicU32,
    /// Requests whose work has not begun, and what they have read of their bodies. Not
    /// model-checked: they hand nothing over.
    staged_requests: SmallCounter,
    read_bytes: Counter,
}

impl Ledger {
    /// Requests of all guards in flight, each once.
    pub(crate) fn all_in_flight(&self) -> u32 {
        let admissions = self.load().count() + self.beside.load(Ordering::Relaxed);
        admissions.saturating_sub(self.nested.load(Ordering::Relaxed))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle_at(self.load(), Counted::Before)
    }

    /// Nothing is but the one that asks.
    #[inline(always)]
    fn is_idle_at(&self, word: InUse, asks: Counted) -> bool {
        let own = u32::from(matches!(asks, Counted::Beside { .. }));
        // Acquire: see `count_in`.
        word.count() == 0 && self.beside.load(Ordering::Acquire) == own
    }

    pub(super) fn load(&self) -> InUse {
        InUse::of(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn in_flight(&self, bounds: &Bounds) -> u32 {
        bounds.count.of(self.load())
    }

    /// One more, if the guard is counted beside the word and stays within `cap`.
    #[inline]
    fn count_in(&self, bounds: &Bounds, cap: u32) -> Option<Counted> {
        let GuardCount::Beside(own) = &bounds.count else {
            return Some(Counted::InWord);
        };
        let nothing_in_word = self.load().count() == 0;
        let more = |count| (count < cap).then_some(count + 1);
        own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        // AcqRel: whoever sees this one beside has not changed the word before the look at
        // it above. So of those that begin at once, one at least finds nothing in flight.
        let before = self.beside.fetch_add(1, Ordering::AcqRel);
        Some(Counted::Beside {
            is_first: nothing_in_word && before == 0,
        })
    }

    #[inline]
    fn count_out(&self, bounds: &Bounds) {
        if let GuardCount::Beside(own) = &bounds.count {
            own.fetch_sub(1, Ordering::Relaxed);
            self.beside.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives a reservation back. Says who waits: the caller pumps the queue.
    #[inline]
    pub(super) fn cancel(&self, bounds: &Bounds, kib: u64, tag: Tag) -> Released {
        self.count_out(bounds);
        self.give_back(bounds, 1, kib, tag, bounds.count.unit() + kib)
    }

    /// Gives back what a tenant's requests had, and of that so much from the word.
    #[inline(always)]
    fn give_back(
        &self,
        bounds: &Bounds,
        requests: u32,
        kib: u64,
        tag: Tag,
        from_word: u64,
    ) -> Released {
        bounds.take_off_critical(tag, kib);
        let of_tenant = bounds.tenants.give_back(tag.tenant, requests, kib);
        // AcqRel: releases what this request did, and sees a flag set before.
        let before = InUse::of(self.word.fetch_sub(from_word, Ordering::AcqRel));
        debug_assert!(
            before.kib() >= from_word & MAX_KIB,
            "released more than reserved"
        );
        Released {
            somebody_waits: before.has_waiters(),
            of_tenant,
        }
    }

    /// [`cancel`](Self::cancel) of a request whose bytes another guard has.
    pub(super) fn end_nested(&self, bounds: &Bounds, tag: Tag) -> Released {
        self.nested.fetch_sub(1, Ordering::Relaxed);
        self.cancel(bounds, 0, tag)
    }

    /// Says that somebody waits. Only under the queue's lock.
    pub(super) fn set_waiters(&self) {
        // AcqRel: whoever releases after this sees the flag; whatever was
        // released before it is seen by the attempt that follows.
        self.word.fetch_or(FLAG, Ordering::AcqRel);
    }

    /// Says that nobody waits. Only under the queue's lock.
    pub(super) fn clear_waiters(&self) {
        self.word.fetch_and(!FLAG, Ordering::AcqRel);
    }
}
