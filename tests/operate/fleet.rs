//! Three guarded servers of different memory behind a real HAProxy, under one load.
//!
//! `FLEET_SECONDS=30 cargo test --release --test fleet -- --nocapture` measures longer, and
//! prints the table of `docs/fleet.md`.

#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::tools::{Started, free_port, tool};
use support::{MIB, assert_empty, counting, eventually, fill, serve_axum};
use tokio::net::TcpListener;
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{AgentCheck, LoadFormat, MemoryGuardLayer, Source};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// What each server may use, in MiB.
const SERVERS_MIB: [u64; 3] = [128, 256, 512];
const REQUEST_MIB: usize = 16;
const WORK: Duration = Duration::from_millis(400);
const WAIT: Duration = Duration::from_millis(1500);
/// About three quarters of what the three can serve, and twice what the smallest could if
/// each got a third.
const ARRIVALS_PER_SECOND: f64 = 96.0;
/// Set where this program is one of the servers.
const SERVER: &str = "FLEET_SERVER_MIB";

async fn work() -> &'static str {
    let memory = vec![1_u8; REQUEST_MIB << 20];
    tokio::time::sleep(WORK).await;
    std::hint::black_box(&memory);
    "done"
}

/// Not a test: one of the servers, in a process of its own.
#[test]
fn server() {
    let Ok(mib) = std::env::var(SERVER) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let layer = MemoryGuardLayer::builder()
            .source(Source::Process)
            .memory_limit_bytes(mib.parse::<u64>().unwrap() * MIB)
            .estimated_bytes_per_request(REQUEST_MIB as u64 * MIB)
            .wait_timeout(WAIT)
            .build()
            .unwrap();
        let checks = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let agent = checks.local_addr().unwrap().port();
        tokio::spawn(AgentCheck::new(layer.guard().clone()).serve(checks));
        let app = Router::new()
            .route("/", get(work))
            .layer(layer.report_load(LoadFormat::Text));
        let port = serve_axum(app).await.port();
        println!("\nlistening {port} {agent}");
        std::future::pending::<()>().await;
    });
}

/// A server, its port, and that of its agent.
fn start_server(mib: u64) -> (Started, u16, u16) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "server", "--nocapture"])
        .env(SERVER, mib.to_string())
        .stdout(Stdio::piped());
    let mut server = Started::new(&mut command);
    let output = BufReader::new(server.0.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("listening"));
    let line = line.expect("it says where it listens");
    // The test harness there goes on printing.
    std::thread::spawn(move || lines.for_each(drop));
    let mut ports = line.split(' ').skip(1).map(|port| port.parse().unwrap());
    (server, ports.next().unwrap(), ports.next().unwrap())
}

