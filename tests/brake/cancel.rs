//! As a last resort a request in flight is cancelled, if the service allows it.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::http::{Request, Response};
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{MIB, assert_empty, creep, eventually, fill, poll_once, rush, serve_axum, with};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_memory_guard::account;
use tower_memory_guard::{
    Config, Guard, ManualSource, MemoryGuardLayer, Permit, Reason, Rejected, StagedBody,
    StagedBodyLayer,
};

fn cancelling() -> (MemoryGuardLayer, ManualSource, Guard) {
    let (layer, memory) = with(|builder| {
        let builder = builder.cancel(true);
        builder.estimated_bytes_per_request(300 * MIB)
    });
    let guard = layer.guard().clone();
    (layer, memory, guard)
}

fn request(address: std::net::SocketAddr) -> tokio::task::JoinHandle<Response<Incoming>> {
    tokio::spawn(async move {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let uri = format!("http://{address}/").parse().unwrap();
        client.get(uri).await.unwrap()
    })
}

/// Counts how many of it are dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_cancelled_caller_is_told_and_its_work_is_dropped() {
    let (layer, memory, guard) = cancelling();
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let handler = move || {
        let held = Dropped(Arc::clone(&counter));
        async move {
            pending::<()>().await;
            drop(held);
        }
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let requests = [request(address), request(address), request(address)];
    eventually("three are active", || guard.stats().active_tasks == 3).await;
    rush(&guard, &memory).await;
    eventually("one is cancelled", || guard.stats().active_tasks == 2).await;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    fill(&guard, &memory, 50);
    let [one, two, three] = requests;
    let response = tokio::select! {
        response = one => response,
        response = two => response,
        response = three => response,
    };
    let response = response.unwrap();
    assert_eq!(response.status(), 503);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["reason"], "cancelled");
    let stats = guard.stats();
    assert_eq!((stats.rejected_requests, stats.total_requests), (1, 3));
}

#[tokio::test]
async fn as_many_are_cancelled_as_are_needed_at_once() {
    let (layer, memory) = with(|builder| {
        let builder = builder.cancel(true);
        builder.estimated_bytes_per_request(100 * MIB)
    });
    let guard = layer.guard().clone();
    let app = Router::new().route("/", get(pending::<()>)).layer(layer);
    let address = serve_axum(app).await;
    let _requests: Vec<_> = (0..5).map(|_| request(address)).collect();
    eventually("all are active", || guard.stats().active_tasks == 5).await;
    fill(&guard, &memory, 40);
    fill(&guard, &memory, 95);
    // A quarter would be one.
    let cancelled = || guard.stats().cancelled_requests;
    eventually("several are cancelled", || cancelled() >= 2).await;
}

#[tokio::test]
async fn checkpoints_do_not_hide_what_nobody_lets_grow() {
    let (layer, memory, guard) = cancelling();
    let app = Router::new().route("/", get(pending::<()>)).layer(layer);
    let address = serve_axum(app).await;
    let _request = request(address);
    eventually("it is active", || guard.stats().active_tasks == 1).await;
    let working = guard.acquire(80 * MIB).await.unwrap();
    creep(&guard, &memory, &[40, 65, 71]).await;
    fill(&guard, &memory, 71);
    // Each may add what is reserved, and none does.
    let checkpoints = move || {
        for _ in 0..5 {
            working.checkpoint().unwrap();
        }
        working
    };
    let working = std::thread::spawn(checkpoints).join().unwrap();
    fill(&guard, &memory, 96);
    let cancelled = || guard.stats().cancelled_requests;
    eventually("one is cancelled", || cancelled() == 1).await;
    drop(working);
}

#[tokio::test]
async fn nobody_is_cancelled_while_nothing_grows() {
    let (layer, memory, guard) = cancelling();
    let app = Router::new().route("/", get(pending::<()>)).layer(layer);
    let address = serve_axum(app).await;
    let _request = request(address);
    eventually("it is active", || guard.stats().active_tasks == 1).await;
    creep(&guard, &memory, &[40, 65, 78, 86, 91, 94, 96, 97, 98]).await;
    fill(&guard, &memory, 98);
    assert_eq!(guard.stats().cancelled_requests, 0);
}

/// Never answers; on `/grows` it adds to what it holds whenever it is polled.
async fn never(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let grows = request.uri().path() == "/grows";
    let mut held = Vec::new();
    poll_fn(move |_| {
        if grows {
            held.push(vec![1_u8; MIB as usize]);
        }
        Poll::Pending
    })
    .await
}

