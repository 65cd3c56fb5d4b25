//! The response futures: waiting → calling → done.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::admission::Waiting;
use crate::body::GuardedBody;
use crate::error::{BoxError, Rejected};
use crate::permit::{Held, Permit};
use crate::respond::Respond;

pin_project! {
    /// The future of [`MemoryGuard`](crate::MemoryGuard): waits for memory,
    /// calls the inner service, and hands the permit on to the response's body.
    pub struct ResponseFuture<S, R, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, R, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, R, Req>
    where
        S: Service<Req>,
    {
        /// Boxed: those who need not wait should not carry what waiting needs.
        Slow { slow: Box<Slow<S, R, Req>> },
        Calling { #[pin] future: S::Future, held: Held },
        Rejected { response: Option<Response<Bytes>> },
    }
}

/// A request that could not be passed on at once.
pub(crate) struct Slow<S, R, Req> {
    /// For memory; `None` once it is there.
    pub(crate) waiting: Option<Waiting>,
    pub(crate) outer: Option<Permit>,
    pub(crate) permit: Option<Permit>,
    pub(crate) inner: S,
    pub(crate) inner_ready: bool,
    /// Taken by the call.
    pub(crate) request: Option<Req>,
    pub(crate) responder: R,
}

/// Puts the permit where the handler, and the same guard further in, find it.
#[inline]
pub(crate) fn enter<B>(permit: &Permit, outer: Option<Permit>, request: &mut Request<B>) {
    if let Some(outer) = outer {
        permit.keep(outer);
    }
    if permit.goes_into_extensions() {
        request.extensions_mut().insert(permit.clone());
    }
}

impl<S, R, Req> ResponseFuture<S, R, Req>
where
    S: Service<Req>,
{
    #[inline]
    pub(crate) fn calling(future: S::Future, permit: Option<Permit>) -> Self {
        let held = Held::new(permit);
        Self {
            state: State::Calling { future, held },
        }
    }

    pub(crate) fn rejected(response: Response<Bytes>) -> Self {
        let response = Some(response);
        Self {
            state: State::Rejected { response },
        }
    }

    pub(crate) fn slow(slow: Slow<S, R, Req>) -> Self {
        let slow = Box::new(slow);
        Self {
            state: State::Slow { slow },
        }
    }
}

/// What became of a slow request.
enum Outcome<F> {
    Called(F, Option<Permit>),
    Rejected(Response<Bytes>),
}

impl<S, R, B> Slow<S, R, Request<B>>
where
    S: Service<Request<B>>,
    R: Respond,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome<S::Future>, S::Error>> {
        let mut request = self.request.take().expect("polled after it was done");
        // Waiting → admitted or rejected.
        if let Some(waiting) = &mut self.waiting {
            match Pin::new(waiting).poll(cx) {
                Poll::Pending => {
                    self.request = Some(request);
                    return Poll::Pending;
                }
                Poll::Ready(Err(rejected)) => {
                    let response = self.responder.respond(&rejected, &request);
                    return Poll::Ready(Ok(Outcome::Rejected(response)));
                }
                Poll::Ready(Ok(permit)) => {
                    enter(&permit, self.outer.take(), &mut request);
                    self.permit = Some(permit);
                    self.waiting = None;
                }
            }
        }
        // Admitted → called, once the inner service is ready.
        if !self.inner_ready {
            match self.inner.poll_ready(cx)? {
                Poll::Ready(()) => self.inner_ready = true,
                Poll::Pending => {
                    self.request = Some(request);
                    return Poll::Pending;
                }
            }
        }
        let future = self.inner.call(request);
        Poll::Ready(Ok(Outcome::Called(future, self.permit.take())))
    }
}

impl<S, R, B, ResB> Future for ResponseFuture<S, R, Request<B>>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
    R: Respond,
{
    type Output = Result<Response<GuardedBody<ResB>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if !matches!(*state, State::Calling { .. }) {
            match ready!(state.as_mut().advance(cx))? {
                None => {}
                Some(response) => return Poll::Ready(Ok(response.map(GuardedBody::rejection))),
            }
        }
        let StateProj::Calling { future, held } = state.project() else {
            unreachable!("it has advanced");
        };
        match ready!(future.poll(cx)) {
            Ok(response) => Poll::Ready(Ok(response.map(|body| GuardedBody::new(body, held)))),
            Err(error) => {
                // An error has no bytes to wait for: the permit ends here.
                held.end();
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<S, R, B> State<S, R, Request<B>>
where
    S: Service<Request<B>>,
    R: Respond,
{
    /// To [`Calling`](State::Calling), or to a rejection.
    #[cold]
    fn advance(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Response<Bytes>>, S::Error>> {
        let slow = match self.as_mut().project() {
            StateProj::Slow { slow } => slow,
            StateProj::Rejected { response } => {
                return Poll::Ready(Ok(Some(response.take().expect("polled after it was done"))));
            }
            StateProj::Calling { .. } => return Poll::Ready(Ok(None)),
        };
        match ready!(slow.poll(cx))? {
            Outcome::Called(future, permit) => {
                let held = Held::new(permit);
                self.set(State::Calling { future, held });
                Poll::Ready(Ok(None))
            }
            Outcome::Rejected(response) => Poll::Ready(Ok(Some(response))),
        }
    }
}

pin_project! {
    /// The future of [`MemoryGuardErrorService`](crate::MemoryGuardErrorService): the inner
    /// service's answer, or a [`Rejected`].
    pub struct ErrorFuture<F> {
        #[pin]
        state: ErrorState<F>,
    }
}

pin_project! {
    #[project = ErrorStateProj]
    enum ErrorState<F> {
        Calling { #[pin] future: F, held: Held },
        Rejected { rejected: Option<Box<Rejected>> },
    }
}

impl<F> ErrorFuture<F> {
    #[inline]
    pub(crate) fn calling(future: F, permit: Option<Permit>) -> Self {
        let held = Held::new(permit);
        Self {
            state: ErrorState::Calling { future, held },
        }
    }

    pub(crate) fn rejected(rejected: Box<Rejected>) -> Self {
        let rejected = Some(rejected);
        Self {
            state: ErrorState::Rejected { rejected },
        }
    }
}

impl<F, T, E> Future for ErrorFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            ErrorStateProj::Calling { future, held } => {
                let result = ready!(future.poll(cx));
                held.end();
                Poll::Ready(result.map_err(Into::into))
            }
            ErrorStateProj::Rejected { rejected } => {
                let rejected = rejected.take().expect("polled after it was done");
                Poll::Ready(Err(rejected))
            }
        }
    }
}

impl<S: Service<Req>, R, Req> fmt::Debug for ResponseFuture<S, R, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for ErrorFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorFuture").finish_non_exhaustive()
    }
}
