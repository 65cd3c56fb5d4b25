//! What a rejected caller is told.
//!
//! A [`Respond`] turns a [`Rejected`] into a response; it alone knows HTTP and
//! gRPC. [`HttpResponder`] speaks both.

mod grpc;
mod http;

use ::http::{Request, Response};
use bytes::Bytes;

pub use self::http::HttpResponder;
use super::reply::answer_to;
use crate::error::Rejected;
use crate::sync::foreign::{self, Code};

/// Answers the requests that are turned away.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use tower_memory_guard::{MemoryGuardLayer, Rejected, Respond};
///
/// #[derive(Clone)]
/// struct Plain;
///
/// impl Respond for Plain {
///     fn respond<B>(&self, rejected: &Rejected, _: &Request<B>) -> Response<Bytes> {
///         let mut response = Response::new(Bytes::from(rejected.to_string()));
///         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///         response
///     }
/// }
///
/// let layer = MemoryGuardLayer::builder().build()?.respond(Plain);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
pub trait Respond: Clone {
    /// The answer to `request`, which was not passed on.
    ///
    /// Of the answer to HEAD the head is sent, with the body's length. If it panics, the caller gets what [`HttpResponder`] answers.
    fn respond<B>(&self, rejected: &Rejected, request: &Request<B>) -> Response<Bytes>;
}

/// The answer of a responder that may be the service's.
pub(crate) fn answer<R: Respond, B>(
    responder: &R,
    rejected: &Rejected,
    request: &Request<B>,
) -> Response<Bytes> {
    let answer = foreign::call(Code::Responder, || responder.respond(rejected, request))
        .unwrap_or_else(|| HttpResponder::new().respond(rejected, request));
    answer_to(request.method(), answer)
}
