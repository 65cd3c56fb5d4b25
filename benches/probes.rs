//! How long health probes take beside a thousand waiters at critical pressure, through
//! real servers: critical work passes them all.
//!
//! `cargo bench --bench probes`

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower_memory_guard::{
    BoxError, Class, Cost, Guard, ManualSource, MemoryGuardLayer, Pressure, Priority,
};

const LIMIT_BYTES: u64 = 1 << 30;
const WAITERS: usize = 1024;
const PROBES: usize = 2_000;

fn critical<B>(_: &Request<B>) -> Class {
    Class::new("health").priority(Priority::Critical)
}

/// A thousand wait for memory, and then it is critically full.
async fn besiege(guard: &Guard, memory: &ManualSource) -> Result<(), BoxError> {
    let held = guard.try_acquire(Cost::Bytes(LIMIT_BYTES / 10 * 9))?;
    tokio::spawn(async move {
        let _held = held;
        std::future::pending::<Infallible>().await
    });
    for _ in 0..WAITERS {
        let guard = guard.clone();
        tokio::spawn(async move { guard.acquire(Cost::Bytes(LIMIT_BYTES / 5)).await.is_ok() });
    }
    while guard.stats().waiting_requests < WAITERS as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    memory.set_usage_bytes(LIMIT_BYTES / 100 * 99);
    guard.sample_now();
    assert_eq!(guard.pressure(), Pressure::Critical);
    Ok(())
}

fn print(name: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (median, p99, most) = (at(0.5), at(0.99), at(1.0));
    println!("{name}: median {median:.2} ms, 99th percentile {p99:.2} ms, most {most:.2} ms");
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let memory = ManualSource::new(LIMIT_BYTES);
    let layer = MemoryGuardLayer::builder()
        .memory_source(memory.clone())
        .wait_timeout(Duration::from_secs(600))
        .build()?;
    let guard = layer.guard().clone();

    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let health_page = format!("http://{}/healthz", http.local_addr()?).parse::<http::Uri>()?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .layer(layer.clone().classify(critical::<Body>));
    tokio::spawn(async move { axum::serve(http, app).await });

    let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", grpc.local_addr()?))?;
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(layer.classify(critical::<tonic::body::Body>))
        .add_service(health);
    let connections = TcpListenerStream::new(grpc).map(|connection| {
        let connection = connection?;
        connection.set_nodelay(true)?;
        Ok::<_, std::io::Error>(connection)
    });
    tokio::spawn(server.serve_with_incoming(connections));

    besiege(&guard, &memory).await?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let mut took = Vec::new();
    for _ in 0..PROBES {
        let started = Instant::now();
        let answer = client.get(health_page.clone()).await?;
        assert!(answer.status().is_success());
        answer.into_body().collect().await?;
        took.push(started.elapsed());
    }
    print("/healthz", took);

    let mut client = HealthClient::new(endpoint.connect().await?);
    let mut took = Vec::new();
    for _ in 0..PROBES {
        let check = HealthCheckRequest {
            service: String::new(),
        };
        let started = Instant::now();
        client.check(check).await?;
        took.push(started.elapsed());
    }
    print("grpc.health", took);
    assert_eq!(guard.stats().waiting_requests, WAITERS as u64);
    Ok(())
}
