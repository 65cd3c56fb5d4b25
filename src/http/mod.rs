//! The middleware: layers, services, futures and bodies, and what rejections look like.
//!
//! Here alone requests and responses are known. What they need is asked of the guard.

/// What is had of a service that wraps one.
macro_rules! wraps {
    ($service:ident<S $(, $parameter:ident)*>, $without:literal) => {
        impl<S $(, $parameter)*> $service<S $(, $parameter)*> {
            /// The service behind it.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// The service behind it.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            #[doc = $without]
            pub fn into_inner(self) -> S {
                self.inner
            }
        }
    };
}
pub(crate) use wraps;

pub(crate) mod body;
pub(crate) mod deadline;
pub(crate) mod delivery;
pub(crate) mod error_future;
pub(crate) mod error_service;
pub(crate) mod fallback;
pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod reply;
pub(crate) mod respond;
pub(crate) mod service;
pub(crate) mod staged;
