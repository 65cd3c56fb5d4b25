//! The predictive policy with accounting: what is learned, and how soon.

#[path = "../support/mod.rs"]
mod support;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{MIB, assert_empty, with};
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{
    Class, Cost, Guard, ManualSource, MemoryGuardLayer, Policy, Pressure, Priority, Reason,
};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

const STREAM: u64 = 64 << 10;

/// A guard with nothing configured over so much memory.
fn unconfigured(limit: u64) -> (Guard, ManualSource) {
    let memory = ManualSource::new(limit);
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    (builder.build().unwrap().guard().clone(), memory)
}

/// Streams that hold 64 KiB each and say nothing, tried again when rejected.
fn open_streams(guard: &Guard, count: usize) {
    for _ in 0..count {
        let guard = guard.clone();
        tokio::spawn(async move {
            let permit = loop {
                match guard.acquire(Cost::Estimated).await {
                    Ok(permit) => break permit,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            };
            let quiet = async {
                let _held = vec![1_u8; STREAM as usize];
                pending::<()>().await;
            };
            permit.follow(quiet).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_idle_streams_fit() {
    let (guard, memory) = unconfigured(512 * MIB);
    open_streams(&guard, 500);
    let second = || async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            memory.set_usage_bytes(20 * MIB + guard.stats().active_tasks * STREAM);
            guard.sample_now();
        }
    };
    let mut seconds = 0;
    while guard.stats().active_tasks < 500 {
        second().await;
        seconds += 1;
        assert!(seconds < 60, "{:?}", guard.stats());
    }
    // Once they have stayed as they are, they leave room for as many again.
    for _ in 0..10 {
        second().await;
    }
    assert!(guard.stats().outstanding_mib < 100.0, "{:?}", guard.stats());
}

#[tokio::test(start_paused = true)]
async fn flat_usage_lets_a_probe_in_beside_idle_streams() {
    for policy in [Policy::Ladder, Policy::Predictive] {
        let (layer, memory) = with(|builder| {
            builder
                .policy(policy)
                .max_concurrent(100)
                .thresholds(0.70, 0.80, 0.85)
        });
        let guard = layer.guard().clone();
        open_streams(&guard, 50);
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            guard.sample_now();
        }
        assert_eq!(guard.stats().active_tasks, 50, "{policy:?}");
        memory.set_usage_bytes(880 * MIB);
        guard.sample_now();
        assert_eq!(guard.pressure(), Pressure::Critical);
        let mut waited = 0;
        let probe = loop {
            match guard.try_acquire(Cost::Estimated) {
                Ok(permit) => break permit,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            waited += 1;
            assert!(waited <= 100, "{policy:?}: {:?}", guard.stats());
            guard.sample_now();
        };
        drop(probe);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guess_above_the_limit_is_no_reason_to_reject() {
    // 200 MiB are expected, 128 are there.
    let (guard, _memory) = unconfigured(128 * MIB);
    for _ in 0..3 {
        let permit = guard.acquire(Cost::Estimated).await.unwrap();
        drop(permit);
        guard.sample_now();
    }
    let declared = guard.acquire(200 * MIB).await.unwrap_err();
    assert_eq!(declared.reason(), Reason::NeverFits);
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_warms_is_not_blamed_on_requests() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(10 * MIB));
    let guard = layer.guard().clone();
    memory.set_usage_bytes(20 * MIB);
    guard.sample_now();
    let held = Arc::new(AtomicU64::new(0));
    let mut cache = Vec::new();
    let mut estimates = Vec::new();
    for second in 0..900_u64 {
        let permit = guard.acquire(Cost::Estimated).await.unwrap();
        let work = async {
            let block = vec![1_u8; 10 * MIB as usize];
            held.store(10 * MIB, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(block);
            held.store(0, Ordering::Relaxed);
            // Five minutes alone, then ten in which the cache grows by 300 MiB.
            (second >= 300).then(|| vec![1_u8; MIB as usize / 2])
        };
        let sampling = async {
            for _ in 0..9 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                let cached = second.saturating_sub(300) * MIB / 2;
                memory.set_usage_bytes(20 * MIB + cached + held.load(Ordering::Relaxed));
                guard.sample_now();
            }
        };
        let (entry, ()) = tokio::join!(permit.follow(work), sampling);
        cache.extend(entry);
        tokio::time::sleep(Duration::from_millis(460)).await;
        guard.sample_now();
        estimates.push(guard.stats().estimated_mem_per_req_mib);
    }
    let (before, after) = (estimates[299], estimates[899]);
    assert_eq!(cache.len(), 600);
    assert!((after / before - 1.0).abs() < 0.1, "{before} → {after}");
}

#[tokio::test(start_paused = true)]
async fn memory_beside_the_allocator_is_seen_in_the_usage() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(50 * MIB));
    let guard = layer.guard().clone();
    memory.set_usage_bytes(20 * MIB);
    guard.sample_now();
    // Each maps 150 MiB that no account shows.
    for _ in 0..12 {
        let permit = guard.acquire(Cost::Estimated).await.unwrap();
        let work = async {
            let _small = vec![1_u8; 100 << 10];
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let sampling = async {
            for step in 1..=9 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                memory.set_usage_bytes(20 * MIB + (step * 30 * MIB).min(150 * MIB));
                guard.sample_now();
            }
        };
        tokio::join!(permit.follow(work), sampling);
        memory.set_usage_bytes(20 * MIB);
        guard.sample_now();
    }
    let estimate = guard.stats().estimated_mem_per_req_mib;
    assert!((150.0..400.0).contains(&estimate), "{estimate}");
}

/// What a request of a class and a priority reserves.
async fn reserved_mib(guard: &Guard, class: &Class, priority: Priority) -> u64 {
    let permit = guard.acquire_for(&class.clone().priority(priority)).await;
    permit.unwrap().bytes().div_ceil(MIB)
}

/// One that holds so much while it is looked at.
async fn found(guard: &Guard, class: &Class, kib: usize) {
    let permit = guard.acquire_for(class).await.unwrap();
    let looked_at = guard.clone();
    let work = permit.follow(async move {
        let held = vec![1_u8; kib << 10];
        tokio::task::yield_now().await;
        looked_at.sample_now();
        drop(held);
    });
    work.await;
    guard.sample_now();
}

#[tokio::test]
async fn what_a_class_is_expected_to_need_first_is_by_each_ones_priority() {
    for class in [Class::default(), Class::new("page")] {
        for first in [Priority::Critical, Priority::Normal] {
            let (layer, _) = with(|builder| builder.estimated_bytes_per_request(200 * MIB));
            let guard = layer.guard();
            guard.sample_now();
            found(guard, &class.clone().priority(first), 512).await;
            let normal = reserved_mib(guard, &class, Priority::Normal).await;
            assert!(normal > 100, "{normal} after one that was {first:?}");
            let critical = reserved_mib(guard, &class, Priority::Critical).await;
            assert!(critical <= 2, "{critical} after one that was {first:?}");
        }
    }
}

#[tokio::test]
async fn a_critical_class_of_which_little_was_learned_stays_small_in_the_next_process() {
    let start = |estimates| {
        let (layer, _) = with(|builder| {
            let builder = builder.estimated_bytes_per_request(200 * MIB);
            builder.estimates(estimates)
        });
        layer.guard().clone()
    };
    let class = Class::new("health").priority(Priority::Critical);
    let guard = start(Default::default());
    found(&guard, &class, 512).await;
    let next = start(guard.estimates());
    let reserved = reserved_mib(&next, &class, Priority::Critical).await;
    assert!(reserved <= 2, "{reserved}");
}
