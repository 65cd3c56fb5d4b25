//! Tenants come and go.

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;

use support::{poll_once, with};
use tower_memory_guard::{Class, Guard, MemoryGuardLayer, Permit, Tier};

struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[allow(unsafe_code)]
// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| live.set(live.get() + layout.size() as i64));
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get() - layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// KiB that this thread has allocated and not freed.
fn live_kib() -> i64 {
    LIVE.with(Cell::get) / 1024
}

/// A guard whose tenants may each have one request in flight.
fn one_each() -> MemoryGuardLayer {
    let (layer, _) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(1024);
        builder.tier(Tier::new("narrow").max_in_flight(1))
    });
    layer
}

fn of(tenant: &str) -> Class {
    Class::new("work").tenant(tenant.to_owned()).tier("narrow")
}

/// What is admitted at once; `None`: it would have to wait.
fn admitted(guard: &Guard, tenant: &str) -> Option<Permit> {
    let class = of(tenant);
    let admission = pin!(guard.acquire_for(&class));
    match poll_once(admission) {
        std::task::Poll::Ready(permit) => Some(permit.unwrap()),
        std::task::Poll::Pending => None,
    }
}

/// So many tenants come, one after the other, and go.
fn come_and_go(guard: &Guard, tenants: std::ops::Range<u32>) {
    for number in tenants {
        let permit = admitted(guard, &format!("passing-{number}"));
        assert!(permit.is_some(), "{number}");
    }
}

#[tokio::test]
async fn a_tenant_that_comes_late_has_a_quota_of_its_own() {
    let layer = one_each();
    let guard = layer.guard();
    come_and_go(guard, 0..3000);
    let held: Vec<_> = (0..500)
        .map(|number| admitted(guard, &format!("late-{number}")))
        .collect();
    assert!(held.iter().all(Option::is_some));
    for number in 0..500 {
        let again = admitted(guard, &format!("late-{number}"));
        assert!(again.is_none(), "{number} has its one");
    }
}

#[tokio::test]
async fn who_holds_something_or_waits_stays_while_others_come_and_go() {
    let layer = one_each();
    let guard = layer.guard();
    let held = admitted(guard, "holder").unwrap();
    let class = of("holder");
    let mut waits = pin!(guard.acquire_for(&class));
    assert!(poll_once(waits.as_mut()).is_pending());
    come_and_go(guard, 0..3000);
    assert!(admitted(guard, "holder").is_none());
    drop(held);
    let std::task::Poll::Ready(Ok(granted)) = poll_once(waits) else {
        panic!("its turn has come");
    };
    come_and_go(guard, 3000..6000);
    assert!(admitted(guard, "holder").is_none());
    drop(granted);
    support::assert_empty(guard);
}

#[tokio::test]
async fn where_all_are_busy_those_that_come_share_what_one_may_have() {
    let layer = one_each();
    let guard = layer.guard();
    let mut held: Vec<_> = (0..1022)
        .map(|number| admitted(guard, &format!("busy-{number}")).unwrap())
        .collect();
    let one = admitted(guard, "one").unwrap();
    assert!(admitted(guard, "another").is_none());
    // One goes: its place is the next one's.
    held.swap_remove(400);
    assert!(admitted(guard, "another").is_some());
    drop(one);
}

#[tokio::test]
async fn a_guard_without_tenants_pays_nothing_for_them() {
    let _first = one_each();
    let before = live_kib();
    let layer = one_each();
    let without = live_kib() - before;
    drop(admitted(layer.guard(), "first"));
    let with = live_kib() - before;
    println!("a guard: {without} KiB, with a tenant: {with} KiB");
    assert!(without < 64, "{without} KiB");
    assert!(with - without > 64, "{with} KiB");
}

#[tokio::test]
async fn a_tenant_that_is_known_costs_no_allocation() {
    let layer = one_each();
    let guard = layer.guard();
    come_and_go(guard, 0..2000);
    let class = of("passing-1999");
    let run = || drop(poll_once(pin!(guard.acquire_for(&class))));
    run();
    let before = CALLS.with(Cell::get);
    run();
    assert_eq!(CALLS.with(Cell::get) - before, 0);
}
