//! [`MemoryGuard`]: the response flavour.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::GuardedBody;
use super::fallback::Fallback;
use super::future::{ResponseFuture, Slow, enter};
use super::respond::{HttpResponder, Respond, answer};
use super::{deadline, staged};
use crate::classify::labels::Demand;
use crate::classify::{Classify, Uniform};
use crate::error::BoxError;
use crate::guard::admission::Admission;
use crate::guard::handle::Guard;
use crate::guard::held::InFlight;
use crate::guard::permit::Permit;
use crate::guard::poller::{Growth, Poller, Polling};
use crate::telemetry::logs;

/// A service behind a guard that answers rejections with a response.
///
/// Made by [`MemoryGuardLayer`](crate::MemoryGuardLayer). `poll_ready` asks the
/// shared sampler's last decision: at critical pressure it is ready at once, to
/// reject, without troubling the inner service. Everything else is decided by
/// the response future, where outer timeouts apply.
///
/// # Panics
///
/// `call`, if a request has to wait outside a tokio runtime with its timer enabled.
///
/// # Cancel safety
///
/// Dropping the response future leaves the queue, or drops the inner future and
/// gives the memory back. Clones of the [`Permit`] are told by
/// [`Permit::cancelled`].
pub struct MemoryGuard<S, R = HttpResponder, C = Uniform> {
    inner: S,
    guard: Guard,
    responder: R,
    classify: C,
    /// The inner service was ready when it was asked, and was not called since.
    inner_ready: bool,
}

impl<S, R, C> MemoryGuard<S, R, C> {
    pub(crate) fn new(inner: S, guard: Guard, responder: R, classify: C) -> Self {
        Self {
            inner,
            guard,
            responder,
            classify,
            inner_ready: false,
        }
    }

    /// The guard in front of the service.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The service behind the guard.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the guard.
    pub fn get_mut(&mut self) -> &mut S {
        // It may be another one from now on.
        self.inner_ready = false;
        &mut self.inner
    }

    /// The service without the guard. Requests that it has passed on keep their permits.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, R: Clone, C: Clone> Clone for MemoryGuard<S, R, C> {
    #[inline]
    fn clone(&self) -> Self {
        // A clone of the inner service starts without its readiness.
        Self::new(
            self.inner.clone(),
            self.guard.clone(),
            self.responder.clone(),
            self.classify.clone(),
        )
    }
}

impl<S: fmt::Debug, R, C> fmt::Debug for MemoryGuard<S, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGuard")
            .field("inner", &self.inner)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl<S, R, C, B, ResB> Service<Request<B>> for MemoryGuard<S, R, C>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
    R: Respond + Clone,
    C: Classify<Request<B>>,
{
    type Response = Response<GuardedBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, Request<B>>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.guard.state().turns_away() {
            return Poll::Ready(Ok(()));
        }
        let ready = self.inner.poll_ready(cx);
        self.inner_ready = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let ready = std::mem::take(&mut self.inner_ready);
        let guard = self.guard.state();
        let Some(mut demand) = self.classify.demand(&request, guard.labels()) else {
            return self.pass(request, ready, InFlight::new(None));
        };
        // A guard further out may have admitted it already.
        let outer = request.extensions().get::<Permit>();
        if outer.is_some_and(|outer| outer.is_of(guard)) {
            return self.pass(request, ready, InFlight::new(None));
        }
        let outer = outer.cloned();
        let covering = outer.as_ref().and_then(|outer| outer.holder_for(guard));
        if demand.is_for_body() {
            demand = match covering.is_some() || staged::of(&request).is_some() {
                // Another guard has its bytes, or stages it.
                true => demand.at_once(),
                false => guard.for_body(demand),
            };
        }
        let callers = || {
            let own = &guard.config().deadline_headers;
            deadline::of_caller(request.headers(), own)
        };
        let admission = match covering {
            None => guard.admit(demand, &callers),
            Some(holder) => guard.admit_counted(demand, holder.was_let_pass(), &callers),
        };
        match admission {
            Admission::Admitted(mut permit) => {
                logs::admitted();
                staged::begin(&mut permit, demand, &mut request, None);
                enter(&permit, outer, &mut request);
                let held = InFlight::of(Some(permit), request.method());
                self.pass(request, ready, held)
            }
            Admission::Rejected(refusal) => {
                let rejected = guard.tell(refusal, demand.tag());
                ResponseFuture::rejected(answer(&self.responder, &rejected, &request))
            }
            Admission::Waiting(waiting) => {
                // What being ready takes, as a place in a `ConcurrencyLimit`, is for those
                // that were admitted.
                self.inner = self.inner.clone();
                ResponseFuture::slow(Slow {
                    waiting: Some(waiting),
                    demand,
                    outer,
                    ..self.slow(request, false, InFlight::new(None))
                })
            }
        }
    }
}

impl<S, R, C> MemoryGuard<S, R, C> {
    /// Calls the inner service, at once if it is ready.
    #[inline(always)]
    fn pass<B, ResB>(
        &mut self,
        request: Request<B>,
        ready: bool,
        held: InFlight,
    ) -> ResponseFuture<S, R, Request<B>>
    where
        S: Service<Request<B>, Response = Response<ResB>> + Clone,
        R: Respond + Clone,
    {
        // The call is the first poll.
        let mut growth = None;
        if ready && Growth::try_begin(held.permit(), false, &mut growth) {
            let fallback = Fallback::keep(held.permit(), &self.responder, &request);
            let future = {
                let _polling = Polling::begin(held.permit(), &growth);
                held.run(|| self.inner.call(request))
            };
            return ResponseFuture::calling(future, held, fallback);
        }
        // There is no room yet for what the call may add; or it was admitted after a
        // `poll_ready` that meant to reject: memory became free in between, or the
        // request is one that passes by.
        ResponseFuture::slow(self.slow(request, ready, held))
    }

    fn slow<Req>(&mut self, request: Req, ready: bool, held: InFlight) -> Slow<S, R, Req>
    where
        S: Clone,
        R: Clone,
    {
        // The inner service that was asked to be ready; a clone stays here.
        let clone = self.inner.clone();
        Slow {
            waiting: None,
            demand: Demand::NONE,
            outer: None,
            held,
            poller: Poller::default(),
            inner: std::mem::replace(&mut self.inner, clone),
            inner_ready: ready,
            request: Some(request),
            responder: self.responder.clone(),
        }
    }
}
