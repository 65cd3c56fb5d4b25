//! What jemalloc tells and gives back.

#[cfg(target_os = "linux")]
#[path = "../support/resident.rs"]
mod resident;

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{ManualSource, MemoryGuardLayer};

use crate::{LIMIT, MIB, fill};

/// Adds 4 MiB itself, while another thread adds 32.
async fn grow(_: Request<String>) -> Result<Response<String>, Infallible> {
    let mut held = Vec::new();
    for _ in 0..4 {
        let beside = std::thread::spawn(|| vec![1_u8; 8 * MIB as usize]);
        held.push((vec![1_u8; MIB as usize], beside.join().unwrap()));
        tokio::task::yield_now().await;
    }
    std::hint::black_box(held);
    Ok(Response::new(String::new()))
}

/// By jemalloc's counters of the thread that polls, where nothing is accounted.
#[tokio::test]
async fn a_request_is_known_by_what_its_own_thread_allocates() {
    let memory = ManualSource::new(LIMIT);
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    let layer = builder
        .estimated_bytes_per_request(MIB / 16)
        .build()
        .unwrap();
    let guard = layer.guard();
    fill(guard, &memory, 80);
    // From here on the brake is on, and polls are measured.
    let beside = guard.acquire(MIB).await.unwrap();
    for _ in 0..12 {
        fill(guard, &memory, 80);
        let service = layer.layer(service_fn(grow));
        service.oneshot(Request::new(String::new())).await.unwrap();
    }
    drop(beside);
    guard.sample_now();
    let estimate = guard.stats().estimated_mem_per_req_mib;
    assert!((3.0..9.0).contains(&estimate), "{estimate}");
}

/// What the allocator keeps of 256 MiB that were freed is really given back.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_jemalloc_keeps_is_purged_when_memory_is_short() {
    let memory = ManualSource::new(LIMIT);
    let layer = MemoryGuardLayer::builder()
        .memory_source(memory.clone())
        .build()
        .unwrap();
    let blocks: Vec<Vec<u8>> = (0..8192).map(|_| vec![1; 32 << 10]).collect();
    fill(layer.guard(), &memory, 70);
    drop(blocks);
    let before = resident::resident_mib();
    for _ in 0..2_000 {
        fill(layer.guard(), &memory, 99);
        if layer.guard().stats().releases > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(layer.guard().stats().releases > 0);
    let after = resident::resident_mib();
    assert!(
        before > 100 && after + 100 < before,
        "{before} → {after} MiB"
    );
}
