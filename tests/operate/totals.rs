//! Each request has one outcome, and the total is their sum and what is in flight.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use crate::support::{
    MIB, assert_empty, counting, eventually, fill, hold_up_releases, poll_once, rush, serve_axum,
    with,
};
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_memory_guard::{
    Cost, Guard, MemoryGuardLayer, Mode, Permit, Reason, StagedBody, StagedBodyLayer, Stats,
};

/// What every request comes to.
fn sum(stats: &Stats) -> u64 {
    stats.completed_requests
        + stats.failed_requests
        + stats.abandoned_requests
        + stats.abandoned_waiting_requests
        + stats.rejected_requests
        + stats.active_tasks
        + stats.waiting_requests
}

fn came(guard: &Guard, expected: u64) {
    let stats = guard.stats();
    assert_eq!(stats.total_requests, expected, "{stats:?}");
    assert_eq!(sum(&stats), expected, "{stats:?}");
}

#[test]
fn the_total_never_falls_nor_counts_what_ends_meanwhile_twice() {
    let (layer, _memory) = counting(1);
    let (guard, other) = (layer.guard().clone(), layer.guard().clone());
    let ends = std::thread::spawn(move || {
        for _ in 0..200_000 {
            drop(other.try_acquire(Cost::Estimated).unwrap());
        }
    });
    let mut before = 0;
    while !ends.is_finished() {
        let total = guard.stats().total_requests;
        assert!(total >= before, "{total} after {before}");
        before = total;
    }
    ends.join().unwrap();
    came(&guard, 200_000);
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    let mut stream = send(address, path).await;
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn panicking() -> StatusCode {
    panic!("in the handler")
}

async fn serve(layer: MemoryGuardLayer) -> SocketAddr {
    let broken = || async {
        let frames = [
            Ok(Bytes::from_static(b"half")),
            Err(std::io::Error::other("gone")),
        ];
        Body::from_stream(stream::iter(frames))
    };
    // A stream whose end is known by its head alone.
    let known = || async {
        let frames = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"known"))]);
        let body = Body::from_stream(futures_util::StreamExt::chain(frames, stream::pending()));
        ([("content-length", "5")], body)
    };
    let app = Router::new()
        .route("/", get(|| async { "answered" }))
        .route("/known", get(known))
        .route("/500", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/broken", get(broken))
        .route("/panic", get(panicking))
        .route("/wait", get(std::future::pending::<()>));
    serve_axum(app.layer(layer)).await
}

#[tokio::test]
async fn every_request_has_one_outcome() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer).await;
    let answers = [
        ("/", "HTTP/1.1 200"),
        ("/known", "HTTP/1.1 200"),
        ("/500", "HTTP/1.1 500"),
    ];
    for (path, status) in answers {
        assert!(answer(address, path).await.starts_with(status));
    }
    eventually("all are answered", || guard.stats().completed_requests == 3).await;
    came(&guard, 3);
    for (path, failed) in [("/broken", 1), ("/panic", 2)] {
        answer(address, path).await;
        eventually("it failed", || guard.stats().failed_requests == failed).await;
    }
    came(&guard, 5);

    let running = send(address, "/wait").await;
    eventually("one runs", || guard.stats().active_tasks == 1).await;
    let waiting = send(address, "/").await;
    eventually("one waits", || guard.stats().waiting_requests == 1).await;
    came(&guard, 7);
    drop(waiting);
    eventually("its caller is gone", || {
        guard.stats().abandoned_waiting_requests == 1
    })
    .await;
    drop(running);
    eventually("so is the other's", || {
        guard.stats().abandoned_requests == 1
    })
    .await;
    came(&guard, 7);

    fill(&guard, &memory, 99);
    assert!(answer(address, "/").await.starts_with("HTTP/1.1 503"));
    came(&guard, 8);
    assert_eq!(guard.stats().rejected_requests, 1);
    assert_eq!(guard.stats().completed_requests, 3);
    assert_empty(&guard);
}

#[tokio::test]
async fn callers_that_hang_up_while_they_wait_stay_in_the_total() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer).await;
    let _held = guard.try_acquire(Cost::Estimated).unwrap();
    for round in 1..=5 {
        let mut waiting = Vec::new();
        for _ in 0..40 {
            waiting.push(send(address, "/").await);
        }
        eventually("all wait", || guard.stats().waiting_requests == 40).await;
        drop(waiting);
        eventually("all are gone", || guard.stats().waiting_requests == 0).await;
        came(&guard, 40 * round + 1);
    }
    assert_eq!(guard.stats().abandoned_waiting_requests, 200);
}

