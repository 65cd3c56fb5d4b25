//! [`MemoryGuardErrorService`]: the error flavour, for any service.

use std::fmt;
use std::task::{Context, Poll, ready};

use tower_layer::Layer;
use tower_service::Service;

use super::error_future::ErrorFuture;
use crate::classify::labels::Demand;
use crate::classify::{Classify, Uniform};
use crate::error::BoxError;
use crate::guard::admission::{Admission, no_deadline};
use crate::guard::handle::Guard;
use crate::guard::held::InFlight;
use crate::guard::permit::Permit;
use crate::guard::poller::{Growth, Polling};
use crate::guard::ready::{Cell, Refused};
use crate::guard::state;
use crate::guard::waiting::Waiting;

/// The error flavour of [`MemoryGuardLayer`](crate::MemoryGuardLayer), made by
/// its [`into_error_layer`](crate::MemoryGuardLayer::into_error_layer).
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is applied"]
pub struct MemoryGuardErrorLayer<C = Uniform> {
    guard: Guard,
    classify: C,
}

impl<C> MemoryGuardErrorLayer<C> {
    pub(crate) fn new(guard: Guard, classify: C) -> Self {
        Self { guard, classify }
    }

    /// The guard behind the layer.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }
}

impl<S, C: Clone> Layer<S> for MemoryGuardErrorLayer<C> {
    type Service = MemoryGuardErrorService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        MemoryGuardErrorService::new(inner, self.guard.clone(), self.classify.clone())
    }
}

/// A service behind a guard that answers rejections with an error.
///
/// `poll_ready` waits for the inner service, then for memory, with a deadline:
/// backpressure as tower's `ConcurrencyLimit` gives it. A rejection comes out
/// of the future of `call`, never out of `poll_ready`, where an error would
/// close a `Buffer` for good. It downcasts to [`Rejected`](crate::Rejected). A rejection is for the call that
/// follows: a repeated `poll_ready` asks whether there is room by now, and a call that comes
/// more than a second later asks, and waits, anew.
///
/// A service that was ready holds its memory until it is called or dropped, or, if it is
/// parked (in a pool, a balancer, a `LoadShed`), until a full sample finds it so and a later
/// one, at least half a second on, finds it still so; then what it holds passes on, and a
/// call asks, and waits, anew. The same holds for what it is granted while nobody polls it.
/// In observe mode, where nobody waits, all is left to the call.
///
/// # Panics
///
/// `poll_ready`, if it has to wait outside a tokio runtime with its timer enabled;
/// `call`, if `poll_ready` was not ready before.
///
/// # Cancel safety
///
/// Dropping the service leaves the queue or gives back what it got; dropping the
/// future gives the memory back.
pub struct MemoryGuardErrorService<S, C = Uniform> {
    inner: S,
    classify: C,
    claim: Claim,
}

/// What `poll_ready` has come to, given back when the service is gone.
struct Claim {
    guard: Guard,
    state: State,
}

enum State {
    Idle,
    Waiting(Box<Waiting>),
    /// So many KiB are reserved. Not a permit yet: moving one about costs more
    /// than the reservation did.
    Admitted {
        kib: u64,
        /// Where it can be taken back.
        cell: Option<&'static Cell>,
    },
    /// Nothing is, and the call asks: it was taken back as nobody came, or nobody has to wait.
    LeftToCall,
    /// There was no room. Boxed: services that are ready should not carry it.
    Refused(Box<Refused>),
}

/// So many KiB are reserved for a call.
#[inline]
fn admitted(guard: &'static state::State, kib: u64) -> State {
    let cell = guard.put_ready(kib);
    State::Admitted { kib, cell }
}

impl<S, C> MemoryGuardErrorService<S, C> {
    pub(crate) fn new(inner: S, guard: Guard, classify: C) -> Self {
        Self {
            inner,
            classify,
            claim: Claim {
                guard,
                state: State::Idle,
            },
        }
    }

    /// The guard in front of the service.
    pub fn guard(&self) -> &Guard {
        &self.claim.guard
    }
}

wraps!(
    MemoryGuardErrorService<S, C>,
    "The service without the guard. Leaves the queue, or gives back what it got."
);

impl Claim {
    /// It said that it is ready, so it may not wait now: where there is no room, the call
    /// does.
    #[inline]
    fn ask_again(&mut self, demand: Demand) {
        if let State::Admitted { cell, .. } = self.state {
            if !cell.is_some_and(Cell::is_taken) {
                return;
            }
            self.give_back();
            self.state = State::LeftToCall;
        }
        if self.guard.only_observes() {
            self.state = State::LeftToCall;
            return;
        }
        let guard = self.guard.state();
        if let Some(permit) = guard.reserve_now(demand) {
            self.state = admitted(guard, permit.into_kib());
        }
    }

