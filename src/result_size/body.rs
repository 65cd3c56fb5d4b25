//! [`LimitedBody`]: a response body that ends in an error over the limit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::ResultTooLarge;
use crate::error::BoxError;
use crate::http::reply::{OrReply, OrReplyProj};

pin_project! {
    /// The body of [`ResultLimit`](super::ResultLimit)'s response: transparent up
    /// to the limit, an error beyond it.
    ///
    /// # Errors
    ///
    /// Those of the inner body, and [`ResultTooLarge`]: the server then breaks
    /// the response off in a way that its client can see.
    pub struct LimitedBody<B> {
        #[pin]
        body: OrReply<B>,
        limit: u64,
        sent: u64,
    }
}

impl<B> LimitedBody<B> {
    /// The body of the service's response; `None`: it is the refusal of one that is too large.
    pub fn get_ref(&self) -> Option<&B> {
        self.body.get_ref()
    }

    /// The body of the service's response; `None`: it is the refusal of one that is too large.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.body.get_mut()
    }

    pub(super) fn new(body: B, limit: u64) -> Self {
        Self {
            body: OrReply::Inner { body },
            limit,
            sent: 0,
        }
    }

    pub(super) fn refusal(bytes: Bytes) -> Self {
        Self {
            body: OrReply::reply(bytes),
            limit: 0,
            sent: 0,
        }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let body = match this.body.project() {
            OrReplyProj::Reply { reply } => return Poll::Ready(reply.take_frame().map(Ok)),
            OrReplyProj::Inner { body } => body,
        };
        let frame = ready!(body.poll_frame(cx)).transpose();
        let Some(frame) = frame.map_err(Into::into)? else {
            return Poll::Ready(None);
        };
        *this.sent += frame.data_ref().map_or(0, |data| data.remaining() as u64);
        if *this.sent > *this.limit {
            let error = ResultTooLarge::new(*this.limit, *this.sent);
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

opaque_debug!(impl[B] LimitedBody<B>);
