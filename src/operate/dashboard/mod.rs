//! A page for people on call: what the guard sees and decides, live.

mod body;
mod snapshot;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

pub use body::DashboardBody;

use crate::guard::handle::Guard;
use crate::http::reply::answer_to;

/// Everything in one file: it asks for nothing but the two paths beside it.
const PAGE: &str = include_str!("page.html");
/// It runs what is in it, and asks its own server only.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

/// A page that shows live what a guard sees and decides; made by [`Guard::dashboard`].
///
/// | path | what |
/// |---|---|
/// | the mount point | the page: one file, light and dark, nothing from elsewhere |
/// | `…/events` | server-sent events, two a second, each a snapshot as JSON |
/// | `…/snapshot.json` | one snapshot |
///
/// It is mounted where you say, and nowhere by itself. It shows class names, settings
/// and how loaded the service is: put it on a port or behind a check that only operators
/// pass. It changes nothing. Events end when the guard is [closed](Guard::close), so that
/// an open page does not hold up a graceful shutdown.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_memory_guard::MemoryGuardLayer;
///
/// let layer = MemoryGuardLayer::from_env();
/// let guard = layer.guard().clone();
/// let app: Router = Router::new().route("/render", post(|| async { "…" })).layer(layer);
/// // For another listener, that only operators reach.
/// let admin: Router = Router::new().nest_service("/guard", guard.dashboard());
/// ```
///
/// # Panics
///
/// The body of `…/events`, when polled outside a tokio runtime with its timer enabled.
#[derive(Clone, Debug)]
pub struct Dashboard {
    guard: Guard,
}

impl Guard {
    /// A page for people on call. See [`Dashboard`], also for who should reach it.
    pub fn dashboard(&self) -> Dashboard {
        Dashboard {
            guard: self.clone(),
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let mut set = |name: HeaderName, value: &'static str| {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    };
    set(CONTENT_TYPE, kind);
    set(CACHE_CONTROL, "no-store");
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(HeaderName::from_static("x-content-type-options"), "nosniff");
    // Proxies that collect responses would hold events back.
    set(HeaderName::from_static("x-accel-buffering"), "no");
    response
}

impl Dashboard {
    fn answer(&self, method: &Method, path: &str) -> Response<DashboardBody> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let body = Bytes::from_static(b"only GET\n");
            let mut refused = respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", body);
            let get = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, get);
            return refused.map(DashboardBody::whole);
        }
        let (kind, body) = match path.rsplit('/').next().unwrap_or_default() {
            "events" => {
                let events = respond(StatusCode::OK, "text/event-stream", Bytes::new());
                return events.map(|none| match *method {
                    Method::HEAD => DashboardBody::whole(none),
                    _ => DashboardBody::events(self.guard.clone()),
                });
            }
            "snapshot.json" => {
                let snapshot = snapshot::take(&self.guard, &mut Vec::new()).to_string();
                ("application/json", snapshot.into())
            }
            // Mounted at any path, with a slash behind it or without.
            _ => (
                "text/html; charset=utf-8",
                Bytes::from_static(PAGE.as_bytes()),
            ),
        };
        answer_to(method, respond(StatusCode::OK, kind, body)).map(DashboardBody::whole)
    }
}

answers!(Dashboard => DashboardBody);
