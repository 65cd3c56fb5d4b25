//! [`Unclassified`]: what has not been told yet what requests are.

use super::{Skip, Staged, Uniform, sealed};

/// A [`Classify`](crate::Classify) that has not been told yet what requests are: [`Uniform`],
/// and [`Skip`] and [`Staged`] around it.
///
/// It lets [`MemoryGuardLayer::classify`](crate::MemoryGuardLayer::classify) stand before and
/// after [`skip`](crate::MemoryGuardLayer::skip) and
/// [`stage_bodies`](crate::MemoryGuardLayer::stage_bodies). Requests are classified once: a
/// layer that knows what they are is not told again. Sealed, so that it can grow.
pub trait Unclassified: sealed::Sealed {
    /// The same, with `C` in the place of [`Uniform`].
    type With<C>;

    /// Puts `classify` where [`Uniform`] is.
    #[doc(hidden)]
    fn with<C>(self, classify: C) -> Self::With<C>;
}

impl Unclassified for Uniform {
    type With<C> = C;

    fn with<C>(self, classify: C) -> C {
        classify
    }
}

impl<U: Unclassified, F> Unclassified for Skip<U, F> {
    type With<C> = Skip<U::With<C>, F>;

    fn with<C>(self, classify: C) -> Self::With<C> {
        Skip::new(self.rest.with(classify), self.skips)
    }
}

impl<U: Unclassified> Unclassified for Staged<U> {
    type With<C> = Staged<U::With<C>>;

    fn with<C>(self, classify: C) -> Self::With<C> {
        Staged::new(self.rest.with(classify), self.unknown_bytes)
    }
}
