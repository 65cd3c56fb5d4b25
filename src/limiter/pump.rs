//! Letting waiters in, in their turn.

use super::Limiter;
use super::bounds::{Ask, Need};
use super::checks::Attempt;
use super::lanes::{CRITICAL, LANES, NEED_MORE, NESTED};
use super::ledger::Refused;
use super::queue::Queue;
use crate::sync::{Ordering, fence};

impl Limiter {
    pub(super) fn pump_locked(&self, queue: &mut Queue) {
        if queue.len() > 0 {
            // SeqCst, here and where a count was raised for a moment: either the attempts
            // below see that it is down again, or who raised it sees that somebody waits.
            fence(Ordering::SeqCst);
            let mut lanes = NESTED..LANES;
            while let Some(lane) = lanes.next() {
                if queue.lanes[lane].waiting > 0 && !self.pump_lane(queue, lane) {
                    // Where all that critical work waits for are bodies, those go on, or
                    // neither would; and nobody behind them.
                    lanes.end = match lane == CRITICAL && self.ledger.only_staged() {
                        true => CRITICAL + NEED_MORE + 1,
                        false => lane,
                    };
                }
            }
            queue.put_back();
        }
        self.count_waiting(queue);
    }

    /// `false` if nothing is left for the lanes behind.
    fn pump_lane(&self, queue: &mut Queue, lane: usize) -> bool {
        let mut next = queue.next_in(lane);
        while let Some(candidate) = next {
            let ask = queue.waiters[candidate.key].ask();
            match self.try_waiter(queue, candidate.key, ask) {
                Ok(_) => queue.grant(candidate, ask.kib),
                Err(Refused::Quota) => queue.park(candidate),
                // Its own guard holds it back: the waiters of others may pass it.
                Err(Refused::Gate | Refused::Count) if self.shared() => {
                    queue.set_aside(candidate);
                }
                // Too large even with nothing in flight: no release can help it, but less may
                // be in use for others.
                Err(Refused::Bytes) if self.no_end_helps(queue, candidate.key) => {
                    self.lacks_bytes.store(true, Ordering::Relaxed);
                    next = queue.behind(candidate);
                    if next.is_some() {
                        continue;
                    }
                    queue.set_aside(candidate);
                }
                // Memory holds it back: nobody passes, or large requests would starve.
                Err(refused) => {
                    let lacks_bytes = refused == Refused::Bytes;
                    self.lacks_bytes.store(lacks_bytes, Ordering::Relaxed);
                    return false;
                }
            }
            next = queue.next_in(lane);
        }
        true
    }

    pub(super) fn attempt(
        &self,
        queue: &Queue,
        key: usize,
        ask: Ask,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        let waiter = &queue.waiters[key];
        let operation = waiter.need.operation();
        self.ledger.reserve(&waiter.bounds, ask, operation, attempt)
    }

    fn try_waiter(&self, queue: &Queue, key: usize, ask: Ask) -> Result<bool, Refused> {
        let attempt = || self.attempt(queue, key, ask, Attempt::FromQueue);
        match attempt() {
            Err(Refused::Quota) => {
                // The flag first, then the attempt: what was given back before the flag
                // is seen by the attempt, what is given back after it sees the flag.
                let bounds = &queue.waiters[key].bounds;
                bounds.tenants.park(ask.tag.tenant);
                attempt()
            }
            outcome => outcome,
        }
    }

    /// No release can help somebody in the queue: nothing is in flight, only others that
    /// wait for the same, or what would not leave enough if all of it ended.
    pub(super) fn no_end_helps(&self, queue: &Queue, key: usize) -> bool {
        let waiter = &queue.waiters[key];
        let more = matches!(waiter.need, Need::More { .. });
        let most_free_kib = waiter.bounds.free_if_all_end(self.ledger.load().kib());
        self.ledger.is_idle()
            || (more && self.ledger.only_staged())
            || waiter.ask().low_kib > most_free_kib
    }

    /// Brings the count and the flag in the word in line with the queue.
    pub(super) fn count_waiting(&self, queue: &Queue) {
        let waiting = u32::try_from(queue.len()).unwrap_or(u32::MAX);
        let before = self.waiting.swap(waiting, Ordering::Relaxed);
        if waiting == 0 && before != 0 {
            self.ledger.clear_waiters();
        }
    }
}
