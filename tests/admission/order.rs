//! Who goes first: priorities, tenants and deadlines through real servers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{MIB, assert_empty, eventually, fill, listen, serve_axum, with};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt;
use tower_memory_guard::{
    ByRequest, Class, Cost, Detail, Guard, HttpResponder, ManualSource, MemoryGuardBuilder,
    MemoryGuardLayer, MemoryLevel, MemorySource, Policy, Pressure, Priority, Sample, Tier,
};

type HttpClient = Client<HttpConnector, Body>;

fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn priority(word: &str) -> Priority {
    match word {
        "critical" => Priority::Critical,
        "high" => Priority::High,
        "low" => Priority::Low,
        _ => Priority::Normal,
    }
}

/// `/tenant/priority`, or whatever else is critical.
fn by_path<B>(request: &axum::http::Request<B>) -> Class {
    let mut parts = request.uri().path().trim_start_matches('/').split('/');
    match (parts.next(), parts.next()) {
        (Some(tenant), Some(word)) if !tenant.contains('.') => Class::new("work")
            .priority(priority(word))
            .tenant(tenant.to_owned())
            .tier(tenant.to_owned()),
        _ => Class::new("health").priority(Priority::Critical),
    }
}

type Classified = MemoryGuardLayer<HttpResponder, ByRequest<fn(&Request) -> Class>>;

/// Twenty requests at a time.
fn tiered(builder: MemoryGuardBuilder) -> MemoryGuardBuilder {
    builder
        .policy(Policy::Predictive)
        .max_concurrent(20)
        .estimated_bytes_per_request(MIB)
        .tier(Tier::new("bronze").weight(1))
        .tier(Tier::new("silver").weight(2))
        .tier(Tier::new("gold").weight(4))
        .max_waiting(200)
        .wait_timeout(Duration::from_secs(20))
}

fn classified() -> (Classified, Guard, ManualSource) {
    let (layer, memory) = with(tiered);
    let guard = layer.guard().clone();
    (
        layer.classify(by_path as fn(&Request) -> Class),
        guard,
        memory,
    )
}

/// Memory that stays as it is, sampled by a thread: time goes on with its samples.
struct Steady;

impl MemorySource for Steady {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> std::io::Result<()> {
        sample.push(MemoryLevel::new(100 * MIB, Some(1000 * MIB)));
        Ok(())
    }

    fn name(&self) -> String {
        "steady".to_owned()
    }
}

/// Each request takes 20 ms, but probes.
fn slow(builder: MemoryGuardBuilder) -> (Router, Guard) {
    let layer = tiered(builder).build().unwrap();
    let guard = layer.guard().clone();
    let takes = async |ms| tokio::time::sleep(Duration::from_millis(ms)).await;
    let app = Router::new()
        .route("/healthz", get(move || takes(1)))
        .fallback(move || takes(20))
        .layer(layer.classify(by_path::<Body>));
    (app, guard)
}

#[test]
fn more_urgent_work_and_fuller_memory_are_greater() {
    let priorities = [
        Priority::Low,
        Priority::Normal,
        Priority::High,
        Priority::Critical,
    ];
    assert!(priorities.is_sorted_by(|one, next| one < next));
    let levels = [
        Pressure::Normal,
        Pressure::Stable,
        Pressure::Warning,
        Pressure::High,
        Pressure::Critical,
    ];
    assert!(levels.is_sorted_by(|one, next| one < next));
}

