//! What is mapped past the allocator is held back as well. In a program of its own, since
//! it is known for the process.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "../support/mod.rs"]
mod support;

use memmap2::MmapMut;
use support::{LIMIT, MIB, assert_empty, fill, poll_once, with};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{Cost, Permit};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// Maps as many MiB as it is told, and gives all of it back at its end. (The kernel counts
/// a little late.)
async fn maps(mut told: UnboundedReceiver<u64>) {
    let mut held = Vec::new();
    while let Some(mib) = told.recv().await {
        let mut map = MmapMut::map_anon((mib * MIB) as usize).unwrap();
        map.chunks_mut(4096).for_each(|page| page[0] = 1);
        held.push(map);
    }
}

#[tokio::test]
async fn who_maps_past_the_allocator_is_paused_where_the_next_map_has_no_room() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let begin = || async {
        let permit: Permit = guard.acquire(Cost::Estimated).await.unwrap();
        let (tell, told) = unbounded_channel();
        (permit.clone(), tell, Box::pin(permit.follow(maps(told))))
    };
    let (first, tell_first, mut first_work) = begin().await;
    let (second, tell_second, mut second_work) = begin().await;
    // Above an eighth of the limit it is seen.
    for mib in [LIMIT / MIB / 8 + 16, 20, 20, 20] {
        tell_first.send(mib).unwrap();
        assert!(poll_once(first_work.as_mut()).is_pending());
        fill(&guard, &memory, 50);
    }
    let peak = first.peak_bytes();
    assert!((55 * MIB..70 * MIB).contains(&peak), "{peak}");

    fill(&guard, &memory, 96);
    tell_second.send(20).unwrap();
    assert!(poll_once(second_work.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 1);
    assert!(second.peak_bytes() < MIB);

    fill(&guard, &memory, 50);
    assert!(poll_once(second_work.as_mut()).is_pending());
    let peak = second.peak_bytes();
    assert!((15 * MIB..25 * MIB).contains(&peak), "{peak}");

    // Who says what it maps does not hold it twice.
    second.report(40 * MIB);
    tell_second.send(20).unwrap();
    assert!(poll_once(second_work.as_mut()).is_pending());
    assert!(second.peak_bytes() < 70 * MIB);

    drop((tell_first, tell_second, first, second));
    assert!(poll_once(first_work.as_mut()).is_ready());
    assert!(poll_once(second_work.as_mut()).is_ready());
    drop((first_work, second_work));
    assert_empty(&guard);
}
