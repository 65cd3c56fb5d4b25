//! What bounds a guard whose control group is laid out in unusual ways.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use support::events::Events;
use support::{MIB, poll_once};
use tempfile::TempDir;
use tower_memory_guard::{
    Class, Guard, MemoryGuardBuilder, MemoryGuardLayer, Policy, Priority, Reason, Source, Tier,
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
            (stats.memory_limit_mib, stats.memory_percent),
            (Some(1000.0), 50.0)
        );
        assert_eq!(*guard.subscribe_limit().borrow(), Some(BOUND));
        // As many of 200 MiB as fit, less a fifth.
        assert_eq!(stats.base_concurrency, Some(4));
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
        assert_eq!(refused.reason(), Reason::NoRoom, "{cost}");
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

impl Throttled {
    /// Every task has waited for memory for this share of the last ten seconds.
    fn stall(&self, percent: u32) {
        let full = format!("full avg10={percent}.00 avg60=0.00 avg300=0.00 total=9");
        self.write("memory.pressure", &format!("some avg10=99.00\n{full}"));
    }

    /// Killed instead of throttled.
    fn limited(usage: u64) -> Self {
        let group = Self::new(usage);
        group.write("memory.high", "max");
        group.write("memory.max", &BOUND.to_string());
        group
    }
}

#[tokio::test]
async fn while_memory_stalls_newcomers_wait_unless_alone() {
    for policy in [Policy::Ladder, Policy::Predictive] {
        let group = Throttled::limited(100 * MIB);
        group.stall(60);
        let guard = group.guard(|builder| builder.policy(policy).max_concurrent(9));
        let small = Class::new("small").cost(MIB);
        // A thrash of the page cache can not keep an idle service idle.
        let first = guard.try_acquire(MIB).unwrap();
        for _ in 0..3 {
            // Near the limit each looks at usage alone, which says nothing of stalls.
            assert!(!has_room(&guard, &small), "{policy:?}");
        }
        let refused = guard.try_acquire(MIB).unwrap_err();
        assert_eq!(refused.reason(), Reason::NoRoom);
        group.stall(0);
        guard.sample_now();
        assert!(has_room(&guard, &small), "{policy:?}");
        drop(first);
    }
}

#[tokio::test]
async fn what_requests_have_on_swap_must_come_back() {
    let room_with = |swapped: u64| {
        let group = Throttled::limited(300 * MIB);
        group.write("memory.swap.current", &swapped.to_string());
        let guard = group.guard(|builder| builder.policy(Policy::Predictive));
        let first = guard.try_acquire(400 * MIB).unwrap();
        guard.sample_now();
        let room = has_room(&guard, &Class::new("next").cost(200 * MIB));
        drop(first);
        guard.sample_now();
        // What nobody in flight can have written may stay where it is.
        (room, guard.try_acquire(600 * MIB).is_ok())
    };
    assert_eq!(room_with(0), (true, true));
    assert_eq!(room_with(500 * MIB), (false, true));
}

#[test]
fn guards_on_one_ledger_are_sampled_together_whatever_they_measure() {
    let seldom = Duration::from_secs(3600);
    let guard = |source| {
        let builder = MemoryGuardLayer::builder().source(source);
        let builder = builder.check_interval(seldom).memory_limit_bytes(1 << 40);
        builder.build().unwrap().guard().clone()
    };
    let (first, second) = (guard(Source::Process), guard(Source::Host));
    let before = first.stats().memory_sys_mib;
    let held = vec![1_u8; 64 << 20];
    // Else what it gives back would be free for the first before the first has looked.
    second.sample_now();
    assert!(first.stats().memory_sys_mib > before + 60.0);
    drop(held);
    assert_ne!(first.source(), second.source());
}

#[test]
fn a_path_that_leads_to_the_own_group_is_no_other_group() {
    let found = MemoryGuardLayer::builder().source(Source::Cgroup).build();
    let found = found.unwrap().guard().clone();
    let source = found.source();
    let Some((_, path)) = source.split_once(" at ") else {
        return; // No control groups here.
    };
    let spelt_otherwise = format!("{path}/../{}/.", path.rsplit('/').next().unwrap());
    let given = MemoryGuardLayer::builder().cgroup_path(spelt_otherwise);
    let given = given.build().unwrap().guard().clone();
    let _permit = found.try_acquire(MIB).unwrap();
    assert_eq!(given.stats().reserved_mib, 1.0);
}

/// A child of this process's own group (version 1), where one can be made.
fn real_group(limit: u64) -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut lines = groups.lines();
    let own = lines.find_map(|line| line.split_once(":memory:"))?.1;
    let name = format!("memory-guard-moved-{}", std::process::id());
    let memory = Path::new("/sys/fs/cgroup/memory");
    let group = memory.join(own.trim_start_matches('/')).join(name);
    fs::create_dir(&group).ok()?;
    fs::write(group.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
    Some(group)
}

const MOVES_TO: &str = "TEST_MOVES_TO";

#[test]
fn a_process_that_is_moved_goes_by_its_new_limit() {
    if let Some(group) = std::env::var_os(MOVES_TO) {
        return move_and_look(Path::new(&group));
    }
    let Some(group) = real_group(300 * MIB) else {
        return;
    };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_is_moved_goes_by_its_new_limit"])
        .env(MOVES_TO, &group)
        .status();
    fs::remove_dir(&group).unwrap();
    assert!(status.unwrap().success());
}

fn move_and_look(group: &Path) {
    let interval = Duration::from_millis(200);
    let builder = MemoryGuardLayer::builder().source(Source::Cgroup);
    let layer = builder.check_interval(interval).build().unwrap();
    let limit = || layer.guard().stats().memory_limit_mib;
    assert_ne!(limit(), Some(300.0));
    let process = std::process::id().to_string();
    fs::write(group.join("cgroup.procs"), process).unwrap();
    let moved = Instant::now();
    while limit() != Some(300.0) {
        assert!(moved.elapsed() < Duration::from_secs(5), "{:?}", limit());
        std::thread::sleep(interval);
    }
}

#[test]
fn who_is_alone_is_admitted_past_the_allowance_in_each_of_the_guards_of_a_group() {
    let group = Throttled::limited(0);
    let (first, second) = (
        group.guard(|builder| builder),
        group.guard(|builder| builder),
    );
    for guard in [&first, &second] {
        // θ is 0.96: it fits below the limit, and not below that.
        let permit = guard.try_acquire(980 * MIB).map(drop);
        assert!(permit.is_ok(), "{permit:?}, {:?}", guard.stats());
        guard.sample_now();
    }
}

#[tokio::test]
async fn a_waiter_that_is_alone_is_let_in_in_each_of_the_guards_of_a_group() {
    let group = Throttled::limited(0);
    let (first, second) = (
        group.guard(|builder| builder),
        group.guard(|builder| builder),
    );
    for guard in [&first, &second] {
        let held = first.try_acquire(500 * MIB).unwrap();
        let mut waiting = pin!(guard.acquire(980 * MIB));
        assert!(poll_once(waiting.as_mut()).is_pending());
        drop(held);
        guard.sample_now();
        assert!(
            poll_once(waiting.as_mut()).is_ready(),
            "{:?}",
            guard.stats()
        );
        guard.sample_now();
    }
}
