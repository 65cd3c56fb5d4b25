//! [`StagedBody`]: the body of a request that was admitted for its body first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::BoxError;
use crate::guard::staged::Stage;
use crate::guard::waiting::Waiting;

pin_project! {
    /// The body of a request behind a [`StagedBodyLayer`](crate::StagedBodyLayer).
    ///
    /// Transparent, but that its end, and the last frame if it is known to be the last,
    /// come once the request's memory is there.
    ///
    /// # Errors
    ///
    /// Those of the inner body, and [`Rejected`](crate::Rejected) if the request is turned
    /// away.
    ///
    /// # Panics
    ///
    /// If it has to wait outside a tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the queue.
    pub struct StagedBody<B: Body> {
        #[pin]
        body: B,
        // Kept back until the rest of the request's memory is there.
        last: Option<Frame<B::Data>>,
        waiting: Option<Box<Waiting>>,
        // `None`: nothing is to be waited for, or it was.
        reader: Option<Reader>,
        // The inner body is at its end.
        ended: bool,
    }
}

/// The reader of a body: dropped before it has settled, the body was let go.
struct Reader(Arc<Stage>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl<B: Body> StagedBody<B> {
    pub(super) fn new(body: B, stage: Option<Arc<Stage>>) -> Self {
        Self {
            body,
            last: None,
            waiting: None,
            reader: stage.map(Reader),
            ended: false,
        }
    }

    /// The body as it comes from the client.
    pub fn get_ref(&self) -> &B {
        &self.body
    }

    /// The body as it comes from the client. What is read from it here is not counted.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.body
    }
}

impl<B> Body for StagedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(Reader(stage)) = this.reader else {
            if *this.ended {
                return Poll::Ready(this.last.take().map(Ok));
            }
            let frame = ready!(this.body.as_mut().poll_frame(cx));
            return Poll::Ready(frame.map(|result| result.map_err(Into::into)));
        };
        if !*this.ended {
            match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Buf::remaining);
                    if let Err(rejected) = stage.read(bytes) {
                        *this.ended = true;
                        *this.reader = None;
                        return Poll::Ready(Some(Err(rejected.into())));
                    }
                    if !this.body.is_end_stream() {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    *this.last = Some(frame);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {}
            }
            // Reading → waiting for the rest.
            *this.ended = true;
        }
        let settled = ready!(stage.poll_rest(this.waiting, cx));
        *this.reader = None;
        let last = this.last.take();
        Poll::Ready(match settled {
            Ok(()) => last.map(Ok),
            Err(rejected) => Some(Err(rejected.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        let over = if self.ended {
            self.last.is_none()
        } else {
            self.body.is_end_stream()
        };
        self.reader.is_none() && over
    }

    fn size_hint(&self) -> SizeHint {
        if !self.ended {
            return self.body.size_hint();
        }
        let last = self.last.as_ref().and_then(Frame::data_ref);
        SizeHint::with_exact(last.map_or(0, |data| data.remaining() as u64))
    }
}

opaque_debug!(impl[B: Body] StagedBody<B>);
