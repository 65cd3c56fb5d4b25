//! Requests that are admitted for their bodies first, through a real axum server.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::support::{MIB, assert_empty, eventually, fill, poll_once, serve_axum, with};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::routing::post;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_memory_guard::{
    ByRequest, Class, Guard, HttpResponder, ManualSource, MemoryGuardBuilder, MemoryGuardLayer,
    Mode, Priority, StagedBody, StagedBodyLayer,
};

/// What a body of unknown length has at first.
const UNKNOWN: u64 = 64 << 10;

type Classified = MemoryGuardLayer<HttpResponder, ByRequest<fn(&Request) -> Class>>;

/// A guard whose requests are each expected to need 500 MiB, of 960 that are admitted.
fn guarded(set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder) -> (Classified, Guard) {
    let (layer, _) = with(|builder| set(builder.estimated_bytes_per_request(1024)));
    let guard = layer.guard().clone();
    let classify: fn(&Request) -> Class = |request| {
        let mib = match request.uri().path() {
            "/nearly-all" => 955,
            _ => 500,
        };
        Class::new("import").cost(mib * MIB)
    };
    (layer.classify(classify), guard)
}

/// Handlers that begin when their bodies are there, and go on when the test says so.
#[derive(Clone)]
struct Handlers {
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Handlers {
    fn new() -> Self {
        Self {
            begun: Arc::new(AtomicUsize::new(0)),
            gate: Arc::new(Semaphore::new(0)),
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn open(&self, requests: usize) {
        self.gate.add_permits(requests);
    }

    async fn work(self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
    }

    fn app(&self, layer: Classified) -> Router {
        let handlers = self.clone();
        let import = move |body: Bytes| async move {
            handlers.work().await;
            body.len().to_string()
        };
        let handlers = self.clone();
        let ignore = move |request: Request| async move {
            drop(request);
            handlers.work().await;
        };
        let stack = ServiceBuilder::new()
            .layer(layer.stage_bodies(UNKNOWN))
            .layer(RequestDecompressionLayer::new())
            .layer(StagedBodyLayer::new())
            .layer(MapRequestBodyLayer::new(Body::new));
        Router::new()
            .route("/", post(import.clone()))
            .route("/nearly-all", post(import))
            .route("/ignore", post(ignore))
            .layer(DefaultBodyLimit::disable())
            .layer(stack)
    }
}

/// An upload under way.
struct Upload(TcpStream);

impl Upload {
    async fn begin(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// One whose length is known.
    async fn of(address: SocketAddr, path: &str, bytes: u64) -> Self {
        Self::begin(address, path, &format!("content-length: {bytes}")).await
    }

    async fn send(&mut self, bytes: u64) {
        self.0.write_all(&vec![7; bytes as usize]).await.unwrap();
    }

    /// All of a body.
    async fn whole(address: SocketAddr, path: &str, bytes: u64) -> Self {
        let mut upload = Self::of(address, path, bytes).await;
        upload.send(bytes).await;
        upload
    }

    async fn answer(mut self) -> String {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn reserved(guard: &Guard, mib: f64) {
    let mut seen = 0.0;
    eventually(&format!("{mib} MiB reserved"), || {
        seen = guard.stats().reserved_mib;
        seen == mib
    })
    .await;
}

async fn waiting(guard: &Guard, requests: u64) {
    let waits = || guard.stats().waiting_requests == requests;
    eventually(&format!("{requests} waiting"), waits).await;
}

async fn begun(handlers: &Handlers, requests: usize) {
    eventually("as many begun", || handlers.begun() == requests).await;
}

async fn empty(guard: &Guard) {
    reserved(guard, 0.0).await;
    waiting(guard, 0).await;
    assert_empty(guard);
}

#[tokio::test]
async fn a_slow_upload_holds_only_its_content_length() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let mut uploads = Vec::new();
    for _ in 0..4 {
        let mut upload = Upload::of(address, "/", 8 * MIB).await;
        upload.send(4 * MIB).await;
        uploads.push(upload);
    }
    // Four times the estimate would not fit.
    reserved(&guard, 32.0).await;
    assert_eq!(handlers.begun(), 0);
    let mut first = uploads.pop().unwrap();
    first.send(4 * MIB).await;
    begun(&handlers, 1).await;
    // The estimate is of the body too.
    reserved(&guard, 500.0 + 24.0).await;
    handlers.open(1);
    assert!(first.answer().await.ends_with("8388608"));
    drop(uploads);
    empty(&guard).await;
}

#[tokio::test]
async fn a_chunked_body_grows_its_reservation() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let mut upload = Upload::begin(address, "/", "transfer-encoding: chunked").await;
    reserved(&guard, 0.0625).await;
    upload.0.write_all(b"200000\r\n").await.unwrap();
    upload.send(2 * MIB).await;
    reserved(&guard, 2.0).await;
    upload.0.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    begun(&handlers, 1).await;
    reserved(&guard, 500.0).await;
    handlers.open(1);
    assert!(upload.answer().await.ends_with("2097152"));
    empty(&guard).await;
}

#[tokio::test]
async fn decompressed_bytes_count() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&vec![0; 8 << 20]).unwrap();
    let compressed = gzip.finish().unwrap();
    assert!(compressed.len() < 1 << 20);
    let headers = format!(
        "content-encoding: gzip\r\ncontent-length: {}",
        compressed.len()
    );
    let mut upload = Upload::begin(address, "/", &headers).await;
    // All but gzip's checksum.
    let (data, rest) = compressed.split_at(compressed.len() - 8);
    upload.0.write_all(data).await.unwrap();
    eventually("most is decompressed", || guard.stats().reserved_mib > 7.0).await;
    assert_eq!(handlers.begun(), 0);
    upload.0.write_all(rest).await.unwrap();
    handlers.open(1);
    assert!(upload.answer().await.ends_with("8388608"));
    empty(&guard).await;
}

#[tokio::test]
async fn the_handler_does_not_begin_until_its_estimate_fits() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let work = guard.try_acquire(700 * MIB).unwrap();
    let upload = Upload::whole(address, "/", MIB).await;
    waiting(&guard, 1).await;
    reserved(&guard, 701.0).await;
    assert_eq!(handlers.begun(), 0);
    drop(work);
    begun(&handlers, 1).await;
    reserved(&guard, 500.0).await;
    handlers.open(1);
    assert!(upload.answer().await.starts_with("HTTP/1.1 200"));
    empty(&guard).await;
    let stats = guard.stats();
    assert_eq!((stats.total_requests, stats.rejected_requests), (2, 0));
}

#[tokio::test]
async fn a_rejection_after_the_body_is_answered_by_the_guard() {
    let (layer, guard) = guarded(|builder| builder.wait_timeout(Duration::from_millis(50)));
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let work = guard.try_acquire(700 * MIB).unwrap();
    let answer = Upload::whole(address, "/", MIB).await.answer().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"));
    assert!(answer.contains("retry-after: "));
    assert!(answer.contains(r#""reason":"wait_timeout""#));

    let headers = "content-type: application/grpc\r\ncontent-length: 5";
    let mut grpc = Upload::begin(address, "/", headers).await;
    grpc.send(5).await;
    assert!(grpc.answer().await.contains("grpc-status: 8"));

    reserved(&guard, 700.0).await;
    drop(work);
    empty(&guard).await;
    assert_eq!(handlers.begun(), 0);
    let stats = guard.stats();
    assert_eq!((stats.total_requests, stats.rejected_requests), (3, 2));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_everything_at_any_stage() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;

    let mut uploading = Upload::of(address, "/", 8 * MIB).await;
    uploading.send(MIB).await;
    reserved(&guard, 8.0).await;
    drop(uploading);
    empty(&guard).await;

    let work = guard.try_acquire(700 * MIB).unwrap();
    let waits = Upload::whole(address, "/", MIB).await;
    waiting(&guard, 1).await;
    drop(waits);
    reserved(&guard, 700.0).await;
    drop(work);
    empty(&guard).await;

    let works = Upload::whole(address, "/", MIB).await;
    begun(&handlers, 1).await;
    reserved(&guard, 500.0).await;
    drop(works);
    empty(&guard).await;
}

#[tokio::test]
async fn requests_whose_bodies_hold_each_other_up_are_served_one_by_one() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let work = guard.try_acquire(500 * MIB).unwrap();
    let mut first = Upload::of(address, "/nearly-all", 30 * MIB).await;
    let mut second = Upload::of(address, "/nearly-all", 30 * MIB).await;
    reserved(&guard, 560.0).await;
    first.send(30 * MIB).await;
    second.send(30 * MIB).await;
    waiting(&guard, 2).await;
    drop(work);
    // 955 MiB beside a body of 30 are more than is admitted, but nothing else will end.
    begun(&handlers, 1).await;
    reserved(&guard, 985.0).await;
    assert_eq!(guard.stats().waiting_requests, 1);
    handlers.open(2);
    assert!(first.answer().await.starts_with("HTTP/1.1 200"));
    assert!(second.answer().await.starts_with("HTTP/1.1 200"));
    empty(&guard).await;
}

#[tokio::test]
async fn who_has_a_body_goes_before_newcomers() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let work = guard.try_acquire(700 * MIB).unwrap();
    let mut uploading = Upload::of(address, "/", 100 * MIB).await;
    reserved(&guard, 800.0).await;
    let newcomer = Upload::of(address, "/", 200 * MIB).await;
    waiting(&guard, 1).await;
    uploading.send(100 * MIB).await;
    waiting(&guard, 2).await;
    // What the newcomer needs is free by now, and it was there first.
    drop(work);
    begun(&handlers, 1).await;
    reserved(&guard, 700.0).await;
    drop((uploading, newcomer));
    empty(&guard).await;
}

#[tokio::test]
async fn critical_work_that_waits_for_what_a_body_holds_lets_it_go_on() {
    let (layer, guard) = guarded(|builder| builder.wait_timeout(Duration::from_secs(600)));
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let mut uploading = Upload::of(address, "/", 100 * MIB).await;
    reserved(&guard, 100.0).await;
    let class = Class::new("backup").priority(Priority::Critical);
    let class = class.cost(900 * MIB);
    let mut critical = pin!(guard.acquire_for(&class));
    assert!(poll_once(critical.as_mut()).is_pending());
    let newcomer = Upload::of(address, "/", MIB).await;
    waiting(&guard, 2).await;
    uploading.send(100 * MIB).await;
    begun(&handlers, 1).await;
    // Nobody else does.
    assert_eq!(guard.stats().waiting_requests, 2);
    reserved(&guard, 500.0).await;
    handlers.open(1);
    assert!(uploading.answer().await.starts_with("HTTP/1.1 200"));
    let permit = critical.await.expect("it waits before all others");
    drop((permit, newcomer));
    empty(&guard).await;
}

#[tokio::test]
async fn a_handler_that_drops_its_body_has_its_estimate_reserved() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let upload = Upload::of(address, "/ignore", MIB).await;
    begun(&handlers, 1).await;
    reserved(&guard, 500.0).await;
    handlers.open(1);
    assert!(upload.answer().await.starts_with("HTTP/1.1 200"));
    empty(&guard).await;
}