fn start_haproxy(
    haproxy: &Path,
    folder: &Path,
    balance: &str,
    agents: bool,
    servers: &[(Started, u16, u16)],
) -> (Started, SocketAddr) {
    let port = free_port();
    let socket = folder.join("stats");
    let mut config = format!(
        "global\n  stats socket {socket}\ndefaults\n  mode http\n  retries 0\n  \
         timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
         frontend front\n  bind 127.0.0.1:{port}\n  default_backend fleet\n\
         backend fleet\n  balance {balance}\n",
        socket = socket.display()
    );
    for (n, (_, port, agent)) in servers.iter().enumerate() {
        config += &format!("  server s{n} 127.0.0.1:{port} weight 100");
        if agents {
            config += &format!(" agent-check agent-port {agent} agent-inter 500ms");
        }
        config.push('\n');
    }
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(&file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    (
        Started::new(&mut command),
        SocketAddr::from(([127, 0, 0, 1], port)),
    )
}

/// HAProxy's weights of the servers, as it reports them.
fn weights(folder: &Path) -> Vec<u32> {
    let mut socket = UnixStream::connect(folder.join("stats")).unwrap();
    socket.write_all(b"show stat\n").unwrap();
    let mut table = String::new();
    socket.read_to_string(&mut table).unwrap();
    let mut rows = table
        .trim_start_matches("# ")
        .lines()
        .map(|row| row.split(','));
    let names: Vec<_> = rows.next().expect("a header").collect();
    let column = |name| {
        names
            .iter()
            .position(|&n| n == name)
            .expect("a known column")
    };
    let (server, weight) = (column("svname"), column("weight"));
    rows.map(Iterator::collect::<Vec<_>>)
        .filter(|row| row.len() > server && row[server].starts_with('s'))
        .map(|row| row[weight].parse().unwrap())
        .collect()
}

/// What became of the requests of a load.
#[derive(Debug, Default)]
struct Outcome {
    answered: usize,
    rejected: usize,
    /// By status; 0 where no response came.
    failed: std::collections::BTreeMap<u16, usize>,
}

/// Requests that come at random, whatever became of those before.
async fn load(address: SocketAddr, length: Duration) -> Outcome {
    let client: Client<HttpConnector, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut random = fastrand::Rng::with_seed(7);
    let uri: http::Uri = format!("http://{address}/").parse().unwrap();
    let mut requests = tokio::task::JoinSet::new();
    let mut at = tokio::time::Instant::now();
    let end = at + length;
    while at < end {
        at += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / ARRIVALS_PER_SECOND);
        tokio::time::sleep_until(at).await;
        let request = client.get(uri.clone());
        requests.spawn(async move {
            let response = request.await.ok()?;
            let status = response.status();
            response.into_body().collect().await.ok()?;
            Some(status)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(status) = requests.join_next().await {
        match status.unwrap() {
            Some(StatusCode::OK) => outcome.answered += 1,
            Some(StatusCode::SERVICE_UNAVAILABLE) => outcome.rejected += 1,
            status => {
                let status = status.map_or(0, |status| status.as_u16());
                *outcome.failed.entry(status).or_default() += 1;
            }
        }
    }
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_follow_the_guards_turn_away_fewer() {
    let Some(haproxy) = tool("haproxy") else {
        return;
    };
    let seconds: Option<u64> = (std::env::var("FLEET_SECONDS").ok())
        .map(|seconds| seconds.parse().expect("FLEET_SECONDS is a number"));
    let length = Duration::from_secs(seconds.unwrap_or(6));
    let mut rejected = HashMap::new();
    println!(
        "\n| balance | agent | answered | rejected | weights at the end |\n|---|---|---|---|---|"
    );
    let ways = [
        ("roundrobin", false),
        ("roundrobin", true),
        ("leastconn", false),
        ("leastconn", true),
    ];
    for (balance, agents) in ways.into_iter().take(seconds.map_or(2, |_| ways.len())) {
        let folder = tempfile::tempdir().unwrap();
        let servers = SERVERS_MIB.map(start_server);
        let (_haproxy, address) = start_haproxy(&haproxy, folder.path(), balance, agents, &servers);
        eventually("HAProxy answers", || {
            UnixStream::connect(folder.path().join("stats")).is_ok()
        })
        .await;
        // Until estimates and weights have settled.
        load(address, length).await;
        let outcome = load(address, length).await;
        let weights = weights(folder.path());
        println!(
            "| {balance} | {} | {} | {} | {weights:?} |",
            if agents { "yes" } else { "no" },
            outcome.answered,
            outcome.rejected,
        );
        assert!(outcome.failed.is_empty(), "{balance}: {outcome:?}");
        assert!(outcome.answered > 0, "{outcome:?}");
        if agents && balance == "roundrobin" {
            assert!(
                weights[0] < weights[2],
                "more memory, more work: {weights:?}"
            );
        }
        rejected.insert((balance, agents), outcome.rejected);
    }
    let by_turns = rejected[&("roundrobin", false)];
    let by_weight = rejected[&("roundrobin", true)];
    assert!(by_weight < by_turns, "{rejected:?}");
}

#[tokio::test]
async fn each_response_says_how_loaded_its_server_is() {
    let (layer, memory) = counting(2);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 61);
    let app = Router::new()
        .route("/", get(|| async { "done" }))
        .route(
            "/own",
            get(|| async { ([("endpoint-load-metrics", "TEXT eps=1")], "done") }),
        )
        .layer(layer.report_load(LoadFormat::Json));
    let address = serve_axum(app).await;
    let client: Client<HttpConnector, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let ask = async |path: &str| -> (StatusCode, HeaderMap) {
        let uri = format!("http://{address}{path}").parse().unwrap();
        let response = client.get(uri).await.unwrap();
        (response.status(), response.headers().clone())
    };
    let report = |headers: &HeaderMap| -> serde_json::Value {
        let value = headers["endpoint-load-metrics"].to_str().unwrap();
        serde_json::from_str(value.strip_prefix("JSON ").unwrap()).unwrap()
    };
    let (_, headers) = ask("/").await;
    assert_eq!(report(&headers)["mem_utilization"], 0.61);
    let cost = &report(&headers)["request_cost"];
    assert!(cost["memory_bytes"].as_u64() > Some(0), "{cost}");
    let (_, headers) = ask("/own").await;
    assert_eq!(headers["endpoint-load-metrics"], "TEXT eps=1");
    // A rejection above all.
    fill(&guard, &memory, 100);
    let (status, headers) = ask("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(report(&headers)["mem_utilization"], 1.0);
    assert!(report(&headers).get("request_cost").is_none());
    assert_empty(&guard);
}

#[tokio::test]
async fn an_agent_check_is_answered_and_its_connection_ended() {
    let (layer, memory) = counting(2);
    let guard = layer.guard().clone();
    let (listener, address) = support::listen().await;
    let agent = tokio::spawn(AgentCheck::new(guard.clone()).serve(listener));
    let ask = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
            .await
            .unwrap();
        answer
    };
    fill(&guard, &memory, 10);
    assert_eq!(ask().await, "100%\n");
    guard.close();
    assert_eq!(ask().await, "0%\n");
    agent.abort();
}