#[tokio::test]
async fn work_that_goes_on_after_a_rejection_is_one_request() {
    let (layer, memory) = with(|builder| builder.max_concurrent(4).cancel(true));
    let guard = layer.guard().clone();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel::<Permit>();
    let handler = move |axum::Extension(permit): axum::Extension<Permit>| {
        let _ = keep.send(permit);
        std::future::pending::<()>()
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let request = tokio::spawn(async move { answer(address, "/").await });
    let permit = kept.recv().await.unwrap();
    rush(&guard, &memory).await;
    assert!(request.await.unwrap().starts_with("HTTP/1.1 503"));
    let stats = guard.stats();
    let counts = (
        stats.rejected_requests,
        stats.active_tasks,
        stats.total_requests,
    );
    assert_eq!(counts, (1, 1, 1));
    drop(permit);
    came(&guard, 1);
}

#[tokio::test]
async fn an_error_of_the_service_is_a_failure() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let failing = service_fn(|_: http::Request<Body>| async {
        Err::<http::Response<Body>, _>(std::io::Error::other("broken"))
    });
    let by_response = layer.layer(failing);
    let request = http::Request::new(Body::empty());
    assert!(by_response.oneshot(request).await.is_err());
    let failing = service_fn(|_: u8| async { Err::<u8, _>(std::io::Error::other("broken")) });
    let by_error = layer.into_error_layer().layer(failing);
    assert!(by_error.oneshot(1).await.is_err());
    assert_eq!(guard.stats().failed_requests, 2);
    came(&guard, 2);
}

#[tokio::test]
async fn a_grant_that_was_never_used_is_nothing() {
    let (layer, _) = counting(2);
    let guard = layer.guard().clone();
    let double = service_fn(|n: u32| async move { Ok::<_, Infallible>(2 * n) });
    let mut service = layer.into_error_layer().layer(double);
    service.ready().await.unwrap();
    drop(service.clone());
    drop(service);
    came(&guard, 0);
}

#[tokio::test]
async fn an_acquired_permit_is_a_request_and_a_wait_that_is_dropped_was_one() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let held = guard.acquire(Cost::Estimated).await.unwrap();
    let mut waiting = Box::pin(guard.acquire(Cost::Estimated));
    assert!(poll_once(waiting.as_mut()).is_pending());
    came(&guard, 2);
    drop(waiting);
    drop(held);
    came(&guard, 2);
    let stats = guard.stats();
    assert_eq!(
        (stats.completed_requests, stats.abandoned_waiting_requests),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_guard_expects_no_wait_and_nothing_more() {
    // Whose thread samples by a clock that does not stand still.
    hold_up_releases();
    let (layer, memory) = with(|builder| builder.max_concurrent(1));
    let guard = layer.guard().clone();
    for _ in 0..20 {
        let permit = guard.try_acquire(Cost::Estimated).unwrap();
        let mut next = Box::pin(guard.acquire(Cost::Estimated));
        assert!(poll_once(next.as_mut()).is_pending());
        guard.sample_now();
        tokio::time::advance(Duration::from_secs(7)).await;
        guard.sample_now();
        drop(permit);
        drop(next);
        guard.sample_now();
    }
    let stats = guard.stats();
    assert_eq!((stats.expected_wait_ms, stats.outstanding_mib), (0.0, 0.0));
    // How long CRITICAL lasts, and not how long work takes.
    fill(&guard, &memory, 100);
    let rejected = guard.try_acquire(Cost::Estimated).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CriticalPressure);
    assert!(rejected.retry_after().unwrap() <= Duration::from_secs(2));
    tokio::time::advance(Duration::from_secs(20)).await;
    guard.sample_now();
    let later = guard.try_acquire(Cost::Estimated).unwrap_err();
    assert!(later.retry_after().unwrap() >= Duration::from_secs(20));
}

