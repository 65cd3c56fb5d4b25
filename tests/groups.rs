//! What bounds a guard whose control group is laid out in unusual ways.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::path::Path;
use std::pin::pin;

use support::events::Events;
use support::{MIB, poll_once};
use tempfile::TempDir;
use tower_memory_guard::{
    Class, Guard, MemoryGuardBuilder, MemoryGuardLayer, Policy, Priority, Reason, Tier,
};

const BOUND: u64 = 1000 * MIB;

/// A control group (version 2) that is throttled and never killed.
struct Throttled(TempDir);

impl Throttled {
    fn new(usage: u64) -> Self {
        let group = Self(tempfile::tempdir().unwrap());
        group.write("memory.max", "max");
        group.write("memory.high", &BOUND.to_string());
        let rest = "file 0\nkernel 0\nshmem 0\nsock 0";
        group.write("memory.stat", &format!("anon {usage}\n{rest}"));
        group.write("memory.current", &usage.to_string());
        group
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), format!("{text}\n")).unwrap();
    }

    fn guard(&self, set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder) -> Guard {
        let builder = MemoryGuardLayer::builder().cgroup_path(self.path());
        set(builder).build().unwrap().guard().clone()
    }
}

/// Whether one more is admitted at once; given back in that case.
fn has_room(guard: &Guard, class: &Class) -> bool {
    poll_once(pin!(guard.acquire_for(class))).is_ready()
}

#[test]
fn a_throttled_group_has_a_limit_though_nothing_is_killed_there() {
    let events = Events::record(|| {
        let group = Throttled::new(500 * MIB);
        let guard = group.guard(|builder| builder.policy(Policy::Ladder));
        let stats = guard.stats();
        assert_eq!(
            (stats.memory_limit_mb, stats.memory_percent),
            (Some(1000.0), 50.0)
        );
        assert_eq!(*guard.subscribe_limit().borrow(), Some(BOUND));
        // As many of 200 MiB as fit, less a fifth.
        assert_eq!(stats.base_concurrency, 4);
    });
    let warned = |event: &&std::collections::BTreeMap<_, _>| event["at"] == "WARN";
    assert_eq!(events.iter().find(warned), None);
}

#[test]
fn alone_nobody_is_admitted_past_where_the_kernel_throttles() {
    let group = Throttled::new(900 * MIB);
    let guard = group.guard(|builder| builder);
    for cost in [200 * MIB, 2 * BOUND] {
        // Throttled, it would fit in the end: that is no reason to say never.
        let refused = guard.try_acquire(cost).unwrap_err();
        assert_eq!(refused.reason(), Reason::WaitTimeout, "{cost}");
    }
    assert!(guard.try_acquire(90 * MIB).is_ok());
}

#[tokio::test]
async fn quotas_are_shares_of_where_the_kernel_throttles() {
    let group = Throttled::new(0);
    let guard = group.guard(|builder| builder.tier(Tier::new("gold").max_share(0.5)));
    let class = Class::new("render").tenant("acme").tier("gold");
    let class = class.cost(300 * MIB);
    // Alone, anybody may have everything.
    let _other = guard.try_acquire(MIB).unwrap();
    let _first = guard.acquire_for(&class).await.unwrap();
    assert!(!has_room(&guard, &class));
}

#[tokio::test]
async fn a_slice_of_what_is_not_throttled_stays_free_for_critical_work() {
    let group = Throttled::new(0);
    let guard = group.guard(|builder| builder.critical_reserve(0.3));
    let critical = Class::new("login").priority(Priority::Critical);
    drop(guard.acquire_for(&critical.clone().cost(MIB)).await);
    guard.sample_now();
    let _other = guard.try_acquire(MIB).unwrap();
    assert!(!has_room(&guard, &Class::new("report").cost(800 * MIB)));
    assert!(has_room(&guard, &critical.cost(800 * MIB)));
}
