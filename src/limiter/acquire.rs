//! A place in the queue.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Limiter;
use super::bounds::{Bounds, Need};
use super::lanes::CRITICAL;
use super::queue::{Queue, State, lane};
use crate::error::Reason;
use crate::sync::Ordering;

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

impl Limiter {
    /// Begins to wait; the key of the place, which is left once it was
    /// [ready](Self::poll_wait), or by [`stop_waiting`](Self::stop_waiting).
    ///
    /// Who would surely wait for longer than the deadline does not begin to. A queue that is
    /// full takes a waiter in the place of one that comes after it, or of one whose tenant has
    /// more in the queue for its weight. Without a deadline it only looks what its turn brings
    /// at once, and turns nobody away. Its wait begins now, which may be long after the last
    /// sample.
    pub(crate) fn wait(
        &self,
        bounds: &Arc<Bounds>,
        need: Need,
        now: Duration,
        deadline: Option<Duration>,
    ) -> Result<usize, Refusal> {
        self.change(|queue| {
            queue.pass_time(now);
            // Who does not stay says nothing of waits.
            let expected_ms = deadline.and_then(|_| queue.expected_ms(bounds, need));
            // It joins first: another guard's waiters may be all that is in its way.
            let key = queue.join(bounds, need, expected_ms);
            self.enqueued(queue, key);
            let Some(reason) = deadline.and_then(|within| self.turned_away(queue, key, within))
            else {
                return Ok(key);
            };
            queue.leave(key);
            self.count_waiting(queue);
            let expected = expected_ms.map(Duration::from_millis);
            Err(Refusal { reason, expected })
        })
    }

    /// What its turn brings at once: those who wait may all be another guard's.
    pub(crate) fn reserve_in_turn(&self, bounds: &Arc<Bounds>, need: Need) -> Option<u64> {
        // It does not wait, so that it needs no clock.
        let key = self.wait(bounds, need, Duration::ZERO, None).ok()?;
        match self.poll_wait(key, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome.ok(),
            Poll::Pending => {
                self.stop_waiting(key);
                None
            }
        }
    }

    /// Ready with `Ok` once so many KiB are reserved; the caller then owns the
    /// reservation. The place is left when it is ready.
    pub(crate) fn poll_wait(&self, key: usize, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        let mut waker = cx.waker().clone();
        let (settled, _left) = self.change(|queue| {
            if matches!(queue.waiters[key].state, State::PassedOn) {
                queue.rejoin(key);
                self.enqueued(queue, key);
            }
            let settled = match queue.waiters[key].state {
                State::Granted { kib, .. } => Some(Ok(kib)),
                State::Refused(reason) => Some(Err(reason)),
                State::Waiting | State::PassedOn => None,
            };
            std::mem::swap(&mut queue.waiters[key].waker, &mut waker);
            (settled, settled.map(|_| queue.leave(key)))
        });
        settled.map_or(Poll::Pending, Poll::Ready)
    }

    /// Gives up a place, or a grant that was not claimed yet, and lets the next ones in.
    pub(crate) fn stop_waiting(&self, key: usize) {
        let _left = self.change(|queue| {
            let was_next = queue.is_next(key);
            let left = queue.leave(key);
            if let State::Granted { kib, .. } = left.state {
                self.pass_on(queue, &left.bounds, kib, left.need);
            }
            self.changed(
                queue,
                was_next || matches!(left.state, State::Granted { .. }),
            );
            left
        });
    }

    /// What was granted and not claimed.
    pub(super) fn pass_on(&self, queue: &mut Queue, bounds: &Bounds, kib: u64, need: Need) {
        if self.ledger.cancel_need(bounds, kib, need).of_tenant {
            queue.unpark(bounds, need.tag().tenant);
        }
    }

    /// Somebody came or left. `turns`: it, or the one behind it, may fit where those before
    /// did not.
    fn changed(&self, queue: &mut Queue, turns: bool) {
        match turns {
            true => self.pump_locked(queue),
            false => self.count_waiting(queue),
        }
    }

    fn enqueued(&self, queue: &mut Queue, key: usize) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The flag first, then the attempt: what was released before the flag
        // is seen by the attempt, what is released after it sees the flag.
        self.ledger.set_waiters();
        // Behind others it is not its turn, unless nobody's end will help those.
        let next = queue.next_of(queue.waiters[key].flow);
        let passes = || next.is_some_and(|next| self.no_end_helps(queue, next));
        let turns = queue.is_next(key) || self.ledger.only_staged() || passes();
        self.changed(queue, turns);
    }

    /// Why somebody who has just joined may not stay.
    fn turned_away(&self, queue: &mut Queue, key: usize, deadline: Duration) -> Option<Reason> {
        let waiter = &queue.waiters[key];
        if !matches!(waiter.state, State::Waiting) || lane(waiter.need) <= CRITICAL {
            return None;
        }
        let too_long = |least_ms| Duration::from_millis(least_ms) > deadline;
        let is_too_long = queue.least_wait_ms(key).is_some_and(too_long);
        if is_too_long && !queue.goes_newest_first(queue.waiters[key].flow) {
            return Some(Reason::WaitTooLong);
        }
        if !queue.waiters[key].bounds.has_too_many_waiters() {
            return None;
        }
        let Some(displaced) = queue.displaced_by(key) else {
            return Some(Reason::QueueFull);
        };
        let was_next = queue.is_next(displaced);
        queue.refuse(displaced, Reason::QueueFull);
        self.changed(queue, was_next);
        None
    }
}
