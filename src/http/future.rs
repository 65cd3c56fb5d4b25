//! The response futures: waiting → calling → done.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{GuardedBody, promised_bytes};
use super::fallback::Fallback;
use super::respond::{Respond, answer};
use super::staged;
use crate::classify::labels::Demand;
use crate::error::BoxError;
use crate::guard::held::InFlight;
use crate::guard::permit::Permit;
use crate::guard::poller::Poller;
use crate::guard::waiting::Waiting;
use crate::telemetry::outcome::refused_by;

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

    impl<S, R, Req> PinnedDrop for ResponseFuture<S, R, Req>
    where
        S: Service<Req>,
    {
        fn drop(this: Pin<&mut Self>) {
            let state = this.project().state;
            if state.is_under_way() {
                state.give_up();
            }
        }
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
        // In this order: what the future holds is free before the permit is.
        Calling { #[pin] future: S::Future, poller: Poller, held: InFlight, fallback: Option<Box<Fallback<R>>> },
        Rejected { response: Option<Response<Bytes>> },
    }
}

/// A request that could not be passed on at once.
pub(crate) struct Slow<S, R, Req> {
    // Before the permit: whoever is paused is so for a request that is there.
    pub(crate) poller: Poller,
    /// For memory; `None` once it is there.
    pub(crate) waiting: Option<Waiting>,
    /// What it is, until then.
    pub(crate) demand: Demand,
    pub(crate) outer: Option<Permit>,
    pub(crate) held: InFlight,
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
    pub(crate) fn calling(
        future: S::Future,
        held: InFlight,
        fallback: Option<Box<Fallback<R>>>,
    ) -> Self {
        Self {
            state: State::calling(future, held, fallback),
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

/// What comes next for a slow request, or the error of an inner service that was not ready.
type Next<S, R, Req> = Result<State<S, R, Req>, <S as Service<Req>>::Error>;

impl<S, R, B> Slow<S, R, Request<B>>
where
    S: Service<Request<B>>,
    R: Respond + Clone,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next<S, R, Request<B>>> {
        let request = self.request.as_mut().expect("polled after it was done");
        // Waiting → admitted or rejected.
        if let Some(waiting) = &mut self.waiting {
            let since = Some(waiting.since());
            match ready!(Pin::new(waiting).poll(cx)) {
                Err(rejected) => {
                    let response = Some(answer(&self.responder, &rejected, request));
                    return Poll::Ready(Ok(State::Rejected { response }));
                }
                Ok(mut permit) => {
                    staged::begin(&mut permit, self.demand, request, since);
                    enter(&permit, self.outer.take(), request);
                    self.held = InFlight::of(Some(permit), request.method());
                    self.waiting = None;
                }
            }
        }
        // Admitted → called, once the inner service is ready.
        if !self.inner_ready {
            if let Err(error) = ready!(self.held.run(|| self.inner.poll_ready(cx))) {
                self.request = None;
                self.held.fail();
                return Poll::Ready(Err(error));
            }
            self.inner_ready = true;
        }
        let mut growth = None;
        let polling = ready!((self.poller).poll(self.held.permit(), true, &mut growth, cx));
        let fallback = Fallback::keep(self.held.permit(), &self.responder, request);
        let request = self.request.take().expect("it is there");
        let future = self.held.run(|| self.inner.call(request));
        drop(polling);
        drop(growth);
        let held = std::mem::replace(&mut self.held, InFlight::new(None));
        Poll::Ready(Ok(State::calling(future, held, fallback)))
    }
}

impl<S, R, B, ResB> Future for ResponseFuture<S, R, Request<B>>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
    R: Respond + Clone,
{
    type Output = Result<Response<GuardedBody<ResB>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let Some(response) = state.as_mut().cancelled(cx) {
            return Poll::Ready(Ok(response.map(GuardedBody::rejection)));
        }
        if !matches!(*state, State::Calling { .. }) {
            match ready!(state.as_mut().advance(cx))? {
                None => {}
                Some(response) => return Poll::Ready(Ok(response.map(GuardedBody::rejection))),
            }
        }
        let StateProj::Calling {
            future,
            poller,
            held,
            fallback,
        } = state.as_mut().project()
        else {
            unreachable!("it has advanced");
        };
        let result = {
            let mut growth = None;
            let _polling = ready!(poller.poll(held.permit(), false, &mut growth, cx));
            held.run(|| future.poll(cx))
        };
        let turned_away = fallback
            .as_ref()
            .and_then(|fallback| fallback.polled(&result));
        if let Some(response) = turned_away {
            // Calling → rejected, whatever the inner service has made of it.
            state.give_up();
            return Poll::Ready(Ok(response.map(GuardedBody::rejection)));
        }
        let result = ready!(result);
        poller.ended(held.slot());
        *fallback = None;
        match result {
            Ok(response) => {
                held.answered();
                if let Some(by) = refused_by(&response) {
                    held.result_is_refused(by);
                }
                let promised = promised_bytes(&response);
                Poll::Ready(Ok(
                    response.map(|body| GuardedBody::new(body, promised, held))
                ))
            }
            Err(error) => {
                // An error has no bytes to wait for: the permit ends here.
                held.fail();
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<S: Service<Req>, R, Req> State<S, R, Req> {
    #[inline]
    fn calling(future: S::Future, held: InFlight, fallback: Option<Box<Fallback<R>>>) -> Self {
        State::Calling {
            future,
            poller: Poller::default(),
            held,
            fallback,
        }
    }

    #[inline]
    fn is_under_way(&self) -> bool {
        matches!(self, State::Calling { held, .. } if held.permit().is_some())
    }

    /// Drops the inner future, and then the permit. What that held is off its account, which
    /// clones of the permit may keep.
    #[cold]
    fn give_up(mut self: Pin<&mut Self>) {
        if let StateProj::Calling { held, .. } = self.as_mut().project() {
            let held = std::mem::replace(held, InFlight::new(None));
            let _scope = held.permit().map(Permit::enter);
            self.set(State::Rejected { response: None });
        }
    }
}

impl<S, R, B> State<S, R, Request<B>>
where
    S: Service<Request<B>>,
    R: Respond + Clone,
{
    /// Calling → rejected, if the guard needs the memory: the inner future is
    /// dropped here, and with it the permit.
    #[inline]
    fn cancelled(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Response<Bytes>> {
        let response = match self.as_mut().project() {
            StateProj::Calling {
                poller,
                held,
                fallback: Some(fallback),
                ..
            } if held.is_cancelled(cx) => {
                poller.ended(held.slot());
                let rejected = held.permit()?.reject_cancelled();
                fallback.respond(&rejected)
            }
            _ => return None,
        };
        self.give_up();
        Some(response)
    }

    /// To [`Calling`](State::Calling), or to a rejection.
    #[cold]
    fn advance(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Response<Bytes>>, S::Error>> {
        if let StateProj::Slow { slow } = self.as_mut().project() {
            let next = ready!(slow.poll(cx))?;
            self.set(next);
        }
        if let StateProj::Rejected { response } = self.as_mut().project() {
            return Poll::Ready(Ok(Some(response.take().expect("polled after it was done"))));
        }
        // Its first poll registers for a cancellation.
        Poll::Ready(Ok(self.cancelled(cx)))
    }
}

opaque_debug!(impl[S: Service<Req>, R, Req] ResponseFuture<S, R, Req>);