#[test]
fn metrics_and_the_page_say_the_same() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    metrics::with_local_recorder(&recorder, || {
        // Counters of guards of one name add up.
        let (layer, memory) = with(|builder| {
            builder
                .name("page")
                .max_concurrent(1)
                .estimated_bytes_per_request(1024)
        });
        let guard = layer.guard().clone();
        let held = guard.try_acquire(Cost::Estimated).unwrap();
        let mut waiting = Box::pin(guard.acquire(Cost::Estimated));
        assert!(poll_once(waiting.as_mut()).is_pending());
        drop(waiting);
        drop(held);
        fill(&guard, &memory, 100);
        assert!(guard.try_acquire(Cost::Estimated).is_err());
        guard.sample_now();
        let request = http::Request::get("/snapshot.json").body(()).unwrap();
        let page = runtime
            .block_on(guard.dashboard().oneshot(request))
            .unwrap();
        let page = runtime.block_on(axum::body::to_bytes(Body::new(page.into_body()), 1 << 20));
        let page: serde_json::Value = serde_json::from_slice(&page.unwrap()).unwrap();
        assert_eq!(page["stats"]["total_requests"], 3);
        assert_eq!(page["stats"]["abandoned_waiting_requests"], 1);
    });
    let mut totals = std::collections::BTreeMap::<String, u64>::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        // Other tests' guards that are gone tell their last when this one begins.
        let is_own = key.key().labels().any(|label| label.value() == "page");
        match value {
            DebugValue::Counter(count) if is_own => {
                *totals.entry(key.key().name().to_owned()).or_default() += count;
            }
            _ => {}
        }
    }
    let of = |name: &str| totals[&format!("memory_guard_{name}_requests_total")];
    let sum = of("completed") + of("failed") + of("abandoned") + of("rejected");
    assert_eq!((totals["memory_guard_requests_total"], sum), (3, 3));
}

#[tokio::test]
async fn who_is_granted_what_it_waited_for_hides_nobody_until_it_is_polled() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(500 * MIB));
    let guard = layer.guard().clone();
    let reads = |request: http::Request<StagedBody<Body>>| async move {
        request.into_body().collect().await.map(|_| ()).unwrap();
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    };
    let staged = ServiceBuilder::new()
        .layer(layer.stage_bodies(MIB))
        .layer(StagedBodyLayer::new())
        .service(service_fn(reads));
    let held = guard.try_acquire(500 * MIB).unwrap();
    let mut read = Box::pin(staged.oneshot(http::Request::new(Body::from("all of it"))));
    assert!(poll_once(read.as_mut()).is_pending());
    let mut waits = Box::pin(guard.acquire(700 * MIB));
    assert!(poll_once(waits.as_mut()).is_pending());
    assert_eq!(guard.stats().total_requests, 3);
    drop(held);
    guard.sample_now();
    let stats = guard.stats();
    assert_eq!((stats.active_tasks, stats.waiting_requests), (1, 1));
    assert_eq!(stats.total_requests, 3, "{stats:?}");
    assert!(poll_once(read.as_mut()).is_ready());
    drop((read, waits));
    came(&guard, 3);
}

#[tokio::test]
async fn a_service_that_may_be_called_is_no_request_before_it_is() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let double = service_fn(|n: u32| async move { Ok::<_, Infallible>(2 * n) });
    let mut service = layer.into_error_layer().layer(double);
    let held = guard.try_acquire(Cost::Estimated).unwrap();
    assert!(poll_once(Box::pin(service.ready()).as_mut()).is_pending());
    assert_eq!(guard.stats().total_requests, 1);
    drop(held);
    assert_eq!(guard.stats().active_tasks, 1);
    assert_eq!(guard.stats().total_requests, 1);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
    came(&guard, 2);
}

#[tokio::test]
async fn a_handler_that_panicked_has_failed_whoever_catches_that() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let panics = service_fn(|_: http::Request<Body>| async {
        std::panic::resume_unwind(Box::new("in the handler"));
        #[allow(unreachable_code)]
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    // As tower-http's CatchPanicLayer does: what has panicked is dropped later.
    let mut answer = Box::pin(
        layer
            .layer(panics)
            .oneshot(http::Request::new(Body::empty())),
    );
    let poll = std::panic::AssertUnwindSafe(|| poll_once(answer.as_mut()).is_ready());
    assert!(std::panic::catch_unwind(poll).is_err());
    drop(answer);
    let stats = guard.stats();
    assert_eq!((stats.failed_requests, stats.abandoned_requests), (1, 0));
    came(&guard, 1);
}

#[tokio::test]
async fn a_body_that_panicked_has_failed_whoever_catches_that() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let panics = service_fn(|_: http::Request<Body>| async {
        let frames = stream::iter([1, 2]).map(|frame| match frame {
            1 => Ok::<_, Infallible>(Bytes::from_static(b"1")),
            _ => std::panic::resume_unwind(Box::new("in the body")),
        });
        Ok::<_, Infallible>(http::Response::new(Body::from_stream(frames)))
    });
    let answer = layer
        .layer(panics)
        .oneshot(http::Request::new(Body::empty()));
    let mut body = answer.await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let next = std::panic::AssertUnwindSafe(|| poll_once(pin!(body.frame())).is_ready());
    assert!(std::panic::catch_unwind(next).is_err());
    drop(body);
    let stats = guard.stats();
    assert_eq!((stats.failed_requests, stats.abandoned_requests), (1, 0));
    came(&guard, 1);
}

