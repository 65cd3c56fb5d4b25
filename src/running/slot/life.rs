//! How far a slot's life is, in one word with what is said of the request that has it.
//!
//! ```text
//! Free ── begin ──▶ New ── found ──▶ Seen ── end ──▶ Ended ── free ──▶ Free, for the next
//!                    └── end ──▶ Free, for the next: no look has to take note
//! ```
//!
//! The word's *generation* counts the requests that had the slot, so that who means one of
//! them does not hit another.

use crate::sync::{AtomicU64, Ordering};

const PHASE: u64 = 3;
/// Nobody's; or it is about to be made ready for the next.
const FREE: u64 = 0;
/// Taken, and no look has found it yet.
const NEW: u64 = 1;
/// Taken, and known to the regulator.
const SEEN: u64 = 2;
/// Over; the regulator has not taken note yet: Seen with one bit more.
const ENDED: u64 = 3;

/// Told to stop, which only a request in flight is whose response has not begun.
const CANCELLED: u64 = 1 << 2;

/// What is said of a request, by who works for it and at any time while that lasts.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Fact {
    /// Its response has begun: too late to tell it to stop.
    Answered = 1 << 3,
    /// Nobody waits for it any more: it ends before its time, so its peak says little.
    Abandoned = 1 << 4,
    /// Somebody is woken when it is told to stop.
    Watched = 1 << 5,
    /// Its need was declared, not estimated: it says nothing about others.
    Declared = 1 << 6,
    /// The work itself asked for more than was estimated.
    Grown = 1 << 7,
    /// Its work has not begun, and at most its body is there: it says nothing about others.
    Staged = 1 << 8,
    /// It is paused, or has been.
    Paused = 1 << 9,
    /// It comes to checkpoints, which tell it to stop.
    Checked = 1 << 10,
    /// Of one of its polls no allocator told what it added: it may hold more than is known.
    Untold = 1 << 11,
    /// Some of its work, now or before, nobody polled, and it came to no checkpoint.
    Unheld = 1 << 12,
}

/// One request after the other, from [`FREE`] on.
#[derive(Debug, Default)]
pub(in crate::running) struct Life(AtomicU64);

impl Life {
    /// Acquire: who finds a request in flight sees what it began with.
    #[inline]
    pub(in crate::running) fn get(&self) -> Status {
        Status(self.0.load(Ordering::Acquire))
    }

    /// Free → New, by who has taken the slot: nobody else changes it meanwhile.
    #[inline]
    pub(super) fn begin(&self) {
        let free = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(free & PHASE, FREE);
        self.0.store(free | NEW, Ordering::Release);
    }

    /// New → Seen, by a look. What it was before, unless it was free.
    pub(in crate::running) fn found(&self) -> Option<Status> {
        let seen = |word| Status(word).is_new().then_some(word ^ NEW ^ SEEN);
        let found = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, seen);
        let (Ok(was) | Err(was)) = found;
        (was & PHASE != FREE).then_some(Status(was))
    }

    /// New or Seen, and not answered: told to stop, if it is the one that is meant. `false`:
    /// too late.
    pub(super) fn cancel(&self, generation: u32) -> bool {
        let in_time = |word| {
            let now = Status(word);
            let same = now.is_in_flight() && now.generation() == generation;
            (same && !now.is(Fact::Answered)).then_some(word | CANCELLED)
        };
        let told = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, in_time);
        told.is_ok()
    }

    #[inline]
    pub(super) fn say(&self, fact: Fact) {
        self.0.fetch_or(fact as u64, Ordering::AcqRel);
    }

    pub(super) fn unsay(&self, fact: Fact) {
        self.0.fetch_and(!(fact as u64), Ordering::AcqRel);
    }

    /// New → Free, and says what it was: nobody else will. Seen → Ended, until a look has
    /// taken note. `was`: as it was just now, in flight.
    #[inline]
    pub(super) fn end(&self, mut was: Status) -> Option<Status> {
        while was.0 & SEEN == 0 {
            let next = was.next().0;
            match (self.0).compare_exchange(was.0, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(was),
                Err(now) => was = Status(now),
            }
        }
        self.0.fetch_or(ENDED, Ordering::AcqRel);
        None
    }

    /// Ended → Free, by the look that found it: nobody else changes it meanwhile.
    pub(super) fn free(&self) -> Status {
        let ended = self.get();
        debug_assert!(ended.has_ended());
        self.0.store(ended.next().0, Ordering::Release);
        ended.next()
    }
}

/// A life at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status(u64);

impl Status {
    #[inline]
    pub(in crate::running) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Free, of the next generation, and nothing said of that yet.
    #[inline]
    pub(super) fn next(self) -> Self {
        Self((self.0 | u64::from(u32::MAX)).wrapping_add(1))
    }

    /// Taken, and no look has found it before.
    #[inline]
    pub(crate) fn is_new(self) -> bool {
        self.0 & PHASE == NEW
    }

    pub(in crate::running) fn is_in_flight(self) -> bool {
        matches!(self.0 & PHASE, NEW | SEEN)
    }

    pub(crate) fn has_ended(self) -> bool {
        self.0 & PHASE == ENDED
    }

    #[inline]
    pub(crate) fn is(self, fact: Fact) -> bool {
        self.0 & fact as u64 != 0
    }

    /// Told to stop before its response began.
    #[inline]
    pub(in crate::running) fn is_cancelled(self) -> bool {
        self.0 & (CANCELLED | Fact::Answered as u64) == CANCELLED
    }

    /// It can be told to stop, and was not.
    pub(in crate::running) fn may_be_told(self) -> bool {
        let told = self.0 & CANCELLED != 0;
        self.is_in_flight() && self.is(Fact::Watched) && !told && !self.is(Fact::Answered)
    }

    /// It ended, or will, before its time.
    #[inline]
    pub(crate) fn was_cut_short(self) -> bool {
        self.0 & (CANCELLED | Fact::Abandoned as u64) != 0
    }

    /// What it holds is of no work, or of work that is not like others'.
    #[inline]
    pub(crate) fn says_nothing(self) -> bool {
        self.0 & (Fact::Declared as u64 | Fact::Staged as u64) != 0
    }
}

/// Of the last generation there is.
const NOBODYS: u64 = u64::MAX;

/// A number that is said of one of the requests that had the slot, and of which: whoever has
/// it next is told nothing.
#[derive(Debug)]
pub(in crate::running) struct ForGeneration(AtomicU64);

impl Default for ForGeneration {
    fn default() -> Self {
        Self(AtomicU64::new(NOBODYS))
    }
}

impl ForGeneration {
    pub(in crate::running) fn set(&self, generation: u32, number: u32) {
        let word = u64::from(generation) << 32 | u64::from(number);
        self.0.store(word, Ordering::Release);
    }

    /// Nothing is said of any.
    pub(in crate::running) fn unset(&self) {
        self.0.store(NOBODYS, Ordering::Release);
    }

    /// What was said last, if it was of this one.
    pub(in crate::running) fn get(&self, generation: u32) -> Option<u32> {
        let word = self.0.load(Ordering::Acquire);
        (word >> 32 == u64::from(generation)).then_some(word as u32)
    }
}
