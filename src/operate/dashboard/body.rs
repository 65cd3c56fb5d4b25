//! [`DashboardBody`]: a whole answer, or events without an end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep_until};

use super::snapshot;
use crate::guard::handle::Guard;
use crate::http::reply::ReplyBody;

/// Between two events.
const INTERVAL: Duration = Duration::from_millis(500);

/// The body of the answers of [`Dashboard`](super::Dashboard).
pub struct DashboardBody {
    /// Until the last one, which says that the guard closes.
    events: Option<Guard>,
    /// As the last one said them.
    estimates: Vec<Value>,
    /// Made by the first poll.
    next: Option<Pin<Box<Sleep>>>,
    /// The answer that is no events; else nothing.
    reply: ReplyBody,
}

impl DashboardBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self {
            events: None,
            estimates: Vec::new(),
            next: None,
            reply: ReplyBody::whole(bytes),
        }
    }

    pub(super) fn events(guard: Guard) -> Self {
        Self {
            events: Some(guard),
            ..Self::whole(Bytes::new())
        }
    }
}

impl Body for DashboardBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(guard) = &this.events else {
            return Pin::new(&mut this.reply).poll_frame(cx);
        };
        match &mut this.next {
            // The first at once.
            None => this.next = Some(Box::pin(sleep_until(Instant::now() + INTERVAL))),
            Some(sleep) => {
                ready!(sleep.as_mut().poll(cx));
                sleep.as_mut().reset(Instant::now() + INTERVAL);
            }
        }
        let is_last = guard.state().is_closed();
        let event = format!("data: {}\n\n", snapshot::take(guard, &mut this.estimates));
        if is_last {
            this.events = None;
        }
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.events.is_none() && self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.events {
            Some(_) => SizeHint::default(),
            None => self.reply.size_hint(),
        }
    }
}

opaque_debug!(impl[] DashboardBody);