#[tokio::test]
async fn nobody_is_cancelled_while_one_gets_on_that_began_before_the_brake() {
    let (layer, memory) = with(|builder| {
        let builder = builder.cancel(true);
        builder.estimated_bytes_per_request(100 * MIB)
    });
    let guard = layer.guard().clone();
    let service = layer.layer(service_fn(never));
    let call = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        Box::pin(service.clone().oneshot(request))
    };
    let mut before = call("/grows");
    assert!(poll_once(before.as_mut()).is_pending());
    creep(&guard, &memory, &[10, 20]).await;
    let mut after = call("/");
    assert!(poll_once(before.as_mut()).is_pending());
    assert!(poll_once(after.as_mut()).is_pending());
    creep(&guard, &memory, &[40, 65, 78, 86, 91, 94, 96]).await;
    assert!(poll_once(after.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 1);
    creep(&guard, &memory, &[96; 4]).await;
    let stats = guard.stats();
    assert_eq!((stats.cancelled_requests, stats.paused_tasks), (0, 1));
    // Nobody gets on any more.
    drop(before);
    creep(&guard, &memory, &[96; 4]).await;
    assert_eq!(guard.stats().cancelled_requests, 1);
}

#[tokio::test]
async fn a_response_that_has_begun_is_not_cancelled() {
    let (layer, memory, guard) = cancelling();
    let handler = || async {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("begun"))]);
        Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()))
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let mut response = request(address).await.unwrap();
    rush(&guard, &memory).await;
    let frame = response.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "begun");
    assert_eq!(guard.stats().active_tasks, 1);
    assert_eq!(guard.stats().rejected_requests, 0);
}

#[tokio::test]
async fn nor_is_one_that_began_before_it_was_allowed() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(300 * MIB));
    let guard = layer.guard().clone();
    let stream = |request: Request<StagedBody<Body>>| async {
        request.into_body().collect().await.unwrap();
        let frames = stream::pending::<Result<Bytes, std::io::Error>>();
        Ok::<_, std::io::Error>(Response::new(Body::from_stream(frames)))
    };
    // Whoever is staged is told of a rejection, whether it may be cancelled or not.
    let service = ServiceBuilder::new()
        .layer(layer.stage_bodies(MIB))
        .layer(StagedBodyLayer::new())
        .service_fn(stream);
    let response = service.oneshot(Request::new(Body::from("all"))).await;
    let response = response.unwrap();
    let mut config = Config::clone(&guard.config());
    config.cancel = true;
    guard.reload(config).unwrap();
    rush(&guard, &memory).await;
    let stats = guard.stats();
    assert_eq!((stats.active_tasks, stats.cancelled_requests), (1, 0));
    drop(response);
}

#[tokio::test]
async fn synchronous_work_sees_its_flag() {
    let (layer, memory, guard) = cancelling();
    let stopped = Arc::new(AtomicBool::new(false));
    let saw = Arc::clone(&stopped);
    let handler = move |Extension(permit): Extension<Permit>| {
        let saw = Arc::clone(&saw);
        async move {
            let work = tokio::task::spawn_blocking(move || {
                while !permit.cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                saw.store(true, Ordering::Relaxed);
            });
            work.await.unwrap();
        }
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let request = request(address);
    eventually("it is active", || guard.stats().active_tasks == 1).await;
    rush(&guard, &memory).await;
    assert_eq!(request.await.unwrap().status(), 503);
    eventually("it stopped", || stopped.load(Ordering::Relaxed)).await;
    eventually("its permit is back", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}

#[tokio::test]
async fn work_with_checkpoints_is_cancelled_where_nobody_is_paused() {
    let (layer, memory) = with(|builder| {
        let builder = builder.cancel(true).max_pause(Duration::ZERO);
        builder.estimated_bytes_per_request(300 * MIB)
    });
    let guard = layer.guard().clone();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&begun);
    let handler = move |Extension(permit): Extension<Permit>| {
        let begins = Arc::clone(&begins);
        async move {
            let work = account::spawn_blocking(move || {
                while permit.checkpoint().is_ok() {
                    begins.store(true, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            work.await.unwrap();
        }
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let request = request(address);
    eventually("it works", || begun.load(Ordering::Relaxed)).await;
    rush(&guard, &memory).await;
    assert_eq!(request.await.unwrap().status(), 503);
    eventually("its permit is back", || guard.stats().active_tasks == 0).await;
}

#[tokio::test]
async fn the_error_flavour_cancels_with_an_error() {
    let (layer, memory, guard) = cancelling();
    let mut service = ServiceBuilder::new()
        .layer(layer.into_error_layer())
        .service_fn(|(): ()| pending::<Result<(), std::io::Error>>());
    let call = tokio::spawn(service.ready().await.unwrap().call(()));
    eventually("it is active", || guard.stats().active_tasks == 1).await;
    tokio::task::yield_now().await;
    rush(&guard, &memory).await;
    let error = call.await.unwrap().unwrap_err();
    let rejected = error.downcast_ref::<Rejected>().unwrap();
    assert_eq!(rejected.reason(), Reason::Cancelled);
    assert_empty(&guard);
}

#[tokio::test]
async fn nothing_is_cancelled_unless_it_is_allowed() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let app = Router::new().route("/", get(pending::<()>)).layer(layer);
    let address = serve_axum(app).await;
    let _request = request(address);
    eventually("it is active", || guard.stats().active_tasks == 1).await;
    rush(&guard, &memory).await;
    fill(&guard, &memory, 100);
    tokio::task::yield_now().await;
    assert_eq!(guard.stats().active_tasks, 1);
}
