//! Nothing installed, and an allocator that nobody can ask.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::hint::black_box;

use mimalloc::MiMalloc;
use support::{MIB, assert_empty, fill, with};
use tokio::sync::{Mutex, oneshot};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory_guard::account;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Each poll adds a part. None is given back: the next would live in it, unseen.
async fn grow(_: http::Request<String>) -> Result<http::Response<String>, Infallible> {
    for _ in 0..4 {
        black_box(vec![1_u8; MIB as usize].leak());
        tokio::task::yield_now().await;
    }
    Ok(http::Response::new(String::new()))
}

/// What polls add is known for the process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn what_a_request_adds_is_seen_whatever_the_allocator() {
    let _alone = ALONE.lock().await;
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB / 16));
    let guard = layer.guard();
    let mut service = layer.layer(service_fn(grow));
    fill(guard, &memory, 80);
    // From here on the brake is on.
    let beside = guard.acquire(MIB).await.unwrap();
    for _ in 0..12 {
        fill(guard, &memory, 80);
        let ready = service.ready().await.unwrap();
        let response = ready.call(http::Request::new(String::new())).await;
        assert!(response.unwrap().status().is_success());
    }
    drop(beside);
    assert_empty(guard);
    let estimate = guard.stats().estimated_mem_per_req_mib;
    // A request holds 4.
    assert!((2.0..9.0).contains(&estimate), "{estimate}");
}

#[tokio::test]
async fn what_polls_add_is_not_of_a_closure_that_runs_meanwhile() {
    let _alone = ALONE.lock().await;
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB / 16));
    let guard = layer.guard();
    let mut service = layer.layer(service_fn(grow));
    fill(guard, &memory, 80);
    let closures = guard.acquire(MIB).await.unwrap();
    fill(guard, &memory, 80);
    let (begins, begun) = oneshot::channel();
    let (end, ends) = oneshot::channel::<()>();
    let closure = tokio::spawn(closures.clone().follow(async {
        let waits = move || {
            begins.send(()).unwrap();
            ends.blocking_recv().unwrap();
        };
        account::spawn_blocking(waits).await.unwrap();
    }));
    begun.await.unwrap();
    let response = (service.ready().await.unwrap()).call(http::Request::new(String::new()));
    assert!(response.await.unwrap().status().is_success());
    end.send(()).unwrap();
    closure.await.unwrap();
    let peak = closures.peak_bytes();
    assert!(peak < MIB, "{peak}");
    drop((closures, service));
    assert_empty(guard);
}

/// As much as it holds is mapped.
#[cfg(target_os = "linux")]
fn map() -> memmap2::MmapMut {
    let mut map = memmap2::MmapMut::map_anon((32 * MIB) as usize).unwrap();
    map.chunks_mut(4096).for_each(|page| page[0] = 1);
    map
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_says_what_it_maps_does_not_hold_it_twice() {
    let _alone = ALONE.lock().await;
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard();
    let held = |bytes: u64| (28 * MIB..40 * MIB).contains(&bytes);

    fill(guard, &memory, 80);
    let permit = guard.acquire(MIB).await.unwrap();
    fill(guard, &memory, 80);
    let said = permit.clone();
    let polled = permit.clone().follow(async move {
        let map = map();
        said.report(32 * MIB);
        map
    });
    let map_of_a_poll = polled.await;
    assert!(held(permit.peak_bytes()), "{}", permit.peak_bytes());

    let other = guard.acquire(MIB).await.unwrap();
    let said = other.clone();
    let between_checkpoints = tokio::task::spawn_blocking(move || {
        said.checkpoint().unwrap();
        let map = map();
        said.report(32 * MIB);
        said.checkpoint().unwrap();
        map
    });
    let map_of_a_part = between_checkpoints.await.unwrap();
    assert!(held(other.peak_bytes()), "{}", other.peak_bytes());
    drop((map_of_a_poll, map_of_a_part, permit, other));
    assert_empty(guard);
}
