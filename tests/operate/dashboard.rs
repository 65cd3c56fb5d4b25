//! The page: its parts over HTTP, and as a browser shows it while a storm runs.
//!
//! `MEMORY_GUARD_WRITE_DOCS=1 cargo test --release --test dashboard` takes the pictures of
//! `docs/dashboard.md` anew.

#[path = "../support/mod.rs"]
mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use support::browser::Browser;
use support::tools::tool;
use support::{MIB, counting, fill, serve_axum};
use tower::ServiceExt;
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{
    Class, Detail, Guard, MemoryGuardLayer, MemoryLevel, MemorySource, Priority, Sample, Source,
};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

async fn ask(guard: &Guard, method: &str, path: &str) -> http::Response<Body> {
    let app: Router = Router::new().nest_service("/guard", guard.dashboard());
    let request = Request::builder().method(method).uri(path);
    app.oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_page_asks_nobody_else_and_changes_nothing() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard();
    for path in ["/guard", "/guard/"] {
        let page = ask(guard, "GET", path).await;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let text = page.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let elsewhere = ["http://", "https://", "src=\"//", "@import", "url("];
        // The name of SVG is none that is asked for.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        let found: Vec<_> = (elsewhere.iter())
            .filter(|&&other| text.contains(other))
            .collect();
        assert!(found.is_empty(), "{found:?}");
        assert!(text.contains("Do not expose"), "it says so");
    }
    let refused = ask(guard, "POST", "/guard/snapshot.json").await;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.headers()["allow"], "GET, HEAD");
}

#[tokio::test]
async fn the_snapshot_says_what_the_guard_sees() {
    let (layer, memory) = counting(1);
    let guard = layer.guard();
    fill(guard, &memory, 61);
    let permit = guard.acquire(1024).await.unwrap();
    assert!(guard.try_acquire(1024).is_err());
    let snapshot = ask(guard, "GET", "/guard/snapshot.json").await;
    assert_eq!(snapshot.headers()["content-type"], "application/json");
    let bytes = snapshot.into_body().collect().await.unwrap().to_bytes();
    let snapshot: Value = serde_json::from_slice(&bytes).unwrap();
    let stats = &snapshot["stats"];
    assert_eq!(stats["level"], "STABLE");
    assert_eq!(stats["memory_percent"], 61.0);
    assert_eq!(stats["memory_limit_mb"], (support::LIMIT / MIB) as f64);
    assert_eq!(stats["active_tasks"], 1);
    assert_eq!(stats["current_concurrency"], 1);
    assert_eq!(stats["base_concurrency"], 1);
    assert_eq!(stats["paused_tasks"], 0);
    assert_eq!(snapshot["admitted_requests"], 1);
    assert_eq!(snapshot["longest_paused_ms"], 0.0);
    assert_eq!(snapshot["rejected"]["no_room"], 1);
    assert_eq!(snapshot["classes"][0]["admitted"], 1);
    let decisions = snapshot["decisions"].as_array().unwrap();
    let kinds: Vec<_> = decisions
        .iter()
        .map(|decision| decision["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["adjusted", "rejected"]);
    assert_eq!(decisions[1]["text"], "no_room");
    drop(permit);
}

/// A source that takes its time, as long as somebody has the lock.
struct Slow(Arc<(Mutex<()>, AtomicBool)>);

impl MemorySource for Slow {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> io::Result<()> {
        let (lock, waits) = &*self.0;
        waits.store(lock.try_lock().is_err(), Ordering::Relaxed);
        let _its_turn = lock.lock().unwrap();
        sample.push(MemoryLevel::new(MIB, Some(support::LIMIT)));
        Ok(())
    }

    fn name(&self) -> String {
        "slow".into()
    }
}

#[test]
fn a_snapshot_waits_for_no_sample() {
    let slow = Arc::new((Mutex::new(()), AtomicBool::new(false)));
    let builder = MemoryGuardLayer::builder().memory_source(Slow(Arc::clone(&slow)));
    let builder = builder.check_interval(Duration::from_millis(10));
    let guard = builder.build().unwrap().guard().clone();
    let turn = slow.0.lock().unwrap();
    while !slow.1.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (answers, answer) = channel();
    std::thread::spawn(move || {
        let snapshot = ask(&guard, "GET", "/guard/snapshot.json");
        let snapshot = futures_util::FutureExt::now_or_never(snapshot).unwrap();
        answers.send((guard.source(), snapshot.status())).unwrap();
    });
    let answered = answer.recv_timeout(Duration::from_secs(10));
    drop(turn);
    assert_eq!(answered, Ok(("slow".into(), StatusCode::OK)));
}

#[tokio::test(start_paused = true)]
async fn events_come_until_the_guard_is_closed() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard();
    let events = ask(guard, "GET", "/guard/events").await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut body = events.into_body();
    let mut next = async || {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let data = text
            .strip_prefix("data: ")
            .unwrap()
            .strip_suffix("\n\n")
            .unwrap();
        Some(serde_json::from_str::<Value>(data).unwrap())
    };
    let began = tokio::time::Instant::now();
    assert_eq!(next().await.unwrap()["closed"], false);
    assert_eq!(next().await.unwrap()["closed"], false);
    assert_eq!(began.elapsed(), Duration::from_millis(500));
    guard.close();
    assert_eq!(next().await.unwrap()["closed"], true);
    assert!(next().await.is_none());
}

/// What a request of the storm is, by its path.
const SORTS: [(&str, Priority, usize, u64); 3] = [
    ("thumbnail", Priority::High, 3, 300),
    ("report", Priority::Normal, 24, 900),
    ("export", Priority::Low, 40, 1500),
];

async fn work(request: Request<Body>) -> &'static str {
    let name = request.uri().path().trim_start_matches('/');
    let sort = SORTS
        .iter()
        .find(|sort| sort.0 == name)
        .expect("a known sort");
    let memory = vec![1_u8; sort.2 << 20];
    tokio::time::sleep(Duration::from_millis(sort.3)).await;
    std::hint::black_box(&memory);
    "done"
}

