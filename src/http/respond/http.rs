//! 503 with a problem document (RFC 9457), for callers that speak plain HTTP.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::{RequestHead, Respond, grpc};
use crate::error::Rejected;

/// Answers with a status, `Retry-After` and `application/problem+json`; gRPC
/// callers get a gRPC status.
///
/// ```text
/// HTTP/1.1 503 Service Unavailable
/// content-type: application/problem+json
/// retry-after: 3
///
/// {"type":"about:blank","title":"Service Unavailable","status":503,
///  "detail":"memory is critically low (memory at 91.3 % of its limit, CRITICAL)",
///  "reason":"critical_pressure","memory_percent":91.3,"level":"CRITICAL"}
/// ```
///
/// What is too large now and later ([`Reason::is_permanent`](crate::Reason::is_permanent)) is answered with
/// 413 and no `Retry-After`. A request with `content-type: application/grpc…`
/// gets a trailers-only response: status 8 (`RESOURCE_EXHAUSTED`), and
/// `grpc-retry-pushback-ms`, which is −1 where a retry cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpResponder {
    status: StatusCode,
}

impl HttpResponder {
    /// 503 Service Unavailable.
    pub fn new() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Another status for what may be tried again, such as 429: meshes retry
    /// 503 and eject the backends that send it.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The answer with this status, to whoever speaks no gRPC.
    pub(crate) fn problem(rejected: &Rejected, status: StatusCode) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(problem(rejected, status)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let problem_type = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, problem_type);
        if let Some(after) = rejected.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl Default for HttpResponder {
    fn default() -> Self {
        Self::new()
    }
}

impl Respond for HttpResponder {
    fn respond(&self, rejected: &Rejected, request: RequestHead<'_>) -> Response<Bytes> {
        if let Some(content_type) = grpc::content_type(request.headers()) {
            return grpc::respond(rejected, content_type);
        }
        let status = match rejected.reason().is_permanent() {
            true => StatusCode::PAYLOAD_TOO_LARGE,
            false => self.status,
        };
        Self::problem(rejected, status)
    }
}

/// The document. None of its texts has a character that JSON escapes.
fn problem(rejected: &Rejected, status: StatusCode) -> String {
    format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\
         \"detail\":\"{rejected}\",\"reason\":\"{reason}\",\
         \"memory_percent\":{percent:.1},\"level\":\"{level}\"}}",
        title = status.canonical_reason().unwrap_or("Rejected"),
        status = status.as_u16(),
        reason = rejected.reason(),
        percent = rejected.memory_percent(),
        level = rejected.pressure(),
    )
}
