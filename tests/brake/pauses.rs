//! What an operator is told of requests that were paused: by class in the metrics, in the
//! log, and in the request's span.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use support::events::Events;
use support::{MIB, assert_empty, eventually, fill, with};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{Class, Guard, ManualSource, MemoryGuardBuilder, Permit};
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

const A_SECOND: Duration = Duration::from_secs(1);

/// What handlers go by.
#[derive(Clone)]
struct Stage {
    begun: Arc<AtomicUsize>,
    steps: Arc<Semaphore>,
    permits: Arc<Mutex<Vec<Permit>>>,
}

impl Stage {
    fn begins(&self, permit: Permit) {
        self.permits.lock().unwrap().push(permit);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    async fn step(&self) {
        self.steps.acquire().await.unwrap().forget();
    }

    /// Of those that are in flight, the one that has been paused least.
    fn least_paused(&self) -> Duration {
        let permits = self.permits.lock().unwrap();
        let paused = permits.iter().map(Permit::paused);
        paused.min().unwrap_or_default()
    }
}

fn block() -> Vec<u8> {
    vec![1; MIB as usize]
}

fn said(paused: Duration) -> String {
    paused.as_millis().to_string()
}

/// Grows, and after one step again; says for how long it was paused meanwhile.
async fn grow(State(stage): State<Stage>, Extension(permit): Extension<Permit>) -> String {
    let first = block();
    stage.begins(permit.clone());
    stage.step().await;
    let second = block();
    assert_eq!(first.len(), second.len());
    said(permit.paused())
}

/// The same in the body of its response, which is paused.
async fn grow_in_body(State(stage): State<Stage>, Extension(permit): Extension<Permit>) -> Body {
    let first = block();
    let second = async move {
        stage.begins(permit.clone());
        stage.step().await;
        assert_eq!(first.len(), block().len());
        Ok::<_, Infallible>(Bytes::from(said(permit.paused())))
    };
    Body::from_stream(stream::once(Box::pin(second)))
}

/// The same on a thread, which is paused at a checkpoint.
async fn grow_on_a_thread(
    State(stage): State<Stage>,
    Extension(permit): Extension<Permit>,
) -> String {
    stage.begins(permit.clone());
    stage.step().await;
    let work = move || {
        permit.checkpoint().unwrap();
        assert_eq!(block().len(), MIB as usize);
        said(permit.paused())
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// As a timeout, without its time.
async fn until_given_up(
    State(given_up): State<Arc<Notify>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    tokio::select! {
        response = next.run(request) => response,
        () = given_up.notified() => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// A guarded service, each of whose requests has its first segment of the path as class.
struct App {
    stage: Stage,
    guard: Guard,
    memory: ManualSource,
    router: Router,
    /// Whoever waits for an answer does not any more.
    gives_up: Arc<Notify>,
}

impl App {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder) -> Self {
        // Each with counters of its own.
        static APPS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("app {}", APPS.fetch_add(1, Ordering::Relaxed));
        let (layer, memory) = with(|builder| {
            let builder = builder.name(name);
            set(builder.estimated_bytes_per_request(16 * MIB))
        });
        let guard = layer.guard().clone();
        let stage = Stage {
            begun: Arc::default(),
            steps: Arc::new(Semaphore::new(0)),
            permits: Arc::default(),
        };
        let by_path = |request: &Request<Body>| {
            let path = request.uri().path();
            Class::new(path.trim_start_matches('/').to_owned())
        };
        let router = Router::new()
            .route("/", get(grow))
            .route("/report", get(grow))
            .route("/body", get(grow_in_body))
            .route("/thread", get(grow_on_a_thread))
            .route("/quick", get(|| async { "ok" }))
            .layer(layer.classify(by_path))
            .with_state(stage.clone());
        Self {
            stage,
            guard,
            memory,
            router,
            gives_up: Arc::default(),
        }
    }

    /// The whole answer.
    fn get(&self, path: &str) -> JoinHandle<(StatusCode, String)> {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request);
        tokio::spawn(async move {
            let response: Response = response.await.unwrap();
            let status = response.status();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        })
    }

    fn fill(&self, percent: u64) {
        fill(&self.guard, &self.memory, percent);
    }

    /// Requests to this path are paused after their first step.
    async fn pause(&self, path: &str, count: u64) -> Vec<JoinHandle<(StatusCode, String)>> {
        let begun = self.stage.begun.load(Ordering::Relaxed) + count as usize;
        let answers = (0..count).map(|_| self.get(path)).collect();
        let have_begun = || self.stage.begun.load(Ordering::Relaxed) == begun;
        eventually("all have begun", have_begun).await;
        self.fill(100);
        self.stage.steps.add_permits(count as usize);
        let paused = || self.guard.stats().paused_tasks == count;
        eventually("all are paused", paused).await;
        answers
    }

    /// They go on once each of them has been paused for longer than this, and end. Says for
    /// how long they were.
    async fn end(
        &self,
        answers: Vec<JoinHandle<(StatusCode, String)>>,
        longer_than: Duration,
    ) -> Vec<u64> {
        let long_enough = || self.stage.least_paused() > longer_than;
        eventually("they were paused for as long", long_enough).await;
        self.stage.permits.lock().unwrap().clear();
        self.fill(10);
        let mut paused_ms = Vec::new();
        for answer in answers {
            let (status, text) = answer.await.unwrap();
            assert_eq!(status, StatusCode::OK);
            paused_ms.push(text.parse().unwrap());
        }
        self.is_empty().await;
        paused_ms
    }

    async fn is_empty(&self) {
        eventually("all ended", || self.guard.stats().active_tasks == 0).await;
        assert_empty(&self.guard);
    }

    /// What a sample publishes of the time that requests were paused, by class.
    fn paused_seconds(&self) -> BTreeMap<String, u64> {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || self.guard.sample_now());
        let snapshot = recorder.snapshotter().snapshot().into_vec();
        let paused = snapshot.into_iter().filter_map(|(key, _, _, value)| {
            let key = key.key();
            if key.name() != "memory_guard_paused_seconds_total" {
                return None;
            }
            let labels = key.labels().filter(|label| label.key() != "guard");
            let labels = labels.map(|l| format!("{}={}", l.key(), l.value()));
            let DebugValue::Counter(seconds) = value else {
                panic!("{value:?}");
            };
            Some((labels.collect::<Vec<_>>().join(","), seconds))
        });
        paused.collect()
    }
}

#[tokio::test]
async fn the_time_that_requests_were_paused_is_counted_by_class() {
    let app = App::new();
    assert_eq!(app.get("/quick").await.unwrap().1, "ok");
    let reports = app.pause("/report", 1).await;
    let paused_ms = app.end(reports, A_SECOND).await[0];
    let expected = [("", 0), ("quick", 0), ("report", paused_ms / 1000)];
    let expected = expected.map(|(class, seconds)| (format!("class={class}"), seconds));
    assert_eq!(app.paused_seconds(), BTreeMap::from(expected));
    // Of the rest, less than a second.
    let all = app.guard.stats().paused_seconds_total;
    assert_eq!(all, paused_ms as f64 / 1e3);
    let others = app.pause("/", 1).await;
    let others_ms = app.end(others, A_SECOND).await[0];
    let seconds = app.paused_seconds();
    assert_eq!(seconds["class="], others_ms / 1000);
    assert_eq!(seconds["class=report"], paused_ms / 1000);
}

/// What is logged while this runs, of pauses.
fn logged(work: impl Future<Output = ()>) -> Vec<BTreeMap<String, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let events = Events::record(|| runtime.block_on(work));
    let is_pause = |event: &BTreeMap<String, String>| event.contains_key("paused_ms");
    events.into_iter().filter(is_pause).collect()
}

#[test]
fn a_request_that_was_paused_for_long_is_one_line_when_it_ends() {
    let mut paused_ms = 0;
    let lines = logged(async {
        let app = App::with(|builder| builder.name("jobs"));
        assert_eq!(app.get("/quick").await.unwrap().1, "ok");
        let reports = app.pause("/report", 1).await;
        paused_ms = app.end(reports, A_SECOND).await[0];
        let snapshot = Request::get("/snapshot.json").body(Body::empty()).unwrap();
        let page = app.guard.dashboard().oneshot(snapshot).await.unwrap();
        let bytes = page.into_body().collect().await.unwrap().to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let text = page["decisions"].as_array().unwrap().iter();
        let mut text = text.filter(|decision| decision["kind"] == "paused");
        let text = text.next().unwrap()["text"].as_str().unwrap();
        assert!(text.starts_with("report for ") && text.ends_with(" s, then completed"));
    });
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(line["message"], "memory guard paused a request for long");
    assert_eq!(
        (&*line["at"], &*line["target"]),
        ("WARN", "tower_memory_guard")
    );
    assert_eq!(line["paused_ms"], paused_ms.to_string());
    assert_eq!(
        (&*line["class"], &*line["outcome"], &*line["name"]),
        ("report", "completed", "jobs")
    );
    for field in ["level", "memory_percent", "paused_tasks", "suppressed"] {
        assert!(line.contains_key(field), "{field}: {line:?}");
    }
}

#[test]
fn a_short_pause_is_not_logged() {
    let mut paused_ms = 0;
    let lines = logged(async {
        let app = App::new();
        let reports = app.pause("/report", 1).await;
        paused_ms = app.end(reports, Duration::ZERO).await[0];
    });
    // On a machine that is busy it may have been long.
    assert_eq!(lines.len(), usize::from(paused_ms > 1000), "{paused_ms} ms");
}

#[test]
fn of_many_that_were_paused_one_is_logged_and_the_others_are_counted() {
    let lines = logged(async {
        let app = App::new();
        let many = app.pause("/report", 8).await;
        app.end(many, A_SECOND).await;
        let last = app.pause("/report", 1).await;
        app.end(last, A_SECOND).await;
    });
    let suppressed = lines.iter().map(|line| &*line["suppressed"]);
    let suppressed: Vec<u64> = suppressed.map(|count| count.parse().unwrap()).collect();
    // They end within moments; the last one more than a second later.
    assert_eq!(suppressed.iter().sum::<u64>() + lines.len() as u64, 9);
    assert!(lines.len() < 9 && suppressed[0] == 0, "{lines:?}");
}

/// What was recorded as `paused_ms` in spans, by their paths.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, u64)>>>);

struct Path(Option<String>);

impl Visit for Path {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "path" {
            self.0 = Some(format!("{value:?}").trim_matches('"').to_owned());
        }
    }
}

