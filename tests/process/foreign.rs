//! What panics in code that the guard calls ends nothing of the guard's.

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Response;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use support::{LIMIT, MIB, Shared, counting, eventually, fill, serve_axum};
use tower_memory_guard::{Class, Cost, MemoryGuardLayer, Pressure, Rejected, RequestHead, Respond};

/// While it is set, everything here panics.
static ILL: AtomicBool = AtomicBool::new(false);

fn fall_ill() {
    assert!(
        !ILL.load(Ordering::Relaxed),
        "the service's own code is ill"
    );
}

struct IllRecorder;

impl Recorder for IllRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        fall_ill();
    }
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

struct IllSubscriber;

impl tracing::Subscriber for IllSubscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "tower_memory_guard"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        fall_ill();
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A task whose executor is no more.
struct IllWaker;

impl Wake for IllWaker {
    fn wake(self: Arc<Self>) {
        panic!("no executor");
    }
}

async fn status(address: std::net::SocketAddr) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let code = answer.get(9..12).and_then(|code| code.parse().ok());
    code.unwrap_or(0)
}

fn app<L>(layer: L) -> Router
where
    L: tower::Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
    L::Service: tower::Service<axum::extract::Request, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    <L::Service as tower::Service<axum::extract::Request>>::Response: axum::response::IntoResponse,
    <L::Service as tower::Service<axum::extract::Request>>::Future: Send,
{
    Router::new()
        .route("/", get(|| async { "served" }))
        .layer(layer)
}

#[tokio::test]
async fn memory_is_watched_although_the_recorder_and_the_subscriber_panic() {
    let _ = metrics::set_global_recorder(IllRecorder);
    let _ = tracing::subscriber::set_global_default(IllSubscriber);
    let usage = Shared::default();
    let layer = MemoryGuardLayer::builder()
        .memory_source(usage.clone())
        .check_interval(Duration::from_millis(100))
        .build()
        .unwrap();
    let guard = layer.guard().clone();
    let address = serve_axum(app(layer)).await;
    assert_eq!(status(address).await, 200);
    ILL.store(true, Ordering::Relaxed);
    usage.is_used(LIMIT * 99 / 100);
    eventually("critical", || guard.pressure() == Pressure::Critical).await;
    assert_eq!(status(address).await, 503);
    usage.is_used(100 * MIB);
    eventually("normal again", || guard.pressure() == Pressure::Normal).await;
    assert_eq!(status(address).await, 200);
    ILL.store(false, Ordering::Relaxed);
    assert!(guard.stats().caught_panics >= 3, "{:?}", guard.stats());
}

#[tokio::test]
async fn a_waker_that_panics_keeps_nobody_else_from_being_woken() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let held = guard.acquire(Cost::Estimated).await.unwrap();
    let mut ill = Box::pin(guard.acquire(Cost::Estimated));
    let waker = Waker::from(Arc::new(IllWaker));
    assert!(matches!(
        ill.as_mut().poll(&mut Context::from_waker(&waker)),
        Poll::Pending
    ));
    let next = {
        let guard = guard.clone();
        tokio::spawn(async move { guard.acquire(Cost::Estimated).await.map(drop) })
    };
    eventually("both wait", || guard.stats().waiting_requests == 2).await;
    // Both are granted at once, and the first of them panics when told.
    let mut config = (*guard.config()).clone();
    config.max_concurrent = Some(2);
    guard.reload(config).unwrap();
    drop(held);
    next.await.unwrap().unwrap();
    drop(ill);
    support::assert_empty(&guard);
}

/// A waker, of which none can be made once that is said.
struct Uncopied {
    ill: AtomicBool,
    woken: AtomicBool,
}

static UNCOPIED: Uncopied = Uncopied {
    ill: AtomicBool::new(false),
    woken: AtomicBool::new(false),
};

#[allow(unsafe_code)]
impl Uncopied {
    const TABLE: RawWakerVTable =
        RawWakerVTable::new(Self::copied, Self::wake, Self::wake, Self::drop);

    fn waker() -> Waker {
        // SAFETY: the table's functions use no pointer, and may be called by any thread.
        unsafe { Waker::from_raw(Self::raw()) }
    }

    fn raw() -> RawWaker {
        RawWaker::new(std::ptr::null(), &Self::TABLE)
    }

    fn copied(_: *const ()) -> RawWaker {
        assert!(!UNCOPIED.ill.load(Ordering::Relaxed), "no copy");
        Self::raw()
    }

    fn wake(_: *const ()) {
        UNCOPIED.woken.store(true, Ordering::Relaxed);
    }

    fn drop(_: *const ()) {}
}

#[test]
fn who_is_paused_is_woken_although_its_waker_cannot_be_copied_any_more() {
    let (layer, memory) = support::with(|builder| builder);
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(MIB).unwrap();
    fill(&guard, &memory, 100);
    let waker = Uncopied::waker();
    let mut work = Box::pin(permit.checkpoint_async());
    let paused = work.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(paused.is_pending());
    UNCOPIED.ill.store(true, Ordering::Relaxed);
    fill(&guard, &memory, 10);
    assert!(UNCOPIED.woken.load(Ordering::Relaxed));
    assert!(support::poll_once(work.as_mut()).is_ready());
}

#[derive(Clone)]
struct IllResponder;

impl Respond for IllResponder {
    fn respond(&self, _: &Rejected, _: RequestHead<'_>) -> Response<Bytes> {
        panic!("no answer");
    }
}

#[tokio::test]
async fn who_is_turned_away_is_answered_although_the_responder_panics() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let address = serve_axum(app(layer.respond(IllResponder))).await;
    fill(&guard, &memory, 99);
    assert_eq!(status(address).await, 503);
}

#[tokio::test]
async fn a_request_is_served_although_the_classifier_panics() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let ill = layer
        .classify(|_: &axum::extract::Request| -> Class { panic!("no class") })
        .skip(|_: &axum::extract::Request| -> bool { panic!("no answer") });
    let address = serve_axum(app(ill)).await;
    assert_eq!(status(address).await, 200);
    eventually("it was counted", || guard.stats().completed_requests == 1).await;
}

/// One that asks for everything as soon as it is woken.
struct Curious(tower_memory_guard::Guard, AtomicU64);

impl Wake for Curious {
    fn wake(self: Arc<Self>) {
        let limit = self.0.stats().memory_limit_mib.unwrap_or_default();
        self.1.store(limit as u64, Ordering::Relaxed);
    }
}

#[test]
fn who_is_told_of_a_limit_may_ask_for_anything() {
    let (layer, memory) = support::with(|builder| builder);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 10);
    let curious = Arc::new(Curious(guard.clone(), AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&curious));
    let mut limits = guard.subscribe_limit();
    limits.mark_unchanged();
    let mut changed = Box::pin(async move { limits.changed().await });
    assert!(
        Future::poll(changed.as_mut(), &mut Context::from_waker(&waker)).is_pending(),
        "nothing has changed"
    );
    memory.set_limit_bytes(LIMIT / 2);
    let (said, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        guard.sample_now();
        let _ = said.send(());
    });
    done.recv_timeout(Duration::from_secs(20)).expect("it ends");
    let limit = curious.1.load(Ordering::Relaxed);
    assert_eq!(limit, LIMIT / 2 / MIB);
}
