//! A place in the queue.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::bounds::{Bounds, Need};
use super::lanes::CRITICAL;
use super::queue::{Queue, State, lane};
use super::{Limiter, Wakers};
use crate::error::Reason;
use crate::sync::{Ordering, lock};

/// A place in the queue of a [`Limiter`].
///
/// Cancel safety: dropping it gives up the place, or a grant that was not
/// claimed yet, and lets the next ones in.
#[derive(Debug)]
pub(crate) struct Ticket {
    limiter: Arc<Limiter>,
    bounds: Arc<Bounds>,
    key: usize,
    /// The answer was handed out; nothing is left to give back.
    claimed: bool,
}

/// How one waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Most that wait for the guard.
    pub(crate) most_waiting: usize,
    /// Who would surely wait longer does not begin to.
    pub(crate) deadline: Duration,
}

/// Why one may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// How long the wait would have been, if that is known.
    pub(crate) expected: Option<Duration>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            expected: None,
        }
    }
}

impl Ticket {
    /// Joins the queue.
    ///
    /// A queue that is full takes a waiter in the place of one that comes after it, or
    /// of one whose tenant has more in the queue for its weight.
    pub(crate) fn join(
        limiter: &Arc<Limiter>,
        bounds: &Arc<Bounds>,
        need: Need,
        terms: Terms,
    ) -> Result<Self, Refusal> {
        let mut wakers = Wakers::default();
        let now_ms = limiter.now_ms();
        let mut queue = lock(&limiter.queue);
        let expected_ms = queue.expected_ms(bounds, need);
        // It joins first: another guard's waiters may be all that is in its way.
        let key = queue.join(bounds, need, expected_ms, now_ms);
        limiter.enqueued(&mut queue, key, &mut wakers);
        let refused = limiter.turned_away(&mut queue, key, need, terms, &mut wakers);
        if refused.is_some() {
            queue.leave(key, now_ms);
            limiter.count_waiting(&queue);
        }
        drop(queue);
        wakers.wake();
        match refused {
            Some(reason) => Err(Refusal {
                reason,
                expected: expected_ms.map(Duration::from_millis),
            }),
            None => Ok(Self {
                limiter: Arc::clone(limiter),
                bounds: Arc::clone(bounds),
                key,
                claimed: false,
            }),
        }
    }

    /// What was decided at once, without waiting for it.
    pub(crate) fn claim(mut self) -> Option<u64> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome.ok(),
            Poll::Pending => None,
        }
    }

    /// Ready with `Ok` once so many KiB are reserved; the caller then owns the
    /// reservation. Must not be polled after it was ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        let mut wakers = Wakers::default();
        let mut waker = cx.waker().clone();
        let now_ms = self.limiter.now_ms();
        let mut queue = lock(&self.limiter.queue);
        if matches!(queue.waiters[self.key].state, State::PassedOn) {
            queue.rejoin(self.key);
            self.limiter.enqueued(&mut queue, self.key, &mut wakers);
        }
        let settled = match queue.waiters[self.key].state {
            State::Granted { kib, .. } => Some(Ok(kib)),
            State::Refused(reason) => Some(Err(reason)),
            State::Waiting | State::PassedOn => None,
        };
        std::mem::swap(&mut queue.waiters[self.key].waker, &mut waker);
        let left = settled.map(|_| queue.leave(self.key, now_ms));
        drop(queue);
        self.claimed = left.is_some();
        // Wakers are dropped, and others are woken, only now.
        drop((waker, left));
        wakers.wake();
        settled.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.claimed {
            return;
        }
        let mut wakers = Wakers::default();
        let now_ms = self.limiter.now_ms();
        let mut queue = lock(&self.limiter.queue);
        let was_first = queue.is_first(self.key);
        let left = queue.leave(self.key, now_ms);
        if let State::Granted { kib, .. } = left.state {
            let tag = left.need.tag();
            let released = self
                .limiter
                .ledger
                .cancel_need(&self.bounds, kib, left.need);
            if released.of_tenant {
                queue.unpark(&self.bounds, tag.tenant);
            }
        }
        // The next one may fit where this one did not.
        if was_first || matches!(left.state, State::Granted { .. }) {
            self.limiter.pump_locked(&mut queue, &mut wakers);
        } else {
            self.limiter.count_waiting(&queue);
        }
        drop(queue);
        drop(left);
        wakers.wake();
    }
}

impl Limiter {
    /// Somebody has begun to wait.
    fn enqueued(&self, queue: &mut Queue, key: usize, wakers: &mut Wakers) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The flag first, then the attempt: what was released before the flag
        // is seen by the attempt, what is released after it sees the flag.
        self.ledger.set_waiters();
        // Behind others it is not its turn, unless nobody's end will help those.
        if queue.is_first(key) || self.ledger.only_staged() {
            self.pump_locked(queue, wakers);
        } else {
            self.count_waiting(queue);
        }
    }

    /// Why somebody who has just joined may not stay.
    fn turned_away(
        &self,
        queue: &mut Queue,
        key: usize,
        need: Need,
        terms: Terms,
        wakers: &mut Wakers,
    ) -> Option<Reason> {
        if !matches!(queue.waiters[key].state, State::Waiting) || lane(need) <= CRITICAL {
            return None;
        }
        let too_long = |least_ms| Duration::from_millis(least_ms) > terms.deadline;
        let is_too_long = queue.least_wait_ms(key).is_some_and(too_long);
        if is_too_long && !queue.is_newest_first(key, self.now_ms()) {
            return Some(Reason::WaitTooLong);
        }
        if self.waiting_for(&queue.waiters[key].bounds) <= terms.most_waiting {
            return None;
        }
        match queue.displaced_by(key) {
            Some(displaced) => {
                let was_first = queue.is_first(displaced);
                wakers.push(queue.refuse(displaced, Reason::QueueFull));
                match was_first {
                    // The next one may fit where this one did not.
                    true => self.pump_locked(queue, wakers),
                    false => self.count_waiting(queue),
                }
                None
            }
            None => Some(Reason::QueueFull),
        }
    }
}
