//! What guards take that are, and that were.

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory_guard::{Cost, MemoryGuardLayer};

struct Counting;

static ALLOCATED_BYTES: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

#[allow(unsafe_code)]
// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// By the whole process.
fn allocated_kib() -> f64 {
    ALLOCATED_BYTES.load(Ordering::Relaxed) as f64 / 1024.0
}

/// What one test allocates is nothing to the other.
static ALONE: Mutex<()> = Mutex::new(());

async fn serve(layer: &MemoryGuardLayer) {
    let answer = |_: Request<()>| async {
        let body = Full::new(Bytes::from_static(b"done"));
        Ok::<_, Infallible>(Response::new(body))
    };
    let mut service = layer.layer(service_fn(answer));
    let service = service.ready().await.unwrap();
    let response = service.call(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

#[test]
fn a_guard_takes_a_few_kib() {
    const GUARDS: usize = 1000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || support::with(|builder| builder);
    drop(made());
    let before = allocated_kib();
    let guards: Vec<_> = (0..GUARDS).map(|_| made()).collect();
    let idle_kib = (allocated_kib() - before) / GUARDS as f64;
    for (layer, _) in &guards {
        layer.guard().try_acquire(Cost::Bytes(1 << 20)).unwrap();
    }
    let each_kib = (allocated_kib() - before) / GUARDS as f64;
    println!("{idle_kib:.1} KiB for each guard, {each_kib:.1} once it has served");
    assert!(each_kib < 8.0, "{each_kib} KiB");
}

#[test]
fn guards_that_are_gone_take_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let of_the_system = || MemoryGuardLayer::builder().build().unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(serve(&of_the_system()));
    let before = allocated_kib();
    for _ in 0..10_000 {
        runtime.block_on(serve(&support::with(|builder| builder).0));
    }
    let manual_kib = allocated_kib() - before;
    for _ in 0..1000 {
        runtime.block_on(serve(&of_the_system()));
    }
    let all_kib = allocated_kib() - before;
    println!("{manual_kib:.1} KiB for 10,000, {all_kib:.1} KiB with 1,000 more");
    assert!(all_kib < 1024.0, "{all_kib} KiB");
}
