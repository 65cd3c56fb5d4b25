//! [`LimitedJson`]: a JSON answer of a bounded size.

use axum_core::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::{Error, to_json};
use crate::guard::handle::Guard;
use crate::http::respond::HttpResponder;

/// Answers with the value as JSON, or refuses it before it is built.
///
/// A value that is too large becomes a 413 (or a status of one's choice) with
/// `application/problem+json` and the reason `result_too_large`, counted and
/// logged as the guard's other rejections; in observe mode, or if the guard is not enabled,
/// it is answered all the same. One without a JSON form becomes a 500, as with `axum::Json`.
///
/// ```
/// use axum::extract::State;
/// use tower_memory_guard::Guard;
/// use tower_memory_guard::result_size::LimitedJson;
///
/// async fn export(State(guard): State<Guard>) -> LimitedJson<Vec<String>> {
///     LimitedJson::new(&guard, vec!["row".into()])
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is returned"]
pub struct LimitedJson<T> {
    value: T,
    guard: Guard,
    limit_bytes: u64,
    status: StatusCode,
}

impl<T> LimitedJson<T> {
    /// Limited by the guard's
    /// [`max_result_size_bytes`](crate::Config::max_result_size_bytes).
    pub fn new(guard: &Guard, value: T) -> Self {
        Self {
            value,
            guard: guard.clone(),
            limit_bytes: guard.config().max_result_size_bytes,
            status: StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Another limit in bytes.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit_bytes = bytes;
        self
    }

    /// The status of a refusal. Default 413.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl<T: Serialize> IntoResponse for LimitedJson<T> {
    fn into_response(self) -> Response {
        let mut json = to_json(&self.value, self.limit_bytes);
        if let Err(Error::TooLarge(_)) = json {
            let refusal = |rejected: &_| HttpResponder::problem(rejected, self.status);
            if let Some(refusal) = self.guard.refuse_result(refusal) {
                return refusal.map(Into::into);
            }
            json = to_json(&self.value, u64::MAX);
        }
        match json {
            Ok(json) => {
                let json_type = HeaderValue::from_static("application/json");
                ([(CONTENT_TYPE, json_type)], json).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}
