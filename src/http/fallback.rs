//! [`Fallback`]: an answer in the place of the inner service's.

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::respond::{Respond, answer};
use super::staged;
use crate::error::Rejected;
use crate::guard::permit::Permit;
use crate::guard::staged::Stage;

/// What it takes to answer a request that is turned away after it was passed on.
pub(crate) struct Fallback<R> {
    responder: R,
    head: Request<()>,
    /// Its body comes first.
    stage: Option<Arc<Stage>>,
}

impl<R: Respond + Clone> Fallback<R> {
    /// Only for what can be turned away: it copies the request's head.
    #[inline]
    pub(crate) fn keep<B>(
        permit: Option<&Permit>,
        responder: &R,
        request: &Request<B>,
    ) -> Option<Box<Self>> {
        let permit = permit?;
        (permit.can_be_cancelled() || permit.is_staged()).then(|| Self::copy(responder, request))
    }

    #[cold]
    fn copy<B>(responder: &R, request: &Request<B>) -> Box<Self> {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Box::new(Self {
            responder: responder.clone(),
            head,
            stage: staged::of(request),
        })
    }

    pub(crate) fn respond(&self, rejected: &Rejected) -> Response<Bytes> {
        answer(&self.responder, rejected, &self.head)
    }

    /// The inner future was polled, and may have read the request's body. The answer, if
    /// the request is to be turned away.
    pub(crate) fn polled<B: Body, E>(
        &self,
        answer: &Poll<Result<Response<B>, E>>,
    ) -> Option<Response<Bytes>> {
        let stage = self.stage.as_ref()?;
        if let Some(rejected) = stage.rejected() {
            return Some(self.respond(rejected));
        }
        match answer {
            // What a layer in between answers is no handler's work.
            Poll::Ready(Ok(response)) if response.status().is_success() => {
                stage.answered();
                if !response.body().is_end_stream() {
                    stage.catch_up();
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => stage.catch_up(),
        }
        None
    }
}
