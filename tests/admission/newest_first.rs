//! Where the oldest has waited for long, the newest goes first.

use std::pin::pin;
use std::time::{Duration, Instant};

use tower_memory_guard::{Class, Tier};

use crate::support::{MIB, counting, eventually, fill, poll_once, with};

#[tokio::test]
async fn the_newest_that_cannot_be_admitted_holds_nobody_while_nothing_runs() {
    let (layer, memory) = with(|builder| {
        builder
            .wait_timeout(Duration::from_secs(60))
            .newest_first_after(Duration::from_millis(100))
    });
    let guard = layer.guard().clone();
    fill(&guard, &memory, 50);
    let held = guard.try_acquire(300 * MIB).unwrap();
    let wait = |mib| {
        let guard = guard.clone();
        tokio::spawn(async move { guard.acquire(mib * MIB).await })
    };
    let mut small = Vec::new();
    for mib in [250, 200] {
        small.push(wait(mib));
        let joined = || guard.stats().waiting_requests == small.len() as u64;
        eventually("it waits", joined).await;
    }
    let large = wait(900);
    eventually("all wait", || guard.stats().waiting_requests == 3).await;
    // The oldest has waited for so long that the newest goes first, and it does not fit.
    tokio::time::sleep(Duration::from_millis(200)).await;
    guard.sample_now();
    drop(held);
    guard.sample_now();
    eventually("another is tried", || guard.stats().active_tasks > 0).await;
    let newest_of_those = small.pop().unwrap().await.unwrap().unwrap();
    assert_eq!(newest_of_those.bytes(), 200 * MIB);
    drop(newest_of_those);
    guard.sample_now();
    drop(small.pop().unwrap().await.unwrap().unwrap());
    assert!(!large.is_finished());
    large.abort();
}

#[tokio::test]
async fn the_newest_of_a_tenant_is_looked_at_when_it_comes_and_when_the_one_after_it_leaves() {
    let after = Duration::from_millis(100);
    let (layer, memory) = with(|builder| {
        let builder = builder.newest_first_after(after);
        builder.tier(Tier::new("a third").max_share(0.3))
    });
    let guard = layer.guard();
    fill(guard, &memory, 0);
    let of = |mib| {
        let class = Class::new("work").tenant("one").tier("a third");
        class.cost(mib * MIB)
    };
    let _held = guard.acquire_for(&of(200)).await.unwrap();
    let ends = guard.acquire_for(&of(100)).await.unwrap();
    let [large, small, smallest] = [of(200), of(80), of(20)];
    let mut oldest = pin!(guard.acquire_for(&large));
    let mut second = pin!(guard.acquire_for(&small));
    assert!(poll_once(oldest.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    tokio::time::sleep(after * 2).await;
    guard.sample_now();
    {
        let mut newest = pin!(guard.acquire_for(&large));
        assert!(poll_once(newest.as_mut()).is_pending());
        drop(ends);
        assert!(poll_once(newest).is_pending(), "beyond its share");
        assert!(poll_once(second.as_mut()).is_pending(), "behind it");
    }
    assert!(poll_once(second).is_ready(), "next once that has left");
    let newest = pin!(guard.acquire_for(&smallest));
    assert!(poll_once(newest).is_ready(), "next as it comes");
    assert!(poll_once(oldest).is_pending());
}

#[tokio::test]
async fn a_wait_begins_when_somebody_comes_not_with_the_sample_before() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard();
    let _held = guard.acquire(1024).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let came = Instant::now();
    let mut waits = pin!(guard.acquire(1024));
    assert!(poll_once(waits.as_mut()).is_pending());
    guard.sample_now();
    let stated_ms = guard.stats().oldest_waiter_ms;
    let most_ms = (came.elapsed().as_millis() + 1) as f64;
    assert!(stated_ms <= most_ms, "{stated_ms} of {most_ms}");
}
