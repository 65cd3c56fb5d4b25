//! From a request to a permit, a place in the queue, or a rejection.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use crate::controller::{Controller, WAITING_INTERVAL};
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Mode, Need, Refused, Ticket, kib};
use crate::permit::Permit;
use crate::running::Slot;

/// How much memory a piece of work needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cost {
    /// What the guard estimates.
    #[default]
    Estimated,
    /// So many bytes.
    Bytes(u64),
}

impl From<u64> for Cost {
    fn from(bytes: u64) -> Self {
        Self::Bytes(bytes)
    }
}

/// What became of a request.
pub(crate) enum Admission {
    Admitted(Permit),
    Waiting(Waiting),
    Rejected(Rejected),
}

impl Controller {
    /// The fast path: a few loads and a compare-and-swap.
    ///
    /// Always inlined, so that the permit is made where it is to stay: moving it
    /// there cost more than the compare-and-swap.
    #[inline(always)]
    pub(crate) fn admit(&'static self, cost: Cost) -> Admission {
        let ask = self.ask(cost);
        match self.limiter.try_reserve(&self.bounds, ask, Mode::Newcomer) {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => self.admit_slowly(cost, ask, refused),
        }
    }

    /// Admission by this guard's count alone: another one on the same ledger
    /// holds the bytes.
    pub(crate) fn admit_counted(&'static self) -> Admission {
        // The gate does not hold what another guard has admitted; closing does.
        if self.is_closed() {
            return self.rejected(Reason::Closed);
        }
        let ask = Ask { kib: 0, low_kib: 0 };
        match self.limiter.try_reserve(&self.bounds, ask, Mode::Newcomer) {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => self
                .admit_at_once(Cost::Estimated, ask, refused)
                .unwrap_or_else(|| self.wait(Need::Known(ask))),
        }
    }

    /// Keeps track of work for which so much is reserved.
    #[inline]
    pub(crate) fn track(&self, kib: u64) -> Option<&Slot> {
        self.running.take(kib, self.sampler.tick())
    }

    /// Gives back what was never used.
    #[inline]
    pub(crate) fn release(&self, kib: u64) {
        self.counters.completed.increment();
        self.limiter.release(&self.bounds, kib);
    }

    /// The work is over, and its memory free unless the allocator keeps it.
    #[inline]
    pub(crate) fn finish(&self, kib: u64, slot: Option<&Slot>) {
        self.counters.completed.increment();
        let mut kib = kib;
        if let Some(slot) = slot {
            // It may have grown.
            kib = slot.reserved_kib();
            self.running.end(slot);
        }
        if self.limiter.finish(&self.bounds, kib) {
            self.sampler.settle();
        }
    }

    #[inline]
    fn ask(&self, cost: Cost) -> Ask {
        match cost {
            Cost::Estimated => self.bounds.estimate(),
            // A declared cost is known, so it is also the least.
            Cost::Bytes(bytes) => Ask {
                kib: kib(bytes),
                low_kib: kib(bytes),
            },
        }
    }

    #[inline]
    fn permit(&'static self, ask: Ask, first: bool) -> Permit {
        if first {
            // Work begins: the sampler must not doze through it.
            self.sampler.kick();
        }
        Permit::new(self, ask.kib)
    }

    #[inline]
    fn admitted(&'static self, ask: Ask, first: bool) -> Admission {
        Admission::Admitted(self.permit(ask, first))
    }

    /// Admission, or a rejection in place of a wait.
    pub(crate) fn admit_now(&'static self, cost: Cost) -> Result<Permit, Rejected> {
        let ask = self.ask(cost);
        let refused = match self.limiter.try_reserve(&self.bounds, ask, Mode::Newcomer) {
            Ok(first) => return Ok(self.permit(ask, first)),
            Err(refused) => refused,
        };
        match self.admit_at_once(cost, ask, refused) {
            Some(Admission::Admitted(permit)) => return Ok(permit),
            Some(Admission::Rejected(rejected)) => return Err(rejected),
            _ => {}
        }
        // Those who wait may all be another guard's: only the queue knows.
        let ticket = Ticket::join(&self.limiter, &self.bounds, Need::Known(ask), usize::MAX);
        match ticket.ok().and_then(Ticket::claim) {
            Some(kib) => Ok(Permit::new(self, kib)),
            None => Err(self.reject(Reason::WaitTimeout)),
        }
    }

    #[cold]
    fn admit_slowly(&'static self, cost: Cost, ask: Ask, refused: Refused) -> Admission {
        self.admit_at_once(cost, ask, refused).unwrap_or_else(|| {
            self.wait(match cost {
                Cost::Estimated => Need::Estimated,
                Cost::Bytes(_) => Need::Known(ask),
            })
        })
    }

    /// What can be said without waiting. `None`: it has to wait.
    fn admit_at_once(
        &'static self,
        cost: Cost,
        ask: Ask,
        mut refused: Refused,
    ) -> Option<Admission> {
        if refused == Refused::Stale {
            self.sampler.refresh();
            match self.limiter.try_reserve(&self.bounds, ask, Mode::Refreshed) {
                Ok(first) => return Some(self.admitted(ask, first)),
                Err(again) => refused = again,
            }
        }
        if self.is_closed() {
            return Some(self.rejected(Reason::Closed));
        }
        if self.only_observes() {
            self.counters.observed.fetch_add(1, Ordering::Relaxed);
            return Some(self.forced(ask));
        }
        if matches!(cost, Cost::Bytes(bytes) if bytes > self.limit_bytes()) {
            return Some(self.rejected(Reason::NeverFits));
        }
        let held_back = matches!(refused, Refused::Gate | Refused::Bytes);
        if held_back && self.bounds.take_probe() {
            return Some(self.forced(ask));
        }
        (refused == Refused::Gate).then(|| self.rejected(Reason::CriticalPressure))
    }

    /// Admits past the bounds, as long as the ledger's word can count it.
    fn forced(&'static self, ask: Ask) -> Admission {
        match self.limiter.try_reserve(&self.bounds, ask, Mode::Force) {
            Ok(first) => self.admitted(ask, first),
            Err(_) => self.rejected(Reason::QueueFull),
        }
    }

    fn rejected(&self, reason: Reason) -> Admission {
        Admission::Rejected(self.reject(reason))
    }

    fn wait(&'static self, need: Need) -> Admission {
        match Ticket::join(&self.limiter, &self.bounds, need, self.config.max_waiting) {
            Ok(ticket) => {
                self.counters.queued.fetch_add(1, Ordering::Relaxed);
                self.sampler.wake_if_older(WAITING_INTERVAL);
                Admission::Waiting(Waiting {
                    ticket,
                    sleep: Box::pin(tokio::time::sleep(self.config.wait_timeout)),
                    controller: self,
                })
            }
            Err(reason) => self.rejected(reason),
        }
    }
}

/// A request in the queue, with its deadline.
///
/// Cancel safety: dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    sleep: Pin<Box<Sleep>>,
    controller: &'static Controller,
}

impl Future for Waiting {
    type Output = Result<Permit, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.ticket.poll(cx) {
            Poll::Ready(Ok(kib)) => return Poll::Ready(Ok(Permit::new(self.controller, kib))),
            Poll::Ready(Err(reason)) => return Poll::Ready(Err(self.controller.reject(reason))),
            Poll::Pending => {}
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(self.controller.reject(Reason::WaitTimeout))),
            Poll::Pending => Poll::Pending,
        }
    }
}