struct Paused(Option<u64>);

impl Visit for Paused {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "paused_ms" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S> Layer<S> for Spans
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut path = Path(None);
        attributes.record(&mut path);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(path);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let mut paused = Paused(None);
        record.record(&mut paused);
        let span = context.span(id).expect("it is open");
        let path = span
            .extensions()
            .get::<Path>()
            .and_then(|path| path.0.clone());
        if let (Some(path), Some(ms)) = (path, paused.0) {
            self.0.lock().unwrap().push((path, ms));
        }
    }
}

impl Spans {
    /// What is told while this runs with a service in a span.
    fn told(work: impl AsyncFnOnce(&App)) -> Vec<(String, u64)> {
        let spans = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        tracing::subscriber::with_default(subscriber, || {
            let mut app = App::new();
            let span = |request: &Request<_>| {
                tracing::info_span!("request", path = request.uri().path(), paused_ms = Empty)
            };
            let gives_up = middleware::from_fn_with_state(app.gives_up.clone(), until_given_up);
            let trace = TraceLayer::new_for_http().make_span_with(span);
            app.router = app.router.layer(gives_up).layer(trace);
            runtime.block_on(work(&app));
        });
        std::mem::take(&mut spans.0.lock().unwrap())
    }
}

/// A request to this path is paused.
fn told_of(path: &str) {
    let mut paused_ms = 0;
    let told = Spans::told(async |app: &App| {
        assert_eq!(app.get("/quick").await.unwrap().1, "ok");
        let answers = app.pause(path, 1).await;
        paused_ms = app.end(answers, Duration::ZERO).await[0];
    });
    assert!(paused_ms > 0);
    assert_eq!(told, [(path.to_owned(), paused_ms)]);
}

#[test]
fn the_span_of_a_request_that_was_paused_tells_for_how_long() {
    told_of("/report");
}

#[test]
fn the_span_of_a_request_whose_body_was_paused_tells_for_how_long() {
    told_of("/body");
}

#[test]
fn the_span_of_a_request_whose_work_was_paused_at_a_checkpoint_tells_for_how_long() {
    told_of("/thread");
}

#[test]
fn the_span_of_a_request_that_is_given_up_while_paused_tells_for_how_long() {
    let told = Spans::told(async |app: &App| {
        let mut answers = app.pause("/report", 1).await;
        let is_told = || !app.stage.least_paused().is_zero();
        eventually("it was paused for some time", is_told).await;
        app.stage.permits.lock().unwrap().clear();
        app.gives_up.notify_waiters();
        let (status, _) = answers.remove(0).await.unwrap();
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        app.is_empty().await;
        assert_eq!(app.guard.stats().paused_tasks, 0);
    });
    let [(path, paused_ms)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(path, "/report");
    assert!(*paused_ms > 0);
}