    /// Nobody will call for what `poll_ready` got.
    #[inline(always)]
    fn give_back(&mut self) {
        if let State::Admitted { kib, cell } = self.state {
            self.state = State::Idle;
            if cell.is_none_or(Cell::claim) {
                self.guard.state().release(kib);
            }
        }
    }
}

impl<S: Clone, C: Clone> Clone for MemoryGuardErrorService<S, C> {
    #[inline]
    fn clone(&self) -> Self {
        // A permit belongs to one call: a clone starts without.
        Self::new(
            self.inner.clone(),
            self.claim.guard.clone(),
            self.classify.clone(),
        )
    }
}

impl<S: fmt::Debug, C> fmt::Debug for MemoryGuardErrorService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGuardErrorService")
            .field("inner", &self.inner)
            .field("guard", &self.claim.guard)
            .finish_non_exhaustive()
    }
}

impl<S, C, Req> Service<Req> for MemoryGuardErrorService<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ErrorFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The inner service first: memory is the scarcer of the two.
        ready!(self.inner.poll_ready(cx)).map_err(Into::into)?;
        let claim = &mut self.claim;
        let guard = claim.guard.state();
        match claim.state {
            // What it would have come to depends on the request, if there is one.
            State::Idle if claim.guard.only_observes() => claim.state = State::LeftToCall,
            State::Idle => {
                claim.state = match guard.admit(C::BEFORE, &no_deadline) {
                    Admission::Admitted(permit) => admitted(guard, permit.into_kib()),
                    Admission::Rejected(refusal) => State::Refused(Box::new(Refused::new(refusal))),
                    Admission::Waiting(waiting) => State::Waiting(Box::new(waiting.not_yet())),
                };
            }
            State::Waiting(_) => {}
            _ => claim.ask_again(C::BEFORE),
        }
        if let State::Waiting(waiting) = &mut claim.state {
            claim.state = match ready!(waiting.poll_reason(cx)) {
                Ok(kib) => admitted(guard, kib),
                Err(reason) => State::Refused(Box::new(Refused::new(reason.into()))),
            };
        }
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If `poll_ready` was not ready before.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let guard = self.claim.guard.state();
        let Some(demand) = self.classify.demand(&request, guard.labels()) else {
            self.claim.give_back();
            // What it was told is for nobody else.
            self.claim.state = State::Idle;
            return ErrorFuture::calling(self.inner.call(request), InFlight::new(None), None);
        };
        // What was reserved before the request was known is for all that it needs.
        let demand = demand.at_once();
        match std::mem::replace(&mut self.claim.state, State::Idle) {
            State::Admitted { cell, .. } if !cell.is_none_or(Cell::claim) => {
                self.call_as(State::LeftToCall, demand, request)
            }
            State::Admitted { kib, .. }
                if !C::BEFORE.is_for_any() || guard.does(kib, demand.tag()) =>
            {
                self.call_with(Permit::new(guard, kib, demand.tag()), request)
            }
            state => self.call_as(state, demand, request),
        }
    }
}

impl<S, C> MemoryGuardErrorService<S, C> {
    #[inline(always)]
    fn call_with<Req>(&mut self, permit: Permit, request: Req) -> ErrorFuture<S::Future>
    where
        S: Service<Req>,
    {
        let mut held = InFlight::new(Some(permit));
        held.start();
        let future = {
            let mut growth = None;
            Growth::try_begin(held.permit(), true, &mut growth);
            let _polling = Polling::begin(held.permit(), &growth);
            held.run(|| self.inner.call(request))
        };
        ErrorFuture::calling(future, held, None)
    }

    /// `call`, for a request of a class, or where there is more to be done.
    fn call_as<Req>(&mut self, state: State, demand: Demand, request: Req) -> ErrorFuture<S::Future>
    where
        S: Service<Req>,
    {
        let guard = self.claim.guard.state();
        let admission = match state {
            State::Admitted { kib, .. } => guard.admit_reserved(kib, demand),
            State::Refused(refused) if refused.holds_for(demand.tag().priority) => {
                Admission::Rejected(refused.refusal())
            }
            State::LeftToCall | State::Refused(_) => guard.admit(demand, &no_deadline),
            State::Idle | State::Waiting(_) => panic!("poll_ready must be ready before call"),
        };
        match admission {
            Admission::Admitted(permit) => self.call_with(permit, request),
            Admission::Waiting(waiting) => {
                let waiting = Some(Box::new(waiting));
                ErrorFuture::calling(self.inner.call(request), InFlight::new(None), waiting)
            }
            Admission::Rejected(refusal) => {
                let rejected = guard.tell(refusal, demand.tag());
                ErrorFuture::rejected(Box::new(rejected))
            }
        }
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        self.give_back();
    }
}
