//! Readiness follows what waiting does not cure, and nothing else; liveness follows nothing.

use std::time::Duration;

use crate::support::{self, counting, eventually, fill, with};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use tower::{Service, ServiceExt};
use tower_memory_guard::{Class, Cost, Guard, Mode, Priority, Readiness};

async fn ask(
    mut service: impl Service<
        Request<Body>,
        Response = http::Response<
            impl http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug> + Send + 'static,
        >,
        Error = std::convert::Infallible,
    >,
) -> (StatusCode, String) {
    let response = service
        .ready()
        .await
        .unwrap()
        .call(Request::default())
        .await
        .unwrap();
    let (head, body) = response.into_parts();
    let text = http_body_util::BodyExt::collect(body)
        .await
        .unwrap()
        .to_bytes();
    (head.status, String::from_utf8(text.to_vec()).unwrap())
}

/// Not ready as soon as it is latched at all.
fn impatient(guard: &Guard) -> Readiness {
    guard.readiness().latched_after(Duration::ZERO)
}

/// Latched for a moment, by memory that something else holds.
async fn latch(guard: &Guard, memory: &tower_memory_guard::ManualSource) {
    fill(guard, memory, 100);
    eventually("latched", || {
        guard.sample_now();
        guard.stats().latched_seconds > 0.01
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_is_full_of_work_stays_ready() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    // Before it begins: memory that comes while it runs counts as what requests need.
    fill(&guard, &memory, 60);
    let _active = guard.acquire(1024).await.unwrap();
    guard.sample_now();
    assert!(guard.try_acquire(1024).is_err());
    // However long that lasts.
    tokio::time::sleep(Duration::from_millis(5)).await;
    guard.sample_now();
    assert_eq!(ask(impatient(&guard)).await.0, StatusCode::OK);
    // CRITICAL, but not for long.
    fill(&guard, &memory, 100);
    assert_eq!(ask(guard.readiness()).await.0, StatusCode::OK);
    assert!(guard.is_ready());
}

#[tokio::test]
async fn a_replica_without_room_for_anybody_says_for_how_long() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    assert_eq!(guard.stats().latched_seconds, 0.0);
    latch(&guard, &memory).await;
    let (status, text) = ask(impatient(&guard)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.starts_with("latched: for "), "{text}");
    // Not for 30 s, and never a reason for a restart.
    assert_eq!(
        ask(guard.readiness()).await,
        (StatusCode::OK, "ready\n".into())
    );
    assert_eq!(
        ask(guard.liveness()).await,
        (StatusCode::OK, "alive\n".into())
    );
    fill(&guard, &memory, 50);
    assert_eq!(ask(impatient(&guard)).await.0, StatusCode::OK);
    assert_eq!(guard.stats().latched_seconds, 0.0);
}

#[tokio::test]
async fn a_replica_that_serves_what_fits_is_not_latched() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let active = guard.acquire(1024).await.unwrap();
    latch(&guard, &memory).await;
    drop(active);
    guard.sample_now();
    assert_eq!(guard.stats().latched_seconds, 0.0, "one has finished");
}

#[tokio::test]
async fn a_replica_that_has_room_for_critical_work_alone_is_latched() {
    let (layer, memory) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(10 * support::MIB);
        builder.critical_reserve(0.1)
    });
    let guard = layer.guard().clone();
    fill(&guard, &memory, 88);
    let critical = Class::new("login").priority(Priority::Critical);
    let _critical = guard
        .acquire_for(&critical.cost(support::MIB))
        .await
        .unwrap();
    guard.sample_now();
    // 8 % are free below what is promised, and 10 % set aside.
    assert!(guard.try_acquire(Cost::Estimated).is_err());
    eventually("latched", || {
        guard.sample_now();
        guard.stats().latched_seconds > 0.01
    })
    .await;
}

#[tokio::test]
async fn observe_mode_is_ready_whatever_it_sees() {
    let (layer, memory) = with(|builder| builder.mode(Mode::Observe));
    let guard = layer.guard().clone();
    latch(&guard, &memory).await;
    assert_eq!(ask(impatient(&guard)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_closing_replica_leaves_at_once_and_lives() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard().clone();
    let app: Router = Router::new()
        .route_service("/ready", guard.readiness())
        .route_service("/live", guard.liveness());
    guard.close();
    assert!(!guard.is_ready());
    for (path, status, text) in [
        ("/ready", 503, "closing: no new work is taken\n"),
        ("/live", 200, "alive\n"),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = to_bytes(response.into_body(), 1024).await.unwrap();
        assert_eq!(body, text);
    }
}

#[tokio::test]
async fn an_idle_replica_is_not_latched_by_an_estimate() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(600 * support::MIB));
    let guard = layer.guard().clone();
    // More is expected than is free, and alone one is let in all the same.
    for percent in [60, 63, 60, 63] {
        fill(&guard, &memory, percent);
        assert_eq!(guard.stats().latched_seconds, 0.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    guard.sample_now();
    assert_eq!(guard.stats().latched_seconds, 0.0);
    assert!(guard.acquire(Cost::Estimated).await.is_ok());
}

#[tokio::test]
async fn demand_is_bounded_where_nothing_may_be_admitted() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let active = guard.acquire(100 * support::MIB).await.unwrap();
    for _ in 0..20 {
        fill(&guard, &memory, 99);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(
        guard.stats().demand_ratio <= 1.0,
        "{}",
        guard.stats().demand_ratio
    );
    guard.close();
    for _ in 0..20 {
        guard.sample_now();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(
        guard.stats().demand_ratio <= 1.0,
        "{}",
        guard.stats().demand_ratio
    );
    drop(active);
}
