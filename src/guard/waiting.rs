//! [`Waiting`]: a request in the queue.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::permit::Permit;
use super::state::State;
use crate::class::tag::Tag;
use crate::error::{Reason, Rejected};
use crate::limiter::Need;
use crate::telemetry::logs;

/// A request in the queue, with its deadline.
///
/// Cancel safety: dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    tag: Tag,
    since: Instant,
    sleep: Pin<Box<Sleep>>,
    state: &'static State,
    key: usize,
    /// `None`: it is over.
    counts: Option<Counts>,
}

/// What a wait is in the totals, where it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    AsRequest,
    /// A request that was admitted for its body, and is active.
    Admitted,
    /// None, unless it is given up: a service becomes ready, and may be called or not.
    NotYet,
}

/// In the queue; leaves it when dropped.
struct Joined {
    state: &'static State,
    key: usize,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.state.limiter.stop_waiting(self.key);
    }
}

impl Waiting {
    /// # Panics
    ///
    /// Outside of a runtime with timers; then it is in the queue no more.
    pub(crate) fn new(state: &'static State, key: usize, need: Need, deadline: Duration) -> Self {
        let joined = Joined { state, key };
        let sleep = Box::pin(tokio::time::sleep(deadline));
        std::mem::forget(joined);
        state.handles.made();
        let counts = match need {
            Need::More { .. } => Counts::Admitted,
            _ => Counts::AsRequest,
        };
        Self {
            tag: need.tag(),
            since: Instant::now(),
            sleep,
            state,
            key,
            counts: Some(counts),
        }
    }

    /// When it began.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// A wait of a service that becomes ready.
    pub(crate) fn not_yet(mut self) -> Self {
        self.counts = Some(Counts::NotYet);
        let not_yet = &self.state.counters.not_yet;
        not_yet.fetch_add(1, Ordering::Relaxed);
        self
    }

    /// Ready with `Ok` once so many KiB are reserved, which the caller then owns.
    pub(crate) fn poll_kib(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Rejected>> {
        let (state, tag) = (self.state, self.tag);
        let granted = ready!(self.poll_reason(cx));
        Poll::Ready(granted.map_err(|reason| state.reject(reason, tag)))
    }

    /// [`poll_kib`](Self::poll_kib), without counting and saying why there was no room.
    pub(crate) fn poll_reason(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        let limiter = &self.state.limiter;
        let reason = match limiter.poll_wait(self.key, cx) {
            Poll::Ready(Ok(kib)) => {
                self.ends();
                let waited = self.since.elapsed();
                self.state.counters.waited_then_admitted.add(waited);
                logs::waited(waited);
                return Poll::Ready(Ok(kib));
            }
            Poll::Ready(Err(reason)) => reason,
            Poll::Pending => {
                // A grant that passed on since: nobody might be left to answer.
                let is_closed = self.state.is_closed();
                if !is_closed {
                    ready!(self.sleep.as_mut().poll(cx));
                }
                limiter.stop_waiting(self.key);
                if is_closed {
                    Reason::Closed
                } else {
                    Reason::WaitTimeout
                }
            }
        };
        self.ends();
        let counters = &self.state.counters;
        counters.waited_then_rejected.add(self.since.elapsed());
        Poll::Ready(Err(reason))
    }

    fn ends(&mut self) -> Option<Counts> {
        let counts = self.counts.take();
        if counts == Some(Counts::NotYet) {
            let not_yet = &self.state.counters.not_yet;
            not_yet.fetch_sub(1, Ordering::Relaxed);
        }
        counts
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(counts) = self.ends() {
            if counts != Counts::Admitted {
                self.state.counters.outcomes.abandoned_waiting();
            }
            self.state.limiter.stop_waiting(self.key);
        }
        self.state.handles.dropped();
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let granted = ready!(self.poll_kib(cx));
        Poll::Ready(granted.map(|kib| Permit::queued(self.state, kib, self.tag)))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::classify::labels::Demand;
    use crate::guard::admission::no_deadline;
    use crate::{ManualSource, MemoryGuardLayer};

    #[test]
    fn where_there_are_no_timers_nobody_stays_in_the_queue() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
        let layer = builder.max_concurrent(1).build().unwrap();
        let state = layer.guard().state();
        let _held = layer.guard().try_acquire(1024).unwrap();
        let wait = AssertUnwindSafe(|| state.wait(Demand::NONE, &no_deadline).is_ok());
        assert!(catch_unwind(wait).is_err());
        assert_eq!(layer.guard().stats().waiting_requests, 0);
    }
}