#[tokio::test]
async fn who_is_dropped_by_anothers_panic_was_abandoned() {
    let (layer, _) = counting(2);
    let guard = layer.guard().clone();
    let waits = layer
        .layer(service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, Infallible>>()
        }))
        .oneshot(http::Request::new(Body::empty()));
    let both = tokio::spawn(async {
        let mut waits = pin!(waits);
        assert!(poll_once(waits.as_mut()).is_pending());
        std::panic::resume_unwind(Box::new("beside it"))
    });
    assert!(both.await.unwrap_err().is_panic());
    let stats = guard.stats();
    assert_eq!((stats.failed_requests, stats.abandoned_requests), (0, 1));
    came(&guard, 1);
}

#[tokio::test]
async fn an_answer_to_head_is_one_that_was_read_to_its_end() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    // Its body is thrown away, by this one and by servers.
    let answer = service_fn(|_: http::Request<Body>| async {
        let frames = stream::pending::<Result<Bytes, Infallible>>();
        Ok::<_, Infallible>(http::Response::new(Body::from_stream(frames)))
    });
    let service = layer.layer(answer);
    let ask = |method: &str| {
        let request = http::Request::builder().method(method);
        service
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
    };
    drop(ask("HEAD").await.unwrap());
    // Also after a wait.
    let held = guard.try_acquire(Cost::Estimated).unwrap();
    let mut waits = Box::pin(ask("HEAD"));
    assert!(poll_once(waits.as_mut()).is_pending());
    drop(held);
    drop(waits.await.unwrap());
    let stats = guard.stats();
    assert_eq!((stats.completed_requests, stats.abandoned_requests), (3, 0));
    drop(ask("GET").await.unwrap());
    assert_eq!(guard.stats().abandoned_requests, 1);
}

#[tokio::test]
async fn what_is_given_up_further_in_is_not_for_the_guard_that_answers() {
    // On the process's ledger, whose memory is what it is.
    let guarded = || {
        let builder = MemoryGuardLayer::builder().mode(Mode::Observe);
        builder.build().unwrap()
    };
    let (outer, inner) = (guarded(), guarded());
    let guards = [outer.guard().clone(), inner.guard().clone()];
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel::<Permit>();
    let permit = |request: &http::Request<Body>| {
        let permit = request.extensions().get::<Permit>();
        keep.send(permit.unwrap().clone()).unwrap();
    };
    let works = inner.layer(service_fn(|request: http::Request<Body>| {
        permit(&request);
        std::future::pending::<Result<http::Response<Body>, Infallible>>()
    }));
    // As a timeout between them does.
    let gives_up = service_fn(|request: http::Request<Body>| {
        permit(&request);
        let mut work = Box::pin(works.clone().oneshot(request));
        assert!(poll_once(work.as_mut()).is_pending());
        async { Ok::<_, Infallible>(http::Response::new(Body::from("too late"))) }
    });
    let request = http::Request::new(Body::empty());
    let answer = outer.layer(gives_up).oneshot(request).await.unwrap();
    let [of_outer, of_inner] = [kept.recv().await.unwrap(), kept.recv().await.unwrap()];
    assert!(of_inner.cancelled() && !of_outer.cancelled());
    answer.into_body().collect().await.unwrap();
    drop((of_outer, of_inner));
    let [outer, inner] = guards.map(|guard| guard.stats());
    assert_eq!((outer.completed_requests, outer.abandoned_requests), (1, 0));
    assert_eq!((inner.completed_requests, inner.abandoned_requests), (0, 1));
}
