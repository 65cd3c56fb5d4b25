//! Guards that nobody has any more, and those that come after them.

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use support::{LIMIT, MIB, fill, with};
use tower_memory_guard::{Class, Cost, ManualSource, MemoryGuardLayer, Pressure, Priority};

fn made(count: usize) -> Vec<(MemoryGuardLayer, ManualSource)> {
    (0..count).map(|_| with(|builder| builder)).collect()
}

#[test]
fn a_permit_keeps_its_guard() {
    let (layer, _) = with(|builder| builder);
    let permit = layer.guard().try_acquire(Cost::Bytes(MIB)).unwrap();
    drop(layer);
    let others = made(100);
    let in_flight = || {
        let stats = others.iter().map(|(layer, _)| layer.guard().stats());
        stats.map(|stats| stats.active_tasks).sum::<u64>()
    };
    assert_eq!((permit.bytes(), in_flight()), (MIB, 0));
    let clone = permit.clone();
    drop(permit);
    drop(clone);
    assert_eq!(in_flight(), 0);
}

#[test]
fn a_receiver_keeps_its_guard() {
    let (layer, _memory) = with(|builder| builder);
    let limit = layer.guard().subscribe_limit();
    let level = layer.guard().subscribe();
    drop(layer);
    for (layer, memory) in made(100) {
        memory.set_limit_bytes(2 * LIMIT);
        layer.guard().sample_now();
        fill(layer.guard(), &memory, 200);
    }
    assert_eq!(*limit.borrow(), Some(LIMIT));
    assert_eq!(*level.borrow(), Pressure::Normal);
    assert!(limit.has_changed().is_ok());
}

#[test]
fn what_hooks_hold_is_dropped_when_another_guard_begins() {
    let held = Arc::new(());
    let (layer, _) = with(|builder| builder);
    let kept = Arc::clone(&held);
    layer
        .guard()
        .on_pressure(Pressure::Warning, move |_| drop(Arc::clone(&kept)));
    assert_eq!(Arc::strong_count(&held), 2);
    drop(layer);
    // Until it was looked at, after those of other tests.
    (0..1000).for_each(|_| drop(made(1)));
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn the_next_guard_is_as_new() {
    let new = |layer: &MemoryGuardLayer| (layer.guard().stats(), layer.guard().estimates());
    let (layer, memory) = with(|builder| builder.max_concurrent(2));
    let first = new(&layer);
    drop((layer, memory));
    for round in 0..100 {
        let (layer, memory) = with(|builder| builder.max_concurrent(2));
        assert_eq!(new(&layer), first, "{round}");
        let guard = layer.guard();
        let class = Class::new("report")
            .priority(Priority::Critical)
            .tenant("acme");
        let permits = [
            guard.acquire_for(&class).await.unwrap(),
            guard.try_acquire(MIB).unwrap(),
        ];
        fill(guard, &memory, 60);
        let waits = tokio::spawn({
            let guard = guard.clone();
            async move { guard.acquire(MIB).await.map(drop) }
        });
        support::eventually("it waits", || guard.stats().waiting_requests == 1).await;
        assert!(guard.try_acquire(2 * LIMIT).is_err());
        fill(guard, &memory, 10);
        drop(permits);
        guard.sample_now();
        waits.await.unwrap().unwrap();
        match round % 2 {
            0 => guard.close(),
            _ => fill(guard, &memory, 100),
        }
    }
}
