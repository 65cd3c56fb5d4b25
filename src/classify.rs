//! What a request is to the guard, before it is admitted.

use crate::admission::Cost;

mod sealed {
    pub trait Sealed {}
}

/// Says what a request needs, or that the guard has nothing to do with it.
///
/// Implemented by [`Uniform`] and [`Skip`]; sealed, so that it can grow.
pub trait Classify<Req>: sealed::Sealed {
    /// `None`: the request passes by the guard, uncounted.
    #[doc(hidden)]
    fn cost(&self, request: &Req) -> Option<Cost>;
}

/// All requests are alike: each is expected to need what the guard estimates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uniform;

impl sealed::Sealed for Uniform {}

impl<Req> Classify<Req> for Uniform {
    #[inline]
    fn cost(&self, _: &Req) -> Option<Cost> {
        Some(Cost::Estimated)
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

impl<Req, C, F> Classify<Req> for Skip<C, F>
where
    C: Classify<Req>,
    F: Fn(&Req) -> bool,
{
    #[inline]
    fn cost(&self, request: &Req) -> Option<Cost> {
        if (self.skips)(request) {
            None
        } else {
            self.rest.cost(request)
        }
    }
}