async fn status(client: &HttpClient, address: SocketAddr, path: &str) -> StatusCode {
    let uri = format!("http://{address}{path}").parse().unwrap();
    let response = client.get(uri).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// What became of the requests of each path.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<HashMap<&'static str, (u64, u64)>>>);

impl Outcomes {
    fn count(&self, path: &'static str, status: StatusCode) {
        let mut outcomes = self.0.lock().unwrap();
        let (answered, rejected) = outcomes.entry(path).or_default();
        match status {
            StatusCode::OK => *answered += 1,
            _ => *rejected += 1,
        }
    }

    fn answered(&self, path: &str) -> u64 {
        self.0.lock().unwrap().get(path).map_or(0, |both| both.0)
    }

    fn rejected(&self, path: &str) -> u64 {
        self.0.lock().unwrap().get(path).map_or(0, |both| both.1)
    }
}

/// Callers that each send the next request when the one before is answered.
fn callers<C>(
    count: usize,
    path: &'static str,
    call: impl Fn(&'static str) -> C + Clone + Send + 'static,
    outcomes: &Outcomes,
    over: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<()>>
where
    C: Future<Output = StatusCode> + Send,
{
    let start = |_| {
        let (outcomes, over, call) = (outcomes.clone(), Arc::clone(over), call.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let status = call(path).await;
                outcomes.count(path, status);
                if status != StatusCode::OK {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    };
    (0..count).map(start).collect()
}

async fn end(over: &AtomicBool, callers: Vec<tokio::task::JoinHandle<()>>) {
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Turns are counted where each takes as long as any other: by a clock that goes on once all
/// have done what they can. So nobody is served less because a machine is slow.
#[tokio::test(start_paused = true)]
async fn tenants_get_their_shares_under_three_times_what_fits() {
    let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1000 * MIB));
    let (app, guard) = slow(builder);
    let call = move |path| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = app.clone().oneshot(request);
        async {
            let response = answer.await.unwrap();
            let status = response.status();
            response.into_body().collect().await.unwrap();
            status
        }
    };
    let (outcomes, over) = (Outcomes::default(), Arc::default());
    let mut all = Vec::new();
    for path in ["/bronze/normal", "/silver/normal", "/gold/normal"] {
        all.extend(callers(50, path, call.clone(), &outcomes, &over));
    }
    all.extend(callers(1, "/gold/high", call.clone(), &outcomes, &over));
    all.extend(callers(1, "/bronze/low", call.clone(), &outcomes, &over));
    all.extend(callers(1, "/healthz", call, &outcomes, &over));
    let sampled = guard.clone();
    let samples = tokio::spawn(async move {
        loop {
            sampled.sample_now();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let answered = |path: &str| outcomes.answered(path);
    eventually("the queue is full of all of them", || {
        answered("/gold/normal") > 100
    })
    .await;
    let of_tenants = || {
        let both = |one, other| answered(one) + answered(other);
        [
            both("/bronze/normal", "/bronze/low"),
            answered("/silver/normal"),
            both("/gold/normal", "/gold/high"),
        ]
    };
    let before = of_tenants();
    eventually("enough were served", || of_tenants()[2] > before[2] + 1_200).await;
    let after = of_tenants();
    let waited = guard.stats().waiting_requests;
    end(&over, all).await;
    let served: Vec<f64> = (0..3).map(|n| (after[n] - before[n]) as f64).collect();
    let total: f64 = served.iter().sum();
    for (served, weight) in served.iter().zip([1.0, 2.0, 4.0]) {
        let share = served / total * 7.0 / weight;
        assert!((0.95..1.05).contains(&share), "{share}: {after:?}");
    }
    assert!(waited > 20, "it was overload");
    // In turn with the fifty others it would have a fiftieth.
    let (high, normal) = (answered("/gold/high"), answered("/gold/normal"));
    assert!(high > normal / 35, "{high} beside {normal}");
    assert!(
        answered("/healthz") > answered("/gold/high"),
        "it never waits"
    );
    assert!(answered("/bronze/low") > 0, "nobody starves");
    samples.abort();
    assert_empty(&guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tenant_that_floods_pays_alone() {
    let (app, guard) = slow(MemoryGuardLayer::builder().memory_source(Steady));
    let address = serve_axum(app).await;
    let client = client();
    let call = move |path| {
        let client = client.clone();
        async move { status(&client, address, path).await }
    };
    let (outcomes, over) = (Outcomes::default(), Arc::default());
    let mut all = callers(300, "/silver/normal", call.clone(), &outcomes, &over);
    eventually("the queue is full", || {
        outcomes.rejected("/silver/normal") > 0
    })
    .await;
    for path in ["/bronze/normal", "/gold/normal"] {
        all.extend(callers(2, path, call.clone(), &outcomes, &over));
    }
    eventually("all were served", || {
        ["/bronze/normal", "/gold/normal"].map(|path| outcomes.answered(path)) > [100, 100]
    })
    .await;
    let (bronze, gold) = (
        outcomes.answered("/bronze/normal"),
        outcomes.answered("/gold/normal"),
    );
    end(&over, all).await;
    // Two callers each, who wait for one another only, are served as fast.
    assert!(bronze.abs_diff(gold) < gold / 2, "{bronze}, {gold}");
    assert_eq!(outcomes.rejected("/bronze/normal"), 0);
    assert_eq!(outcomes.rejected("/gold/normal"), 0);
    eventually("all is given back", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}

/// 1,024 wait for memory, and then it is critically full.
async fn besiege(guard: &Guard, memory: &ManualSource) -> Vec<tokio::task::JoinHandle<()>> {
    let held = guard.try_acquire(Cost::Bytes(900 * MIB)).unwrap();
    let waiting = Arc::new(AtomicU64::new(0));
    let mut waiters: Vec<_> = (0..1024)
        .map(|_| {
            let (guard, waiting) = (guard.clone(), Arc::clone(&waiting));
            tokio::spawn(async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                let _ = guard.acquire(Cost::Bytes(200 * MIB)).await;
            })
        })
        .collect();
    eventually("all wait", || guard.stats().waiting_requests == 1024).await;
    fill(guard, memory, 99);
    assert_eq!(guard.pressure(), Pressure::Critical);
    waiters.push(tokio::spawn(async move {
        let _held = held;
        std::future::pending::<()>().await;
    }));
    waiters
}

#[tokio::test]
async fn probes_are_answered_beside_a_thousand_waiters_at_critical_pressure() {
    let (layer, memory) = with(|builder| builder.wait_timeout(Duration::from_secs(60)));
    let guard = layer.guard().clone();
    let http = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/work/normal", get(|| async { "done" }))
        .layer(layer.clone().classify(by_path::<Body>));
    let address = serve_axum(http).await;
    let (listener, grpc) = listen().await;
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder()
        .layer(layer.classify(by_path::<tonic::body::Body>))
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());

    let waiters = besiege(&guard, &memory).await;
    let client = client();
    let work = status(&client, address, "/work/normal").await;
    assert_eq!(work, StatusCode::SERVICE_UNAVAILABLE);
    for _ in 0..20 {
        assert_eq!(status(&client, address, "/healthz").await, StatusCode::OK);
        let check = HealthCheckRequest {
            service: String::new(),
        };
        health.check(check).await.unwrap();
    }
    assert_eq!(guard.stats().waiting_requests, 1024);
    waiters.iter().for_each(|waiter| waiter.abort());
}

#[tokio::test]
async fn low_work_is_shed_first() {
    let (address, guard, memory) = {
        let (layer, guard, memory) = classified();
        let app = Router::new().fallback(|| async { "done" }).layer(layer);
        (serve_axum(app).await, guard, memory)
    };
    let client = client();
    assert_eq!(status(&client, address, "/a/low").await, StatusCode::OK);
    fill(&guard, &memory, 91);
    assert_eq!(guard.pressure(), Pressure::Warning);
    let uri = format!("http://{address}/a/low").parse().unwrap();
    let response = client.get(uri).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["reason"], "low_priority");
    assert_eq!(status(&client, address, "/a/normal").await, StatusCode::OK);
}

#[tokio::test]
async fn a_caller_that_waits_less_is_told_sooner() {
    let (layer, guard, _memory) = classified();
    let app = Router::new().fallback(|| async { "done" }).layer(layer);
    let address = serve_axum(app).await;
    let _held = guard.try_acquire(Cost::Bytes(960 * MIB)).unwrap();
    for header in ["grpc-timeout", "x-envoy-expected-rq-timeout-ms"] {
        let request = Request::get(format!("http://{address}/a/normal"))
            .header(header, "50")
            .body(Body::empty())
            .unwrap();
        // The guard itself would wait for twenty seconds.
        let answer = tokio::time::timeout(Duration::from_secs(10), client().request(request));
        let response = answer.await.expect("told by its own deadline").unwrap();
        assert_eq!(
            response.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "{header}"
        );
    }
}

#[tokio::test]
async fn each_class_has_its_own_estimate_in_the_error_flavour_too() {
    use tower::{Service, ServiceBuilder};
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(10 * MIB));
    let guard = layer.guard().clone();
    let by_size = |mib: &u64| Class::new("sized").cost(mib * MIB);
    let mut service = ServiceBuilder::new()
        .layer(layer.classify(by_size).into_error_layer())
        .service_fn(|mib: u64| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, std::io::Error>(mib)
        });
    let large = service.ready().await.unwrap().call(900);
    let small = service.ready().await.unwrap().call(50);
    assert_eq!(guard.stats().reserved_mib, 950.0);
    // It fits after the large one; its place is kept by the future.
    let next = service.ready().await.unwrap().call(200);
    assert_eq!(guard.stats().waiting_requests, 1);
    let (large, small, next) = tokio::join!(large, small, next);
    assert_eq!(
        (large.unwrap(), small.unwrap(), next.unwrap()),
        (900, 50, 200)
    );
    drop(service);
    assert_empty(&guard);
}

#[tokio::test]
async fn critical_work_of_no_name_gets_its_slice_and_gives_it_back() {
    use tower::{Service, ServiceBuilder};
    let (layer, memory) = with(|builder| builder.max_waiting(0));
    let guard = layer.guard().clone();
    let mut service = ServiceBuilder::new()
        .layer(
            layer
                .classify(|_: &u64| Class::default().priority(Priority::Critical))
                .into_error_layer(),
        )
        .service_fn(|n: u64| async move { Ok::<_, std::io::Error>(n) });
    for percent in [10, 99] {
        fill(&guard, &memory, percent);
        for n in 0..3 {
            let answer = service.ready().await.unwrap().call(n).await;
            assert_eq!(answer.unwrap(), n, "at {percent} %");
        }
    }
    drop(service);
    guard.sample_now();
    assert_empty(&guard);
}

#[tokio::test]
async fn a_tenant_that_does_not_give_up_is_sent_away_for_longer() {
    let (layer, _memory) = with(|builder| builder.retry_budget(4).max_waiting(0));
    let guard = layer.guard().clone();
    let _held = guard.try_acquire(Cost::Bytes(950 * MIB)).unwrap();
    let retry_after = async |tenant: &'static str| {
        let class = Class::new("work").tenant(tenant);
        let rejected = guard.acquire_for(&class).await.unwrap_err();
        rejected.retry_after().unwrap()
    };
    for _ in 0..20 {
        retry_after("impatient").await;
    }
    let impatient = retry_after("impatient").await;
    let patient = retry_after("patient").await;
    assert!(impatient >= 8 * patient, "{impatient:?}, {patient:?}");
}

#[tokio::test]
async fn those_without_a_tenant_are_sent_away_for_longer_as_one_tenant_is() {
    for is_any_named in [false, true] {
        let (layer, _memory) = with(|builder| builder.retry_budget(4).max_waiting(0));
        let guard = layer.guard();
        let _held = guard.try_acquire(Cost::Bytes(950 * MIB)).unwrap();
        if is_any_named {
            let named = Class::new("work").tenant("named");
            guard.acquire_for(&named).await.unwrap_err();
        }
        let mut retry_after = Vec::new();
        for _ in 0..20 {
            let rejected = guard.acquire(Cost::Estimated).await.unwrap_err();
            retry_after.push(rejected.retry_after().unwrap());
        }
        let (first, last) = (retry_after[0], retry_after[19]);
        assert!(last >= 8 * first, "{retry_after:?}, {is_any_named}");
        // The budget's last is no more than the first, the one after it is.
        assert!(retry_after[3] < retry_after[4], "{retry_after:?}");
    }
}
