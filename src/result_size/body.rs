//! [`LimitedBody`]: a response body that ends in an error over the limit.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::ResultTooLarge;
use crate::error::BoxError;

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
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B, limit: u64, sent: u64 },
        Refusal { bytes: Option<Bytes> },
    }
}

impl<B> LimitedBody<B> {
    /// The body of the service's response; `None`: it is the refusal of one that is too large.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.kind {
            Kind::Inner { body, .. } => Some(body),
            Kind::Refusal { .. } => None,
        }
    }

    /// The body of the service's response; `None`: it is the refusal of one that is too large.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        match &mut self.kind {
            Kind::Inner { body, .. } => Some(body),
            Kind::Refusal { .. } => None,
        }
    }

    pub(super) fn new(body: B, limit: u64) -> Self {
        Self {
            kind: Kind::Inner {
                body,
                limit,
                sent: 0,
            },
        }
    }

    pub(super) fn refusal(bytes: Bytes) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self {
            kind: Kind::Refusal { bytes },
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
        match self.project().kind.project() {
            KindProj::Refusal { bytes } => Poll::Ready(bytes.take().map(Frame::data).map(Ok)),
            KindProj::Inner { body, limit, sent } => {
                let frame = match ready!(body.poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Some(Ok(frame)) => frame,
                };
                *sent += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if *sent > *limit {
                    let error = ResultTooLarge::new(*limit, *sent);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Refusal { bytes } => bytes.is_none(),
            Kind::Inner { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Refusal { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Inner { body, .. } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for LimitedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedBody").finish_non_exhaustive()
    }
}
