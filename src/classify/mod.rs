//! What a request is to the guard, before it is admitted.

pub(crate) mod labels;
pub(crate) mod names;
mod requests;
mod routes;
pub(crate) mod tenants;
mod unclassified;

use http::Request;
use http::header::CONTENT_LENGTH;
use http_body::Body;

use crate::class::Class;
use crate::limiter::{Ask, Need};
use crate::sync::foreign::{self, Code};
use crate::units::kib;
use labels::{Demand, Labels};
use sealed::Demands;

pub use requests::{RequestClasses, RequestClassesBuilder};
pub use unclassified::Unclassified;

mod sealed {
    use super::labels::{Demand, Labels};

    pub trait Sealed {}

    /// What [`Classify`](super::Classify) says, in the guard's own terms.
    pub trait Demands<Req> {
        /// What one asks for before it has come.
        const BEFORE: Demand = Demand::ANY;

        /// `None`: the request passes by the guard, uncounted.
        fn demand(&self, request: &Req, labels: &Labels) -> Option<Demand>;
    }
}

/// Says what a request is, or that the guard has nothing to do with it.
///
/// Implemented by [`Uniform`], [`ByRequest`], [`RequestClasses`], [`Skip`] and [`Staged`];
/// sealed, so that it can grow.
pub trait Classify<Req>: sealed::Demands<Req> {}

impl<Req, C: Demands<Req>> Classify<Req> for C {}

/// All requests are alike: each is expected to need what the guard estimates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uniform;

impl sealed::Sealed for Uniform {}

impl<Req> Demands<Req> for Uniform {
    const BEFORE: Demand = Demand::NONE;

    #[inline]
    fn demand(&self, _: &Req, _: &Labels) -> Option<Demand> {
        Some(Demand::NONE)
    }
}

/// A function says what a request is; made by
/// [`MemoryGuardLayer::classify`](crate::MemoryGuardLayer::classify).
#[derive(Clone, Copy)]
pub struct ByRequest<F>(F);

impl<F> ByRequest<F> {
    pub(crate) fn new(classify: F) -> Self {
        Self(classify)
    }
}

opaque_debug!(impl[F] ByRequest<F>);

impl<Req, F> Demands<Req> for ByRequest<F>
where
    F: Fn(&Req) -> Class,
{
    #[inline]
    fn demand(&self, request: &Req, labels: &Labels) -> Option<Demand> {
        // Who panics has not said: the request is as one that nobody classified.
        let class = foreign::call(Code::Classifier, || (self.0)(request));
        Some(class.map_or(Demand::NONE, |class| labels.demand(&class)))
    }
}

/// Some requests pass by the guard; made by
/// [`MemoryGuardLayer::skip`](crate::MemoryGuardLayer::skip).
#[derive(Clone, Copy)]
pub struct Skip<C, F> {
    rest: C,
    skips: F,
}

impl<C, F> Skip<C, F> {
    pub(crate) fn new(rest: C, skips: F) -> Self {
        Self { rest, skips }
    }
}

impl<C: std::fmt::Debug, F> std::fmt::Debug for Skip<C, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Skip")
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

impl<C: sealed::Sealed, F> sealed::Sealed for Skip<C, F> {}

impl<Req, C, F> Demands<Req> for Skip<C, F>
where
    C: Demands<Req>,
    F: Fn(&Req) -> bool,
{
    const BEFORE: Demand = C::BEFORE;

    #[inline]
    fn demand(&self, request: &Req, labels: &Labels) -> Option<Demand> {
        let skips = foreign::call(Code::Classifier, || (self.skips)(request));
        if skips == Some(true) {
            None
        } else {
            self.rest.demand(request, labels)
        }
    }
}

/// Requests are admitted for their bodies first; made by
/// [`MemoryGuardLayer::stage_bodies`](crate::MemoryGuardLayer::stage_bodies).
#[derive(Clone, Copy, Debug)]
pub struct Staged<C> {
    rest: C,
    unknown_bytes: u64,
}

impl<C> Staged<C> {
    pub(crate) fn new(rest: C, unknown_bytes: u64) -> Self {
        Self {
            rest,
            unknown_bytes,
        }
    }

    fn body_bytes<B: Body>(&self, request: &Request<B>) -> u64 {
        let announced = || {
            let length = request.headers().get(CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        };
        let exact = || request.body().size_hint().exact();
        announced().or_else(exact).unwrap_or(self.unknown_bytes)
    }
}

impl<C: sealed::Sealed> sealed::Sealed for Staged<C> {}

impl<B, C> Demands<Request<B>> for Staged<C>
where
    B: Body,
    C: Demands<Request<B>>,
{
    const BEFORE: Demand = C::BEFORE;

    #[inline]
    fn demand(&self, request: &Request<B>, labels: &Labels) -> Option<Demand> {
        let mut demand = self.rest.demand(request, labels)?;
        // Without a body there is nothing to wait for.
        if !request.body().is_end_stream() {
            let body_kib = kib(self.body_bytes(request));
            demand.need = Need::Known(Ask::exactly(body_kib, demand.tag()));
        }
        Some(demand)
    }
}
