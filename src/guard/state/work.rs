//! What is reserved for work, until it ends.

use std::num::NonZeroU64;
use std::time::Duration;

use super::State;
use crate::class::tag::Tag;
use crate::error::Reason;
use crate::limiter::{Ask, Attempt, Operation, Refused};
use crate::memory::Moment;
use crate::running::Slot;
use crate::telemetry::outcome::Mark;

/// What is reserved for one piece of work.
#[derive(Clone)]
pub(in crate::guard) struct Reservation {
    pub(in crate::guard) state: &'static State,
    /// `None`: a guard further out has its bytes.
    pub(in crate::guard) kib: Option<NonZeroU64>,
    pub(in crate::guard) tag: Tag,
    /// If it had waited: its tenant was charged for it then.
    pub(in crate::guard) granted_at: Moment,
    /// What became of it so far.
    pub(in crate::guard) mark: Mark,
}

impl Reservation {
    /// As it was at first.
    #[inline]
    pub(in crate::guard) fn kib(&self) -> u64 {
        self.kib.map_or(0, NonZeroU64::get)
    }

    /// The work is over, and its memory free unless the allocator keeps it.
    #[inline]
    pub(in crate::guard) fn end(&self, slot: Option<&Slot>) {
        let (state, tag, outcome) = (self.state, self.tag, self.mark.get());
        let mut held_kib = self.kib();
        if self.granted_at != Moment::NONE {
            self.charge_actual(held_kib, self.granted_at);
        }
        if let Some(slot) = slot {
            if slot.was_paused() {
                state.tell_pauses(slot, tag, outcome);
            }
            // It may have grown.
            held_kib = slot.reserved_kib();
            state.tell_half_seen(slot);
            state.running.end(slot);
        }
        // Last: who counts what has ended and what is in flight might see both of it.
        if state.counters.outcomes.ended(outcome) {
            state.look_for_fork();
        }
        if self.kib.is_none() {
            state.limiter.end_nested(&state.bounds, tag);
            state.has_ended();
        } else if state.limiter.complete(&state.bounds, held_kib, tag) {
            state.sampler.request_sample();
        } else {
            state.has_ended();
        }
    }

    /// Its tenant pays for the time that took what it was granted then.
    #[cold]
    pub(in crate::guard) fn charge_actual(&self, kib: u64, granted_at: Moment) {
        let elapsed = granted_at.until(self.state.sampler.moment());
        let account = self.state.bounds.tenants().get(self.tag.tenant);
        account.charge_actual(kib, elapsed);
    }
}

impl State {
    pub(in crate::guard) fn reserve(
        &self,
        ask: Ask,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        let (limiter, bounds) = (&self.limiter, &self.bounds);
        limiter.try_reserve(bounds, ask, operation, attempt)
    }

    /// Reserves so many KiB more, all of which are needed, for a request that has some.
    pub(in crate::guard) fn reserve_more(
        &self,
        kib: u64,
        tag: Tag,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<(), Refused> {
        let ask = Ask::exactly(kib, tag);
        self.reserve(ask, operation, attempt).map(drop)
    }

    /// Reserves more for a request that goes on in any case; how much.
    pub(in crate::guard) fn force_more(&self, kib: u64, tag: Tag) -> u64 {
        match self.reserve_more(kib, tag, Operation::Growth, Attempt::PastBounds) {
            Ok(()) => kib,
            // More than the ledger's word can count.
            Err(_) => 0,
        }
    }

    /// An attempt, and another one on a new sample if the last one is too old for it.
    pub(in crate::guard) fn resampling<T>(
        &self,
        attempt: impl Fn(Attempt) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        match attempt(Attempt::First) {
            Err(Refused::Stale) => {
                self.sampler.refresh();
                attempt(Attempt::Resampled)
            }
            outcome => outcome,
        }
    }

    #[inline]
    pub(in crate::guard) fn track(&self, kib: u64, tag: Tag) -> Option<&Slot> {
        self.running.take(kib, tag, self.sampler.tick())
    }

    /// Nobody waits who would not have had to.
    pub(in crate::guard) fn let_all_in(&self) {
        while self.limiter.probe_oldest(&self.bounds, None) {}
    }

    /// Lets so many in past the bounds, for each of whom so much is free.
    pub(in crate::guard) fn let_probes_in(&self, probes: u32, free_kib: u64) {
        if probes > 0 {
            let is_used = |_: &u32| self.limiter.probe_oldest(&self.bounds, Some(free_kib));
            let used = (0..probes).take_while(is_used).count();
            self.bounds.set_probes(probes - used as u32);
        }
    }

    /// After a full sample: takes back what nobody has come for, and ends what has stalled.
    pub(in crate::guard) fn tidy_up(&self, now: Duration) {
        // Somebody may have joined the queue while it was closed and emptied.
        if self.is_closed() {
            self.limiter.refuse_all(&self.bounds, Reason::Closed);
        } else if self.live.only_observes() {
            self.let_all_in();
        }
        self.limiter.pass_on_unclaimed(now);
        for kib in self.ready.take_back(now) {
            self.release(kib);
        }
        if let Some(timeout) = self.config().body_timeout {
            let stalled = self.deliveries.end_stalled(timeout, now);
            self.counters.stalled(stalled);
        }
    }

    /// Gives back what was never used, and nobody classified.
    #[inline]
    pub(crate) fn release(&self, kib: u64) {
        self.limiter.cancel(&self.bounds, kib, Tag::NONE);
    }
}