/// More than fits, until the runtime ends.
fn storm(address: SocketAddr) {
    let client: Client<HttpConnector, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    tokio::spawn(async move {
        for n in 0.. {
            let sort = [0, 1, 0, 2, 0, 1, 0, 0][n % 8];
            let uri = format!("http://{address}/{}", SORTS[sort].0)
                .parse()
                .unwrap();
            let response = client.get(uri);
            tokio::spawn(async move { response.await.map(|response| response.into_body()) });
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_a_storm() {
    let Some(chromium) = tool("chromium") else {
        return;
    };
    let layer = MemoryGuardLayer::builder()
        .name("renders")
        .source(Source::Process)
        .memory_limit_bytes(320 * MIB)
        .estimated_bytes_per_request(24 * MIB)
        .wait_timeout(Duration::from_secs(1))
        .build()
        .unwrap()
        .classify(|request: &Request<Body>| {
            let path = request.uri().path().trim_start_matches('/').to_owned();
            let sort = SORTS.iter().find(|sort| sort.0 == path);
            Class::new(path).priority(sort.map_or(Priority::Normal, |sort| sort.1))
        });
    let dashboard = layer.guard().dashboard();
    let app = Router::new().fallback(get(work)).layer(layer);
    storm(serve_axum(app).await);
    let page = serve_axum(Router::new().nest_service("/guard", dashboard)).await;
    let url = format!("http://{page}/guard");
    let looked = tokio::task::spawn_blocking(move || look(&chromium, &url));
    looked.await.unwrap();
}

fn look(chromium: &std::path::Path, url: &str) {
    let writes = std::env::var_os("MEMORY_GUARD_WRITE_DOCS").is_some();
    let mut browser = Browser::start(chromium);
    for (name, width, dark) in [
        ("dashboard-light", 1200, false),
        ("dashboard-dark", 1200, true),
        ("dashboard-phone", 360, false),
    ] {
        browser.open(url, width, dark);
        browser.wait_for("document.body.dataset.state === 'live'");
        // For a chart that shows something.
        let snapshots = if writes { 60 } else { 3 };
        browser.wait_for(&format!(
            "Number(document.body.dataset.snapshots) >= {snapshots}"
        ));
        browser.wait_for("document.querySelectorAll('#decisions tr').length > 0");
        browser.wait_for("/[1-9]\\d* in all/.test(document.getElementById('rate-note').innerText)");
        let text = |id: &str| format!("document.getElementById('{id}').innerText");
        assert_eq!(browser.evaluate(&text("name")), "renders");
        assert_eq!(browser.evaluate(&text("policy")), "predictive");
        let classes = browser.evaluate(&text("classes")).to_string();
        assert!(
            SORTS.iter().all(|sort| classes.contains(sort.0)),
            "{classes}"
        );
        let note = browser.evaluate(&text("percent-note")).to_string();
        assert!(note.contains("320"), "of the limit: {note}");
        let fits = browser.evaluate("document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(fits, true, "it is no wider than {width}");
        let picture = browser.screenshot();
        assert!(picture.starts_with(b"\x89PNG"));
        if writes {
            let images = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images");
            std::fs::write(format!("{images}/{name}.png"), picture).unwrap();
        }
    }
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
