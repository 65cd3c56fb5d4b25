//! A place in the queue.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::Limiter;
use super::bounds::{Bounds, Need};
use super::queue::{Settled, Waiting};
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
    need: Need,
    number: u64,
    /// The answer was handed out; nothing is left to give back.
    claimed: bool,
}

impl Ticket {
    /// Joins the queue, unless `most_waiting` wait already.
    pub(crate) fn join(
        limiter: &Arc<Limiter>,
        bounds: &Arc<Bounds>,
        need: Need,
        most_waiting: usize,
    ) -> Result<Self, Reason> {
        let mut wake = Vec::new();
        let mut queue = lock(&limiter.queue);
        let number = queue.next_ticket();
        let waker = Waker::noop().clone();
        // It joins first: another guard's waiters may be all that is in its way.
        limiter.enqueue(&mut queue, number, bounds, need, waker, &mut wake);
        let waits = queue.waiting.contains_key(&number);
        let full = waits && limiter.shared_waiting(&queue, bounds) > most_waiting;
        if full {
            queue.waiting.remove(&number);
            limiter.count_waiting(&queue);
        }
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
        if full {
            return Err(Reason::QueueFull);
        }
        Ok(Self {
            limiter: Arc::clone(limiter),
            bounds: Arc::clone(bounds),
            need,
            number,
            claimed: false,
        })
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
        let mut wake = Vec::new();
        let mut waker = cx.waker().clone();
        let mut queue = lock(&self.limiter.queue);
        let mut settled = queue.take_settled(self.number);
        if settled.is_none() {
            match queue.waiting.get_mut(&self.number) {
                Some(waiting) => std::mem::swap(&mut waiting.waker, &mut waker),
                // A grant was passed on because nobody claimed it: wait again,
                // in the same place, unless there is room at once.
                None => {
                    let waker = std::mem::replace(&mut waker, Waker::noop().clone());
                    let (bounds, need) = (&self.bounds, self.need);
                    self.limiter
                        .enqueue(&mut queue, self.number, bounds, need, waker, &mut wake);
                    settled = queue.take_settled(self.number);
                }
            }
        }
        drop(queue);
        // The replaced waker is dropped, and others are woken, only now.
        drop(waker);
        wake.into_iter().for_each(Waker::wake);
        match settled {
            None => Poll::Pending,
            Some(outcome) => {
                self.claimed = true;
                Poll::Ready(match outcome {
                    Settled::Granted { kib, .. } => Ok(kib),
                    Settled::Refused(reason) => Err(reason),
                })
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.claimed {
            return;
        }
        let mut wake = Vec::new();
        let mut queue = lock(&self.limiter.queue);
        let left = queue.waiting.remove(&self.number);
        if let Some(Settled::Granted { kib, .. }) = queue.take_settled(self.number) {
            self.limiter.ledger.release(&self.bounds, kib);
        }
        // The next one may fit where this one did not.
        self.limiter.pump_locked(&mut queue, &mut wake);
        drop(queue);
        drop(left);
        wake.into_iter().for_each(Waker::wake);
    }
}

impl Limiter {
    fn shared_waiting(&self, queue: &super::Queue, bounds: &Arc<Bounds>) -> usize {
        if self.shared() {
            queue.waiting_for(bounds)
        } else {
            queue.waiting.len()
        }
    }

    fn enqueue(
        &self,
        queue: &mut super::Queue,
        number: u64,
        bounds: &Arc<Bounds>,
        need: Need,
        waker: Waker,
        wake: &mut Vec<Waker>,
    ) {
        queue.waiting.insert(
            number,
            Waiting {
                bounds: Arc::clone(bounds),
                need,
                waker,
            },
        );
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The flag first, then the attempt: what was released before the flag
        // is seen by the attempt, what is released after it sees the flag.
        self.ledger.set_waiters();
        self.pump_locked(queue, wake);
    }
}
