//! [`Waiting`]: a request in the queue.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::controller::Controller;
use crate::error::{Reason, Rejected};
use crate::limiter::Ticket;
use crate::permit::Permit;
use crate::tag::Tag;

/// A request in the queue, with its deadline.
///
/// Cancel safety: dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    tag: Tag,
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
            sleep: Box::pin(tokio::time::sleep(deadline)),
            controller,
        }
    }

    /// Ready with `Ok` once so many KiB are reserved, which the caller then owns.
    pub(crate) fn poll_kib(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Rejected>> {
        match self.ticket.poll(cx) {
            Poll::Ready(Ok(kib)) => return Poll::Ready(Ok(kib)),
            Poll::Ready(Err(reason)) => {
                return Poll::Ready(Err(self.controller.reject(reason, self.tag)));
            }
            Poll::Pending => {}
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(self.controller.reject(Reason::WaitTimeout, self.tag)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let granted = ready!(self.poll_kib(cx));
        Poll::Ready(granted.map(|kib| Permit::queued(self.controller, kib, self.tag)))
    }
}
