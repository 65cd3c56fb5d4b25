//! What every user has, whatever features they chose: without any, with the default ones,
//! and with accounting around each allocator.
#![cfg(test)]

#[cfg(feature = "account")]
mod account;
#[cfg(feature = "defaults")]
mod defaults;
#[cfg(feature = "jemalloc")]
mod jemalloc;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{BoxError, Guard, ManualSource, MemoryGuardLayer, Reason, Rejected};

#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
use mimalloc::MiMalloc as Allocator;
#[cfg(not(any(feature = "jemalloc", feature = "mimalloc")))]
use std::alloc::System as Allocator;
#[cfg(feature = "jemalloc")]
use tikv_jemallocator::Jemalloc as Allocator;
#[cfg(feature = "account")]
use tower_memory_guard::account::TrackingAllocator;

#[cfg(feature = "account")]
#[global_allocator]
static ALLOCATOR: TrackingAllocator<Allocator> = TrackingAllocator::new(Allocator);
#[cfg(not(feature = "account"))]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 1000 * MIB;

/// A guard that admits one request at a time, and has others wait for 20 ms.
fn one_at_a_time() -> (MemoryGuardLayer, ManualSource) {
    // Counters of guards of one name add up.
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let memory = ManualSource::new(LIMIT);
    let layer = MemoryGuardLayer::builder()
        .memory_source(memory.clone())
        .name(format!("guard {}", MADE.fetch_add(1, Ordering::Relaxed)))
        .max_concurrent(1)
        .estimated_bytes_per_request(MIB)
        .wait_timeout(Duration::from_millis(20));
    (layer.build().unwrap(), memory)
}

fn fill(guard: &Guard, memory: &ManualSource, percent: u64) {
    memory.set_usage_bytes(LIMIT * percent / 100);
    guard.sample_now();
}

fn assert_empty(guard: &Guard) {
    let stats = guard.stats();
    let left = (stats.active_tasks, stats.reserved_mib);
    assert_eq!(left, (0, 0.0), "{stats:?}");
}

/// What a request is answered through the layer.
async fn answer(layer: &MemoryGuardLayer) -> (StatusCode, String) {
    let inner = async |_: Request<()>| Ok::<_, Infallible>(Response::new("done".to_owned()));
    let service = layer.layer(service_fn(inner));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_permit_is_had_waited_for_and_refused() {
    let (layer, memory) = one_at_a_time();
    let guard = layer.guard();
    let permit = guard.try_acquire(3 * MIB).unwrap();
    assert_eq!(permit.bytes(), 3 * MIB);
    let waited = guard.acquire(MIB).await.unwrap_err();
    assert_eq!(waited.reason(), Reason::WaitTimeout);
    drop(permit);
    fill(guard, &memory, 99);
    let refused = guard.try_acquire(MIB).unwrap_err();
    assert_eq!(refused.reason(), Reason::CriticalPressure);
    fill(guard, &memory, 10);
    drop(guard.acquire(MIB).await.unwrap());
    guard.sample_now();
    assert_empty(guard);
}

#[tokio::test]
async fn the_response_flavour_admits_has_wait_and_rejects() {
    let (layer, memory) = one_at_a_time();
    let guard = layer.guard().clone();
    assert_eq!(answer(&layer).await, (StatusCode::OK, "done".to_owned()));
    let rejected = async |reason| {
        let (status, body) = answer(&layer).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(reason), "{body}");
    };
    let permit = guard.try_acquire(MIB).unwrap();
    rejected(r#""reason":"wait_timeout""#).await;
    drop(permit);
    fill(&guard, &memory, 99);
    rejected(r#""reason":"critical_pressure""#).await;
    assert_empty(&guard);
}

/// Whether it is touched or not: its allocator tells, or accounts do.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[cfg(any(feature = "account", feature = "jemalloc", not(feature = "mimalloc")))]
#[tokio::test]
async fn what_a_poll_allocates_is_known() {
    use tower_memory_guard::Permit;

    let (layer, _memory) = one_at_a_time();
    let guard = layer.guard();
    let inner = async |request: Request<()>| {
        // From here on the brake is on: it is not known what polls add.
        guard.sample_now();
        tokio::task::yield_now().await;
        let held = std::hint::black_box(Vec::<u8>::with_capacity(32 * MIB as usize));
        tokio::task::yield_now().await;
        drop(held);
        let permit = request.extensions().get::<Permit>();
        let peak_bytes = permit.map_or(0, Permit::peak_bytes);
        Ok::<_, Infallible>(Response::new(peak_bytes.to_string()))
    };
    let service = layer.layer(service_fn(inner));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let peak_bytes: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
    assert!(peak_bytes >= 30 * MIB, "{peak_bytes}");
}

#[tokio::test]
async fn the_error_flavour_fails_with_the_reason() {
    let (layer, memory) = one_at_a_time();
    let guard = layer.guard().clone();
    let layer = layer.into_error_layer();
    let double = || layer.layer(service_fn(async |n: u32| Ok::<_, Infallible>(2 * n)));
    assert_eq!(double().oneshot(2).await.unwrap(), 4);
    fill(&guard, &memory, 99);
    let error: BoxError = double().oneshot(2).await.unwrap_err();
    let rejected = error.downcast_ref::<Rejected>().expect("a rejection");
    assert_eq!(rejected.reason(), Reason::CriticalPressure);
    assert_empty(&guard);
}
