//! A trailers-only response with status 8, for callers that speak gRPC.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md> and, for
//! the pushback, <https://github.com/grpc/proposal/blob/master/A6-client-retries.md>.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::error::Rejected;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

/// The content type of a gRPC request, gRPC-Web included.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(CONTENT_TYPE)?;
    let is_grpc = value.as_bytes().starts_with(b"application/grpc");
    is_grpc.then_some(value)
}

pub(super) fn respond(rejected: &Rejected, content_type: &HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type.clone());
    headers.insert(STATUS, RESOURCE_EXHAUSTED);
    // Percent-encoded: printable ASCII without `%`; ours has nothing else.
    if let Ok(message) = HeaderValue::try_from(rejected.to_string().replace('%', "%25")) {
        headers.insert(MESSAGE, message);
    }
    let pushback = match rejected.retry_after() {
        Some(after) => HeaderValue::from(after.as_millis() as u64),
        None => HeaderValue::from_static("-1"),
    };
    headers.insert(PUSHBACK, pushback);
    response
}
