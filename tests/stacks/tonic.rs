//! Through a real tonic server and client.

use std::time::Duration;

use crate::support::{assert_empty, eventually, fill, listen, with};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower_memory_guard::{Guard, ManualSource};

async fn guarded_health() -> (HealthClient<Channel>, Guard, ManualSource) {
    let (layer, memory) = with(|builder| {
        builder
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_millis(200))
    });
    let guard = layer.guard().clone();
    let (listener, address) = listen().await;
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (
        HealthClient::new(endpoint.connect().await.unwrap()),
        guard,
        memory,
    )
}

fn check() -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest {
        service: String::new(),
    })
}

#[tokio::test]
async fn a_call_is_admitted_and_frees_its_permit() {
    let (mut client, guard, _) = guarded_health().await;
    let answer = client.check(check()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    eventually("the permit is back", || {
        guard.stats().completed_requests == 1
    })
    .await;
    assert_empty(&guard);
}

#[tokio::test]
async fn critical_pressure_is_resource_exhausted_with_a_pushback() {
    let (mut client, guard, memory) = guarded_health().await;
    fill(&guard, &memory, 90);
    let status = client.check(check()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("90.0 % of its limit"),
        "{}",
        status.message()
    );
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .unwrap()
        .to_str()
        .unwrap();
    assert!(pushback.parse::<u64>().unwrap() >= 1000);
}

#[tokio::test]
async fn a_call_waits_times_out_and_is_admitted_later() {
    let (mut client, guard, _) = guarded_health().await;
    let permit = guard.try_acquire(1024).unwrap();
    let status = client.check(check()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("before the deadline"),
        "{}",
        status.message()
    );
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.check(check()).await });
    eventually("it waits", || guard.stats().waiting_requests == 1).await;
    drop(permit);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_holds_its_permit_until_its_client_leaves() {
    let (mut client, guard, _) = guarded_health().await;
    let mut stream = client.watch(check()).await.unwrap().into_inner();
    assert_eq!(
        stream.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    assert_eq!(guard.stats().active_tasks, 1);
    drop(stream);
    eventually("the permit is back", || guard.stats().active_tasks == 0).await;
}

#[tokio::test]
async fn a_deadline_of_the_caller_ends_the_wait() {
    let (mut client, guard, _) = guarded_health().await;
    let _permit = guard.try_acquire(1024).unwrap();
    let mut request = check();
    request.set_timeout(Duration::from_millis(50));
    let status = client.check(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{status}"
    );
    eventually("it left the queue", || guard.stats().waiting_requests == 0).await;
}
