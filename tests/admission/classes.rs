//! Classes of HTTP requests by method, path and headers, through a real axum server.

use std::convert::Infallible;
use std::net::SocketAddr;

use crate::support::{MIB, counting, fill, serve_axum, with};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request, Response, StatusCode};
use axum::routing::any;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{Class, Cost, MemoryGuardLayer, Priority, RequestClasses};

async fn status(address: SocketAddr, method: &str, path: &str, priority: &str) -> StatusCode {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("x-priority", priority)
        .body(Body::empty())
        .unwrap();
    client.request(request).await.unwrap().status()
}

#[tokio::test]
async fn only_a_critical_route_answers_at_critical_pressure() {
    let (layer, memory) = counting(8);
    let guard = layer.guard().clone();
    let classes = RequestClasses::builder()
        .route(
            "GET /health/{part}",
            Class::new("health").priority(Priority::Critical),
        )
        .otherwise(Class::new("page"))
        .priority_header(HeaderName::from_static("x-priority"))
        .build()
        .unwrap();
    let app = Router::new()
        .fallback(any(|| async { "done" }))
        .layer(layer.classify_with(classes));
    let address = serve_axum(app).await;

    assert_eq!(status(address, "GET", "/", "normal").await, 200);
    fill(&guard, &memory, 90);
    assert_eq!(status(address, "GET", "/health/live", "low").await, 200);
    for (method, path) in [
        ("POST", "/health/live"),
        ("GET", "/health"),
        ("GET", "/page"),
    ] {
        let status = status(address, method, path, "critical").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
    }
}

async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

async fn echo(mib: u64) -> Result<u64, Infallible> {
    Ok(mib)
}

/// A health check passes by, and what is left is of its class.
macro_rules! skips_and_classifies {
    ($guarded:expr) => {{
        let (layer, _memory) = with(|builder| builder.max_waiting(0));
        let guard = layer.guard().clone();
        let service = $guarded(layer).layer(service_fn(answer));
        let _held = guard.try_acquire(Cost::Bytes(900 * MIB)).unwrap();
        for (path, expected) in [("/health", 200), ("/page", 200), ("/report", 503)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = service.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
        }
        assert_eq!(
            guard.stats().total_requests,
            3,
            "with the permit, and skipped none"
        );
    }};
}

fn is_health(request: &Request<Body>) -> bool {
    request.uri().path() == "/health"
}

fn by_path(request: &Request<Body>) -> Class {
    match request.uri().path() {
        "/page" => Class::new("page").cost(MIB),
        path => Class::new(path.to_owned()).cost(900 * MIB),
    }
}

#[tokio::test]
async fn what_is_skipped_may_be_said_before_or_after_what_requests_are() {
    skips_and_classifies!(|layer: MemoryGuardLayer| layer.classify(by_path).skip(is_health));
    skips_and_classifies!(|layer: MemoryGuardLayer| layer.skip(is_health).classify(by_path));
    skips_and_classifies!(|layer: MemoryGuardLayer| {
        let classes = RequestClasses::builder()
            .route("/page", Class::new("page").cost(MIB))
            .otherwise(Class::new("other").cost(900 * MIB));
        let layer = layer.skip(is_health).stage_bodies(MIB);
        layer.classify_with(classes.build().unwrap())
    });
}

#[tokio::test]
async fn the_error_flavour_takes_both_in_any_order_too() {
    let (layer, _memory) = with(|builder| builder.max_waiting(0));
    let guard = layer.guard().clone();
    let service = layer
        .skip(|mib: &u64| *mib == 1000)
        .classify(|mib: &u64| Class::new("sized").cost(mib * MIB))
        .into_error_layer()
        .layer(service_fn(echo));
    let _held = guard.try_acquire(Cost::Bytes(500 * MIB)).unwrap();
    for (mib, passes) in [(1000, true), (1, true), (900, false)] {
        let answer = service.clone().oneshot(mib).await;
        assert_eq!(answer.is_ok(), passes, "{mib} MiB");
    }
}
