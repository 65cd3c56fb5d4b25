//! Answers for who asks whether the process should get requests, and whether it lives.
//!
//! Readiness that followed load would cascade: the first replica that is full leaves,
//! its share goes to the others, and they leave too. So it follows only what waiting
//! does not cure.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::guard::handle::{Guard, LATCHED_AFTER};
use crate::http::reply::{ReplyBody, answer_to};

/// Tells load balancers whether to send requests here; made by [`Guard::readiness`].
///
/// Answers every request with 200 and `ready`, or with 503 and why not:
///
/// - the guard was [closed](Guard::close), or
/// - it is latched: for 30 s memory left room for nobody, nobody was admitted and
///   nobody finished. Something besides requests holds memory then, or a request hangs.
///   In [observe mode](crate::Mode::Observe) this is only reported.
///
/// A replica that is merely full stays ready, and answers for itself: with waits, 503
/// and `Retry-After`. Never waits, takes no lock, and needs no permit.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_memory_guard::MemoryGuardLayer;
///
/// let layer = MemoryGuardLayer::from_env();
/// let guard = layer.guard().clone();
/// let app: Router = Router::new()
///     .route("/render", post(|| async { "…" }))
///     .layer(layer)
///     .route_service("/ready", guard.readiness())
///     .route_service("/live", guard.liveness());
/// ```
#[derive(Clone, Debug)]
pub struct Readiness {
    guard: Guard,
    latched_after: Duration,
}

impl Readiness {
    /// Not ready when latched for longer than this (default 30 s), as far as this service
    /// is asked. For work that may fill all memory by itself, longer than it runs.
    #[must_use]
    pub fn latched_after(mut self, duration: Duration) -> Self {
        self.latched_after = duration;
        self
    }

    fn answer(&self, method: &Method, _: &str) -> Response<ReplyBody> {
        match self.guard.state().unready(self.latched_after) {
            None => plain(method, StatusCode::OK, "ready\n"),
            Some(why) => plain(method, StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    }
}

/// Says that the process lives; made by [`Guard::liveness`].
///
/// Answers every request with 200: a restart does not make memory of which there is too
/// little, and takes the waiters with it. It fails only by not answering, which is what
/// a runtime that hangs does.
#[derive(Clone, Debug)]
pub struct Liveness(());

impl Liveness {
    fn answer(&self, method: &Method, _: &str) -> Response<ReplyBody> {
        plain(method, StatusCode::OK, "alive\n")
    }
}

impl Guard {
    /// A service for readiness probes: 503 once nobody could be admitted for 30 s, or when
    /// closing. See [`Readiness`].
    pub fn readiness(&self) -> Readiness {
        Readiness {
            guard: self.clone(),
            latched_after: LATCHED_AFTER,
        }
    }

    /// A service for liveness probes, which no pressure makes fail. See [`Liveness`].
    pub fn liveness(&self) -> Liveness {
        Liveness(())
    }
}

fn plain(method: &Method, status: StatusCode, text: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    answer_to(method, response).map(ReplyBody::whole)
}

answers!(Readiness => ReplyBody);
answers!(Liveness => ReplyBody);
