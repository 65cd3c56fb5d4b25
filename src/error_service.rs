//! [`MemoryGuardErrorService`]: the error flavour, for any service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_layer::Layer;
use tower_service::Service;

use crate::admission::{Admission, no_deadline};
use crate::class::Priority;
use crate::classify::{Classify, Uniform};
use crate::error::{BoxError, Rejected};
use crate::error_future::ErrorFuture;
use crate::guard::Guard;
use crate::held::Held;
use crate::labels::Entry;
use crate::permit::Permit;
use crate::poller::Polling;
use crate::waiting::Waiting;

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
/// close a `Buffer` for good. It downcasts to [`Rejected`].
///
/// A service that was ready holds its memory until it is called or dropped. One
/// that was granted memory while nobody polled it (a parked clone, a `LoadShed`
/// outside) keeps it until a full sample finds it unclaimed and a later one, at
/// least half a second on, finds it still so; then it passes on.
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
    guard: Guard,
    classify: C,
    state: State,
}

enum State {
    Idle,
    Waiting(Box<Waiting>),
    /// So many KiB are reserved. Not a permit yet: moving one about costs more
    /// than the reservation did.
    Admitted {
        kib: u64,
    },
    Rejected(Box<Rejected>),
}

impl<S, C> MemoryGuardErrorService<S, C> {
    pub(crate) fn new(inner: S, guard: Guard, classify: C) -> Self {
        Self {
            inner,
            guard,
            classify,
            state: State::Idle,
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

    /// Nobody will call for what `poll_ready` got.
    #[inline(always)]
    fn give_back(&mut self) {
        if let State::Admitted { kib } = self.state {
            self.state = State::Idle;
            self.guard.controller.release(kib);
        }
    }
}

impl<S: Clone, C: Clone> Clone for MemoryGuardErrorService<S, C> {
    #[inline]
    fn clone(&self) -> Self {
        // A permit belongs to one call: a clone starts without.
        Self::new(
            self.inner.clone(),
            self.guard.clone(),
            self.classify.clone(),
        )
    }
}

impl<S: fmt::Debug, C> fmt::Debug for MemoryGuardErrorService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGuardErrorService")
            .field("inner", &self.inner)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl From<Result<Permit, Rejected>> for State {
    fn from(outcome: Result<Permit, Rejected>) -> Self {
        match outcome {
            Ok(permit) => State::Admitted {
                kib: permit.into_kib(),
            },
            Err(rejected) => State::Rejected(Box::new(rejected)),
        }
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
        if let State::Idle = self.state {
            self.state = match self
                .guard
                .controller
                .admit(Entry::default().into(), &no_deadline)
            {
                Admission::Admitted(permit) => State::Admitted {
                    kib: permit.into_kib(),
                },
                Admission::Rejected(rejected) => State::Rejected(Box::new(rejected)),
                Admission::Waiting(waiting) => State::Waiting(Box::new(waiting)),
            };
        }
        if let State::Waiting(waiting) = &mut self.state {
            self.state = ready!(Pin::new(waiting).poll(cx)).into();
        }
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If `poll_ready` was not ready before.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let controller = self.guard.controller;
        let Some(entry) = self.classify.entry(&request, &controller.labels) else {
            self.give_back();
            return ErrorFuture::calling(self.inner.call(request), Held::new(None));
        };
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Admitted { kib } if !entry.tag.is_classified() => {
                let permit = Permit::new(controller, kib, entry.tag).start();
                self.call_with(permit, request)
            }
            state => self.call_as(state, entry, request),
        }
    }
}

impl<S, C> MemoryGuardErrorService<S, C> {
    #[inline(always)]
    fn call_with<Req>(&mut self, permit: Permit, request: Req) -> ErrorFuture<S::Future>
    where
        S: Service<Req>,
    {
        // A panic of the inner service's is its failure.
        let held = Held::new(Some(permit));
        let future = {
            let _polling = Polling::unbraked(held.permit());
            self.inner.call(request)
        };
        ErrorFuture::calling(future, held)
    }

    /// `call`, for a request of a class, or where there is more to be done.
    fn call_as<Req>(&mut self, state: State, entry: Entry, request: Req) -> ErrorFuture<S::Future>
    where
        S: Service<Req>,
    {
        let controller = self.guard.controller;
        let admission = match state {
            State::Admitted { kib } => controller.admit_reserved(kib, entry),
            // It never waits behind others, so it was not meant.
            State::Rejected(_) if entry.tag.priority == Priority::Critical => {
                controller.admit(entry.into(), &no_deadline)
            }
            State::Rejected(rejected) => return ErrorFuture::rejected(rejected),
            State::Idle | State::Waiting(_) => panic!("poll_ready must be ready before call"),
        };
        match admission {
            Admission::Admitted(permit) => self.call_with(permit.start(), request),
            Admission::Waiting(waiting) => ErrorFuture::waiting(self.inner.call(request), waiting),
            Admission::Rejected(rejected) => ErrorFuture::rejected(Box::new(rejected)),
        }
    }
}

impl<S, C> Drop for MemoryGuardErrorService<S, C> {
    #[inline]
    fn drop(&mut self) {
        self.give_back();
    }
}
