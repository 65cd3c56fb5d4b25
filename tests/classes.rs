//! Classes of HTTP requests by method, path and headers, through a real axum server.

mod support;

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request, StatusCode};
use axum::routing::any;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{counting, fill, serve_axum};
use tower_memory_guard::{Class, Priority, RequestClasses};

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
