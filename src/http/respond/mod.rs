//! What a rejected caller is told.
//!
//! A [`Respond`] turns a [`Rejected`] into a response; it alone knows HTTP and
//! gRPC. [`HttpResponder`] speaks both.

mod grpc;
mod http;

use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response, Uri, Version};
use bytes::Bytes;

pub use self::http::HttpResponder;
use super::reply::answer_to;
use crate::error::Rejected;
use crate::sync::foreign::{self, Code};

/// Answers the requests that are turned away.
///
/// A closure does, if the answer is the same whatever was asked for:
///
/// ```
/// use bytes::Bytes;
/// use http::{Response, StatusCode};
/// use tower_memory_guard::{MemoryGuardLayer, Rejected};
///
/// let layer = MemoryGuardLayer::builder().build()?.respond(|rejected: &Rejected| {
///     let mut response = Response::new(Bytes::from(rejected.to_string()));
///     *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     response
/// });
/// # let app: axum::Router = axum::Router::new().layer(layer);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
///
/// A type of one's own sees the request's head, too. One that is chosen at run time is an
/// `Arc<dyn Respond + Send + Sync>`:
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use http::Response;
/// use tower_memory_guard::{HttpResponder, MemoryGuardLayer, Rejected, RequestHead, Respond};
///
/// struct ForPeople(HttpResponder);
///
/// impl Respond for ForPeople {
///     fn respond(&self, rejected: &Rejected, request: RequestHead<'_>) -> Response<Bytes> {
///         let mut response = self.0.respond(rejected, request);
///         if request.uri().path().starts_with("/page") {
///             *response.body_mut() = Bytes::from("Please come back in a moment.");
///         }
///         response
///     }
/// }
///
/// let responder: Arc<dyn Respond + Send + Sync> = Arc::new(ForPeople(HttpResponder::new()));
/// let layer = MemoryGuardLayer::builder().build()?.respond(responder);
/// # let app: axum::Router = axum::Router::new().layer(layer);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
pub trait Respond {
    /// The answer to `request`, which was not passed on.
    ///
    /// Of the answer to HEAD the head is sent, with the body's length. If it panics, the caller gets what [`HttpResponder`] answers.
    fn respond(&self, rejected: &Rejected, request: RequestHead<'_>) -> Response<Bytes>;
}

impl<F> Respond for F
where
    F: Fn(&Rejected) -> Response<Bytes>,
{
    fn respond(&self, rejected: &Rejected, _: RequestHead<'_>) -> Response<Bytes> {
        self(rejected)
    }
}

impl<R: Respond + ?Sized> Respond for Arc<R> {
    fn respond(&self, rejected: &Rejected, request: RequestHead<'_>) -> Response<Bytes> {
        (**self).respond(rejected, request)
    }
}

/// The head of a request that is turned away: all that a [`Respond`](crate::Respond) sees of
/// it, whatever its body is.
///
/// For a test of one's own responder it is made `From` a reference to a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The request's method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The request's URI, as the layer sees it.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The version of HTTP that the request came with.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The request's headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        }
    }
}

/// The answer of a responder that may be the service's.
pub(crate) fn answer<R: Respond, B>(
    responder: &R,
    rejected: &Rejected,
    request: &Request<B>,
) -> Response<Bytes> {
    let head = RequestHead::from(request);
    let answer = foreign::call(Code::Responder, || responder.respond(rejected, head))
        .unwrap_or_else(|| HttpResponder::new().respond(rejected, head));
    answer_to(request.method(), answer)
}
