//! In which order those go on that are paused.

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{LIMIT, MIB, assert_empty, fill, hold_up_releases, with};
use tokio::task::JoinHandle;
use tower_memory_guard::{Class, Guard, ManualSource, Permit, Priority, Tier};

const NEED: u64 = 16 * MIB;

/// Work that is admitted and waits at its first checkpoint. Time stands still but for what
/// a test says, and nobody samples but the test and whoever is paused.
struct Bed {
    guard: Guard,
    memory: ManualSource,
    tasks: Vec<JoinHandle<Permit>>,
    /// Who has gone on, in this order.
    went: Arc<Mutex<Vec<&'static str>>>,
}

impl Bed {
    /// One after the other begins, and all are paused.
    async fn paused(work: &[(&'static str, Class)]) -> Self {
        hold_up_releases();
        let (layer, memory) = with(|builder| {
            let builder = builder.estimated_bytes_per_request(NEED);
            let builder = builder.wait_timeout(Duration::from_secs(10));
            let builder = builder.max_pause(Duration::from_secs(60));
            builder.tier(Tier::new("gold").weight(4))
        });
        let mut bed = Self {
            guard: layer.guard().clone(),
            memory,
            tasks: Vec::new(),
            went: Arc::default(),
        };
        let mut permits = Vec::new();
        for (name, class) in work {
            permits.push((*name, bed.guard.acquire_for(class).await.unwrap()));
        }
        bed.fill();
        for (name, permit) in permits {
            let went = Arc::clone(&bed.went);
            bed.tasks.push(tokio::spawn(async move {
                permit.checkpoint_async().await.unwrap();
                went.lock().unwrap().push(name);
                permit
            }));
        }
        settle().await;
        assert_eq!(bed.guard.stats().paused_tasks, work.len() as u64);
        bed
    }

    fn fill(&self) {
        fill(&self.guard, &self.memory, 100);
    }

    /// Who goes on where there is room for one.
    async fn next(&self) -> &'static str {
        let before = self.went.lock().unwrap().len();
        self.memory.set_usage_bytes(LIMIT - 45 * MIB);
        self.guard.sample_now();
        settle().await;
        self.fill();
        let went = self.went.lock().unwrap();
        assert_eq!(went.len(), before + 1, "one goes on: {went:?}");
        went[before]
    }

    async fn all_end(self) {
        for task in self.tasks {
            drop(task.await.unwrap());
        }
        assert_empty(&self.guard);
    }
}

/// All tasks do what they can without time.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn of(tenant: &'static str) -> Class {
    Class::new("work").tenant(tenant)
}

#[tokio::test(start_paused = true)]
async fn a_tenant_below_its_share_goes_before_one_beyond_it() {
    let many = ["a", "b", "c"].map(|name| (name, of("many")));
    let work = [&many[..], &[("few", of("few"))]].concat();
    let bed = Bed::paused(&work).await;
    for name in ["few", "a", "b", "c"] {
        assert_eq!(bed.next().await, name);
    }
    bed.all_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_more_weight_has_more_before_it_is_beyond_its_share() {
    let many = ["a", "b", "c"].map(|name| (name, of("many").tier("gold")));
    let work = [&many[..], &[("few", of("few"))]].concat();
    let bed = Bed::paused(&work).await;
    for name in ["a", "b", "c", "few"] {
        assert_eq!(bed.next().await, name);
    }
    bed.all_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_share_decides_only_within_a_priority() {
    let bed = Bed::paused(&[
        ("low", of("few").priority(Priority::Low)),
        ("a", of("many")),
        ("b", of("many")),
        ("high", of("many").priority(Priority::High)),
        ("normal", of("other")),
    ])
    .await;
    for name in ["high", "normal", "a", "b", "low"] {
        assert_eq!(bed.next().await, name);
    }
    bed.all_end().await;
}

#[tokio::test(start_paused = true)]
async fn low_work_that_was_paused_for_long_counts_as_normal() {
    let normal = ["a", "b", "c"].map(|name| (name, of("one")));
    let low = of("one").priority(Priority::Low);
    let bed = Bed::paused(&[&[("low", low)], &normal[..]].concat()).await;
    assert_eq!(bed.next().await, "a");
    // Nearly a quarter of the time that it would wait in the queue.
    tokio::time::advance(Duration::from_millis(2_400)).await;
    assert_eq!(bed.next().await, "b");
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(bed.next().await, "low");
    assert_eq!(bed.next().await, "c");
    bed.all_end().await;
}