#[tokio::test]
async fn so_has_one_that_drops_it_and_answers_at_once_while_its_answer_goes_on() {
    let (layer, guard) = guarded(|builder| builder);
    let ignore = |_: http::Request<StagedBody<Body>>| async {
        let frames = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        Ok::<_, Infallible>(http::Response::new(Body::from_stream(frames)))
    };
    let inner = StagedBodyLayer::new().layer(service_fn(ignore));
    let service = layer.stage_bodies(UNKNOWN).layer(inner);
    let request = Request::post("/").body(Body::from("ignored")).unwrap();
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(guard.stats().reserved_mib, 500.0);
    drop(answer);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_request_without_a_body_is_admitted_for_all_that_it_needs() {
    let (layer, guard) = guarded(|builder| builder);
    let handlers = Handlers::new();
    let address = serve_axum(handlers.app(layer)).await;
    let work = guard.try_acquire(700 * MIB).unwrap();
    let upload = Upload::of(address, "/", 0).await;
    waiting(&guard, 1).await;
    reserved(&guard, 700.0).await;
    drop(work);
    handlers.open(1);
    assert!(upload.answer().await.starts_with("HTTP/1.1 200"));
    empty(&guard).await;
}

#[tokio::test]
async fn a_body_that_outgrows_the_limit_fails() {
    let memory = ManualSource::new(4 * MIB);
    let builder = MemoryGuardLayer::builder().memory_source(memory);
    let layer = builder.estimated_bytes_per_request(1024).build().unwrap();
    let guard = layer.guard().clone();
    let stack = ServiceBuilder::new()
        .layer(layer.stage_bodies(UNKNOWN))
        .layer(StagedBodyLayer::new())
        .layer(MapRequestBodyLayer::new(Body::new));
    let app = Router::new()
        .route(
            "/",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .layer(DefaultBodyLimit::disable())
        .layer(stack);
    let send = |mib: usize| {
        let chunk = Bytes::from(vec![7; 1 << 20]);
        let chunks = futures_util::stream::repeat(Ok::<_, Infallible>(chunk)).take(mib);
        let request = Request::post("/").body(Body::from_stream(chunks));
        app.clone().oneshot(request.unwrap())
    };
    let response = send(3).await.unwrap();
    let bytes = to_bytes(response.into_body(), 1024).await.unwrap();
    assert_eq!(bytes, "3145728");
    let response = send(5).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let bytes = to_bytes(response.into_body(), 1024).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(r#""reason":"never_fits""#), "{text}");
    assert_empty(&guard);
}

#[tokio::test]
async fn a_rest_that_was_granted_and_not_claimed_is_given_back() {
    let (layer, guard) = guarded(|builder| builder);
    let collect = |request: http::Request<StagedBody<Body>>| async move {
        let body = request.into_body().collect().await;
        Ok::<_, Infallible>(http::Response::new(Full::new(body.unwrap().to_bytes())))
    };
    let inner = StagedBodyLayer::new().layer(service_fn(collect));
    let mut service = layer.stage_bodies(UNKNOWN).layer(inner);
    let work = guard.try_acquire(700 * MIB).unwrap();
    let request = Request::new(Body::from(vec![7; 1 << 20]));
    {
        let mut answer = pin!(service.ready().await.unwrap().call(request));
        assert!(poll_once(answer.as_mut()).is_pending());
        assert_eq!(guard.stats().waiting_requests, 1);
        drop(work);
        guard.sample_now();
        assert_eq!(guard.stats().waiting_requests, 0);
        assert_eq!(guard.stats().reserved_mib, 500.0);
        // Granted, and its caller goes away.
    }
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_has_left_counts_from_when_it_came() {
    let (layer, guard) = guarded(|builder| builder);
    let collect = |request: http::Request<StagedBody<Body>>| async move {
        let body = request.into_body().collect().await;
        let status = if body.is_ok() { 200 } else { 500 };
        let response = http::Response::builder().status(status);
        Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).unwrap())
    };
    let inner = StagedBodyLayer::new().layer(service_fn(collect));
    let mut service = layer.stage_bodies(UNKNOWN).layer(inner);
    let began = tokio::time::Instant::now();
    let mut held = Vec::new();
    while let Ok(permit) = guard.try_acquire(MIB) {
        held.push(permit);
    }
    let request = Request::builder().header("grpc-timeout", "4S");
    let request = request.body(Body::from(vec![7; 1 << 10])).unwrap();
    let mut answer = pin!(service.ready().await.unwrap().call(request));
    assert!(poll_once(answer.as_mut()).is_pending());
    assert_eq!(guard.stats().waiting_requests, 1);
    tokio::time::advance(Duration::from_secs(3)).await;
    // Room for its body, and not for the rest.
    held.truncate(held.len() - 100);
    guard.sample_now();
    assert!(poll_once(answer.as_mut()).is_pending());
    assert_eq!(guard.stats().waiting_requests, 1);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let elapsed = began.elapsed().as_secs_f64();
    assert!((3.9..4.5).contains(&elapsed), "{elapsed}");
}

/// Answers once it has the body.
async fn read(
    request: http::Request<StagedBody<Body>>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    let status = if body.is_ok() { 200 } else { 500 };
    let response = http::Response::builder().status(status);
    Ok(response.body(Full::new(Bytes::new())).unwrap())
}

#[tokio::test]
async fn in_observe_mode_a_request_is_counted_once_for_its_body_and_its_rest() {
    let (layer, guard) = guarded(|builder| builder.mode(Mode::Observe));
    let service = layer
        .stage_bodies(UNKNOWN)
        .layer(StagedBodyLayer::new().layer(service_fn(read)));
    let work = guard.try_acquire(700 * MIB).unwrap();
    let request = Request::new(Body::from(vec![7; 1 << 20]));
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // There was room for its body.
    assert_eq!(guard.stats().observed_requests, 1);
    drop((work, answer));
    assert_empty(&guard);

    let (layer, memory) = with(|builder| builder.mode(Mode::Observe));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let low = |_: &Request| Class::new("report").priority(Priority::Low);
    let service = layer
        .classify(low)
        .stage_bodies(UNKNOWN)
        .layer(StagedBodyLayer::new().layer(service_fn(read)));
    let request = Request::new(Body::from(vec![7; 1 << 20]));
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(guard.stats().observed_requests, 1);
}

#[tokio::test]
async fn where_nothing_is_held_back_a_body_is_not_taken_for_what_it_says_it_is() {
    let observes = |builder: MemoryGuardBuilder| builder.mode(Mode::Observe);
    let is_off = |builder: MemoryGuardBuilder| builder.enabled(false);
    for (layer, guard) in [guarded(observes), guarded(is_off)] {
        let service = layer
            .stage_bodies(UNKNOWN)
            .layer(StagedBodyLayer::new().layer(service_fn(read)));
        let never = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        let request = Request::builder().header("content-length", u64::MAX.to_string());
        let request = request.body(Body::from_stream(never)).unwrap();
        let mut uploading = Box::pin(service.clone().oneshot(request));
        assert!(poll_once(uploading.as_mut()).is_pending());
        let reserved_mib = guard.stats().reserved_mib;
        assert!(reserved_mib <= 500.0, "{reserved_mib}");
        let request = Request::new(Body::from(vec![7; 1 << 20]));
        let answer = service.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        drop((uploading, answer));
        assert_empty(&guard);
    }
}

#[tokio::test]
async fn a_tenant_pays_for_the_time_that_its_staged_work_takes() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(1024));
    let guard = layer.guard().clone();
    let by_tenant = |request: &Request| {
        let class = Class::new("import").cost(600 * MIB);
        class.tenant(request.uri().path().to_owned())
    };
    // The work lasts until its answer is gone.
    let echo = |request: http::Request<StagedBody<Body>>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(http::Response::new(Full::new(body)))
    };
    let service = layer
        .classify(by_tenant)
        .stage_bodies(UNKNOWN)
        .layer(StagedBodyLayer::new().layer(service_fn(echo)));
    let uploaded = Arc::new(Semaphore::new(0));
    let mut waiting = Vec::new();
    for tenant in ["/long", "/long", "/short", "/short", "/short"] {
        let uploaded = Arc::clone(&uploaded);
        let body = futures_util::stream::once(async move {
            uploaded.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Bytes::from("text"))
        });
        let request = Request::post(tenant).body(Body::from_stream(body)).unwrap();
        waiting.push((tenant, Box::pin(service.clone().oneshot(request))));
    }
    let mut all_wait = || {
        let mut answers = waiting.iter_mut();
        answers.all(|(_, answer)| poll_once(answer.as_mut()).is_pending())
    };
    assert!(all_wait());
    let work = guard.try_acquire(700 * MIB).unwrap();
    uploaded.add_permits(5);
    assert!(all_wait());
    drop(work);
    let mut order = Vec::new();
    while !waiting.is_empty() {
        guard.sample_now();
        let mut answered = None;
        for (at, (_, answer)) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(response) = poll_once(answer.as_mut()) {
                answered = Some((at, response.unwrap()));
                break;
            }
        }
        let (at, response) = answered.expect("one is served");
        let (tenant, _) = waiting.remove(at);
        if tenant == "/long" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        drop(response);
        order.push(tenant);
    }
    assert_eq!(order, ["/long", "/short", "/short", "/short", "/long"]);
}
