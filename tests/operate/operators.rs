//! What operators' tools make of a service: a real Prometheus scrapes the example, a real
//! HAProxy asks whether it is ready.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support;
use crate::support::tools::{Started, example, free_port, tool};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    let file = Path::new(ROOT).join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let uri = format!("http://{address}{path}").parse().unwrap();
    let response = client().get(uri).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8(body.to_vec()).ok()?))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What Prometheus answers to a question of its API.
async fn ask(prometheus: &str, path: &str) -> Value {
    let (_, body) = get(prometheus, path).await.expect("Prometheus answers");
    let mut answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["status"], "success", "{path}: {body}");
    answer["data"].take()
}

async fn query(prometheus: &str, expression: &str) -> Vec<Value> {
    let path = format!("/api/v1/query?query={}", percent_encoded(expression));
    let data = ask(prometheus, &path).await;
    data["result"].as_array().cloned().unwrap_or_default()
}

/// Waits until `expression` has a result.
async fn shows(prometheus: &str, expression: &str) {
    for _ in 0..300 {
        if !query(prometheus, expression).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let scraped = get(prometheus, "/api/v1/targets").await;
    panic!("never: {expression}\n{scraped:?}");
}

/// The example, with memory for few scripts at a time.
fn start_example() -> (Started, String) {
    let mut command = example("js_sandbox");
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("MEMORY_GUARD_SOURCE", "process")
        .env("MEMORY_GUARD_MEMORY_LIMIT", "160M")
        .env("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "40")
        .env("MEMORY_GUARD_WAIT_TIMEOUT_SEC", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut server = Started::new(&mut command);
    let mut output = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    std::thread::spawn(move || output.lines().for_each(drop));
    let address = line.trim().rsplit('/').next().unwrap().to_string();
    (server, address)
}

/// More scripts than fit, until the runtime ends.
fn storm(address: &str) {
    let uri: http::Uri = format!("http://{address}/execute").parse().unwrap();
    let client = client();
    tokio::spawn(async move {
        let code = "Array.from({length: 4e5}, (_, i) => ({i})).length";
        let body = Bytes::from(serde_json::json!({ "code": code }).to_string());
        loop {
            let request = http::Request::post(uri.clone())
                .header("content-type", "application/json")
                .body(Full::new(body.clone()))
                .unwrap();
            let response = client.request(request);
            tokio::spawn(async move { response.await.map(|response| response.into_body()) });
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn start_prometheus(prometheus: &Path, folder: &Path, target: &str) -> (Started, String) {
    let config = read("deploy/prometheus/prometheus.yml");
    assert!(config.contains("localhost:8080") && config.contains("scrape_interval: 5s"));
    let config = config
        .replace("localhost:8080", target)
        .replace("scrape_interval: 5s", "scrape_interval: 1s")
        .replace("evaluation_interval: 15s", "evaluation_interval: 1s");
    std::fs::write(folder.join("prometheus.yml"), config).unwrap();
    std::fs::write(
        folder.join("rules.yml"),
        read("deploy/prometheus/rules.yml"),
    )
    .unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(prometheus);
    command
        .current_dir(folder)
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (Started::new(&mut command), address)
}

/// Every expression of the dashboard, as for all guards.
fn panels(of: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in of["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let expression = ["$job", "$instance", "$guard"]
                .iter()
                .fold(expression.to_owned(), |text, name| text.replace(name, ".*"))
                .replace("$__rate_interval", "10s");
            assert!(!expression.contains('$'), "{expression}");
            let title = panel["title"].as_str().expect("a title").to_owned();
            found.push((title, expression));
        }
        found.extend(panels(panel));
    }
    found
}

/// The names of `docs/metrics.md`.
fn documented() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `memory_guard_"));
    rows.map(|row| format!("memory_guard_{}", row.split('`').next().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_shows_every_metric_and_every_panel() {
    let Some(prometheus) = tool("prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (_example, target) = start_example();
    storm(&target);
    let (_prometheus, prometheus) = start_prometheus(&prometheus, folder.path(), &target);
    for _ in 0..300 {
        match get(&prometheus, "/-/ready").await {
            Some((200, _)) => break,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    // What takes longest to come: waits that ended, in two scrapes.
    shows(
        &prometheus,
        "rate(memory_guard_wait_seconds_bucket{outcome=\"rejected\"}[10s]) > 0",
    )
    .await;
    shows(
        &prometheus,
        "rate(memory_guard_rejected_requests_total[10s]) > 0",
    )
    .await;
    shows(&prometheus, "rate(memory_guard_forecasts_total[10s]) > 0").await;

    let names = ask(&prometheus, "/api/v1/label/__name__/values").await;
    let names: BTreeSet<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for name in documented() {
        let bucket = format!("{name}_bucket");
        assert!(
            names.contains(&*name) || names.contains(&*bucket),
            "{name}: not scraped"
        );
    }
    let limit = query(&prometheus, "memory_guard_limit_bytes").await;
    assert_eq!(limit[0]["value"][1], "167772160");

    let dashboard = serde_json::from_str(&read("deploy/grafana/memory-guard.json")).unwrap();
    let panels = panels(&dashboard);
    assert!(panels.len() > 30, "{}", panels.len());
    for (title, expression) in panels {
        let result = query(&prometheus, &expression).await;
        // Without a bound there is no line; a share of a thousand forecasts comes later.
        let may_be_empty = expression.contains("concurrency") || expression.contains(">= 1000");
        assert!(may_be_empty || !result.is_empty(), "{title}: {expression}");
    }

    let rules = ask(&prometheus, "/api/v1/rules").await;
    let mut checked = 0;
    for rule in rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
    {
        assert_eq!(rule["health"], "ok", "{rule}");
        checked += 1;
    }
    assert!(checked >= 10, "{rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_sends_requests_to_who_is_ready() {
    let Some(haproxy) = tool("haproxy") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (_example, server) = start_example();
    let front = format!("127.0.0.1:{}", free_port());
    let socket = folder.path().join("stats");
    let config = format!(
        "global\n  stats socket {socket}\ndefaults\n  mode http\n  timeout connect 5s\n  \
         timeout client 30s\n  timeout server 30s\nfrontend front\n  bind {front}\n  \
         default_backend sandbox\nbackend sandbox\n  option httpchk GET /ready\n  \
         server one {server} check inter 200ms\n",
        socket = socket.display()
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(&file);
    let _haproxy = Started::new(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let states = || {
        let mut stats = UnixStream::connect(&socket).ok()?;
        stats.write_all(b"show stat\n").ok()?;
        let mut table = String::new();
        stats.read_to_string(&mut table).ok()?;
        let row = table.lines().find(|row| row.starts_with("sandbox,one,"))?;
        Some(row.to_owned())
    };
    support::eventually("checked and up", || {
        states().is_some_and(|row| row.contains(",UP,") && row.contains("L7OK"))
    })
    .await;
    let uri = format!("http://{front}/execute");
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(r#"{"code": "6 * 7"}"#)))
        .unwrap();
    let response = client().request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"{"result":42}"#);
}
