//! What guards take.

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

use tower_memory_guard::Cost;

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

#[test]
fn a_guard_takes_a_few_kib() {
    const GUARDS: usize = 1000;
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
