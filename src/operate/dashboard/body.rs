//! [`DashboardBody`]: a whole answer, or events without an end.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::snapshot;
use crate::guard::handle::Guard;
use crate::http::reply::ReplyBody;

/// Between two events.
const INTERVAL: Duration = Duration::from_millis(500);

/// The body of the answers of [`Dashboard`](super::Dashboard).
pub struct DashboardBody(Kind);

enum Kind {
    Whole(ReplyBody),
    Events {
        guard: Guard,
        /// Made by the first poll.
        next: Option<Pin<Box<Sleep>>>,
        ended: bool,
    },
}

impl DashboardBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(ReplyBody::whole(bytes)))
    }

    pub(super) fn events(guard: Guard) -> Self {
        Self(Kind::Events {
            guard,
            next: None,
            ended: false,
        })
    }
}

impl Body for DashboardBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (guard, next, ended) = match &mut self.0 {
            Kind::Whole(reply) => return Pin::new(reply).poll_frame(cx),
            Kind::Events { ended: true, .. } => return Poll::Ready(None),
            Kind::Events { guard, next, ended } => (guard, next, ended),
        };
        match next {
            // The first at once.
            None => *next = Some(Box::pin(sleep_until(Instant::now() + INTERVAL))),
            Some(sleep) => {
                ready!(sleep.as_mut().poll(cx));
                sleep.as_mut().reset(Instant::now() + INTERVAL);
            }
        }
        // The last one says that it closes.
        *ended = guard.state().is_closed();
        let event = format!("data: {}\n\n", snapshot::take(guard));
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(reply) => reply.is_end_stream(),
            Kind::Events { ended, .. } => *ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(reply) => reply.size_hint(),
            Kind::Events { .. } => SizeHint::default(),
        }
    }
}

impl fmt::Debug for DashboardBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardBody").finish_non_exhaustive()
    }
}
