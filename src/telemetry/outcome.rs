//! What became of requests.
//!
//! Each request that came has one outcome, or is in flight. A rejection is one, by its
//! reason; so is a caller that was gone before it was served, and of those that were
//! admitted what their permit was marked with first.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use http::Response;

use crate::sync::sharded::ShardedCounters;

/// One in so many that end, of each thread, is told to be one.
const ONE_IN: u64 = 1024;

/// What became of a request that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// Whatever the answer said; work that is no request is done.
    Answered,
    /// The service returned an error, its body did, or it panicked.
    Failed,
    /// Its caller was gone before the answer's end, or did not read it.
    Abandoned,
    /// Turned away all the same, and counted with the reason for it.
    TurnedAway,
}

impl Outcome {
    /// As the statistics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Answered => "completed",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
            Outcome::TurnedAway => "rejected",
        }
    }
}

/// A permit's outcome; the first that is set stands.
#[derive(Debug, Default)]
pub(crate) struct Mark(AtomicU8);

impl Clone for Mark {
    fn clone(&self) -> Self {
        Self(AtomicU8::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Mark {
    /// Relaxed: whoever ends the permit has it from those that marked it. Of two that do at
    /// the same time either stands. `false`: something had become of it before.
    pub(crate) fn set(&self, outcome: Outcome) -> bool {
        let is_first = self.0.load(Ordering::Relaxed) == Outcome::Answered as u8;
        if is_first {
            self.0.store(outcome as u8, Ordering::Relaxed);
        }
        is_first
    }

    #[inline]
    pub(crate) fn get(&self) -> Outcome {
        match self.0.load(Ordering::Relaxed) {
            0 => Outcome::Answered,
            1 => Outcome::Failed,
            2 => Outcome::Abandoned,
            _ => Outcome::TurnedAway,
        }
    }
}

/// Beside the outcomes a thread counts callers that were gone before the answer's end,
/// while the work may go on.
const GIVEN_UP: usize = 4;

/// How many requests had each outcome, but for rejections. They only rise.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// Permits by their outcome, and those that were given up.
    ended: ShardedCounters<5>,
    /// Requests that were turned away after they were admitted; the permits of some may
    /// be held still, or end as another outcome.
    late: AtomicU64,
    abandoned_waiting: AtomicU64,
}

impl Outcomes {
    /// A permit was given back. Says of one in a thousand that it is one.
    #[inline]
    pub(crate) fn ended(&self, outcome: Outcome) -> bool {
        self.ended.add_at(outcome as usize, 1) % ONE_IN == 0
    }

    /// The caller of a request that was admitted is gone.
    pub(crate) fn given_up(&self) {
        self.ended.add_at(GIVEN_UP, 1);
    }

    pub(crate) fn turned_away_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn abandoned_waiting(&self) {
        self.abandoned_waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// As if no request had come so far.
    pub(crate) fn forget(&self) {
        self.ended.clear();
        self.late.store(0, Ordering::Relaxed);
        self.abandoned_waiting.store(0, Ordering::Relaxed);
    }

    /// Permits that were given back.
    pub(crate) fn all_ended(&self) -> u64 {
        self.ended.totals()[..GIVEN_UP].iter().sum()
    }

    /// Callers of requests that were admitted that were gone before the answer's end.
    pub(crate) fn all_given_up(&self) -> u64 {
        self.ended.totals()[GIVEN_UP]
    }

    pub(crate) fn totals(&self) -> Totals {
        // In this order: one that is turned away in between is not missed twice.
        let [answered, failed, abandoned, turned_away, _] = self.ended.totals();
        let late = self.late.load(Ordering::Relaxed);
        Totals {
            answered,
            failed,
            abandoned,
            abandoned_waiting: self.abandoned_waiting.load(Ordering::Relaxed),
            twice: late.saturating_sub(turned_away),
        }
    }
}

/// [`Outcomes`] at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) abandoned: u64,
    pub(crate) abandoned_waiting: u64,
    /// Among the rejected, and among the active or those with another outcome too.
    pub(crate) twice: u64,
}

impl Totals {
    /// All requests that came and are not in flight, of which so many were rejected.
    pub(crate) fn sum(&self, rejected: u64) -> u64 {
        let all = self.answered + self.failed + self.abandoned + self.abandoned_waiting;
        (all + rejected).saturating_sub(self.twice)
    }
}

/// In the extensions of a response that stands in the place of a result that is too large:
/// which guard refused it.
#[derive(Clone, Copy)]
struct RefusedResult(usize);

/// Marks a response, so that its request is not counted as answered as well.
#[cfg(feature = "json")]
pub(crate) fn refused_result<B>(mut response: Response<B>, by: usize) -> Response<B> {
    response.extensions_mut().insert(RefusedResult(by));
    response
}

#[inline]
pub(crate) fn refused_by<B>(response: &Response<B>) -> Option<usize> {
    let refused = response.extensions().get::<RefusedResult>();
    refused.map(|RefusedResult(by)| *by)
}
