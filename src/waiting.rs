//! [`Waiting`]: a request in the queue.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::controller::Controller;
use crate::error::{Reason, Rejected};
use crate::limiter::Ticket;
use crate::logs;
use crate::permit::Permit;
use crate::tag::Tag;

/// A request in the queue, with its deadline.
///
/// Cancel safety: dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    tag: Tag,
    since: Instant,
    sleep: Pin<Box<Sleep>>,
    controller: &'static Controller,
}

impl Waiting {
    pub(crate) fn new(
        controller: &'static Controller,
        ticket: Ticket,
        tag: Tag,
        deadline: Duration,
    ) -> Self {
        Self {
            ticket,
            tag,
            since: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(deadline)),
            controller,
        }
    }

    /// Ready with `Ok` once so many KiB are reserved, which the caller then owns.
    pub(crate) fn poll_kib(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Rejected>> {
        let reason = match self.ticket.poll(cx) {
            Poll::Ready(Ok(kib)) => {
                let waited = self.since.elapsed();
                self.controller.counters.waited_then_admitted.add(waited);
                logs::waited(waited);
                return Poll::Ready(Ok(kib));
            }
            Poll::Ready(Err(reason)) => reason,
            Poll::Pending => {
                ready!(self.sleep.as_mut().poll(cx));
                Reason::WaitTimeout
            }
        };
        let counters = &self.controller.counters;
        counters.waited_then_rejected.add(self.since.elapsed());
        Poll::Ready(Err(self.controller.reject(reason, self.tag)))
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let granted = ready!(self.poll_kib(cx));
        Poll::Ready(granted.map(|kib| Permit::queued(self.controller, kib, self.tag)))
    }
}
