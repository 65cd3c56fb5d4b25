//! What the guard itself answers with: [`ReplyBody`], in the place of a service's body or not,
//! and the answer to HEAD.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What is sent of an answer: to HEAD, its head alone. A body after it would be a stream
/// error over HTTP/2, and the caller would see that in the place of the answer.
pub(crate) fn answer_to(method: &Method, mut answer: Response<Bytes>) -> Response<Bytes> {
    if *method == Method::HEAD {
        let body = std::mem::take(answer.body_mut());
        // What GET would send, unless it says so itself.
        let length = HeaderValue::from(body.len());
        answer.headers_mut().entry(CONTENT_LENGTH).or_insert(length);
    }
    answer
}

/// The body of the answers of [`Readiness`](crate::Readiness) and
/// [`Liveness`](crate::Liveness): one piece of text.
#[derive(Debug)]
pub struct ReplyBody(Option<Bytes>);

impl ReplyBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    pub(crate) fn take_frame(&mut self) -> Option<Frame<Bytes>> {
        self.0.take().map(Frame::data)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.take_frame().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

pin_project! {
    /// The body of a service's response, or the guard's own answer in its place.
    #[project = OrReplyProj]
    pub(crate) enum OrReply<B> {
        Inner { #[pin] body: B },
        Reply { reply: ReplyBody },
    }
}

impl<B> OrReply<B> {
    pub(crate) fn reply(bytes: Bytes) -> Self {
        let reply = ReplyBody::whole(bytes);
        OrReply::Reply { reply }
    }

    pub(crate) fn get_ref(&self) -> Option<&B> {
        match self {
            OrReply::Inner { body } => Some(body),
            OrReply::Reply { .. } => None,
        }
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut B> {
        match self {
            OrReply::Inner { body } => Some(body),
            OrReply::Reply { .. } => None,
        }
    }
}

impl<B: Body> OrReply<B> {
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            OrReply::Inner { body } => body.is_end_stream(),
            OrReply::Reply { reply } => reply.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            OrReply::Inner { body } => body.size_hint(),
            OrReply::Reply { reply } => reply.size_hint(),
        }
    }
}
