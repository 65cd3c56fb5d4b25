//! Nothing is lost, whatever becomes of those who ask.

use std::time::Duration;

use crate::support::{MIB, assert_empty, with};
use tower_memory_guard::{Class, Guard, Permit, Priority, Tier};

/// How many ask; a million in the long form.
fn requests() -> usize {
    let given = std::env::var("CHURN_REQUESTS").ok();
    given.map_or(20_000, |count| count.parse().expect("a number"))
}

fn class(random: &mut fastrand::Rng) -> Class {
    let priorities = [
        Priority::Critical,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ];
    let tenants = ["", "a", "b", "c", "d"];
    let class = Class::new(["x", "y", "z"][random.usize(..3)])
        .priority(priorities[random.usize(..4)])
        .tenant(tenants[random.usize(..5)])
        .tier(["", "narrow"][random.usize(..2)]);
    match random.bool() {
        true => class.cost(random.u64(1..64) * MIB),
        false => class,
    }
}

/// Uses a permit in one way or another.
async fn work(permit: Permit, random: &mut fastrand::Rng) {
    let _ = permit.try_grow(random.u64(1..MIB));
    let clone = (random.u32(..4) == 0).then(|| permit.clone());
    if random.u32(..4) == 0 {
        tokio::task::yield_now().await;
    }
    drop(permit);
    if random.u32(..50) == 0 {
        tokio::time::sleep(Duration::from_micros(random.u64(1..500))).await;
    }
    assert!(random.u32(..200) > 0, "a handler panics");
    drop(clone);
}

async fn ask(guard: Guard, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let class = class(&mut random);
    let permit = guard.acquire_for(&class);
    let permit = match random.u32(..3) {
        // The caller gives up after a moment.
        0 => {
            let patience = Duration::from_micros(random.u64(..2_000));
            tokio::time::timeout(patience, permit).await.ok()
        }
        _ => Some(permit.await),
    };
    if let Some(Ok(permit)) = permit {
        work(permit, &mut random).await;
    }
}

#[test]
fn nothing_is_lost_to_cancellations_timeouts_and_panics() {
    // Panics are part of it, and say nothing new.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let (layer, memory) = with(|builder| {
        builder
            .estimated_bytes_per_request(20 * MIB)
            .wait_timeout(Duration::from_millis(20))
            .max_waiting(200)
            .tier(Tier::new("narrow").max_share(0.2).max_in_flight(3))
    });
    let guard = layer.guard().clone();
    runtime.block_on(async {
        let mut asked = 0;
        while asked < requests() {
            let tasks: Vec<_> = (0..500)
                .map(|n| tokio::spawn(ask(guard.clone(), (asked + n) as u64)))
                .collect();
            asked += tasks.len();
            memory.set_usage_bytes(fastrand::u64(..100) * 10 * MIB);
            for (n, task) in tasks.iter().enumerate() {
                if n % 7 == 0 {
                    task.abort();
                }
                if n % 50 == 0 {
                    tokio::task::yield_now().await;
                    guard.sample_now();
                }
            }
            for task in tasks {
                let _ = task.await;
            }
        }
    });
    let _ = std::panic::take_hook();
    let stats = guard.stats();
    assert!(
        stats.completed_requests > requests() as u64 / 10,
        "{stats:?}"
    );
    assert!(stats.queued_requests > requests() as u64 / 100, "{stats:?}");
    assert_empty(&guard);
    // Tenants' quotas are as they were.
    runtime.block_on(async {
        memory.set_usage_bytes(0);
        guard.sample_now();
        for tenant in ["a", "b", "c", "d", "narrow"] {
            let class = Class::new("last").tenant(tenant).tier("narrow").cost(MIB);
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(guard.acquire_for(&class).await.expect(tenant));
            }
            assert!(guard.acquire_for(&class).await.is_err(), "{tenant}");
        }
    });
}
