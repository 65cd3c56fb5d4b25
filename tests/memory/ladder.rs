//! The published scenarios, over a directory of control group files, and
//! against a real control group where one can be made.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, io};

use axum::body::Body;
use http::{Request, Response};
use support::{MIB, assert_empty, eventually, fill, poll_once, with};
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{
    Class, Config, ConfigError, Cost, Detail, Guard, MemoryGuardBuilder, MemoryGuardLayer,
    MemoryLevel, MemorySource, Mode, OnSensorFailure, Policy, Pressure, Reason, Sample, Source,
};

const LIMIT: u64 = 1000 * MIB;

/// A control group (version 2) as the kernel would show it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("memory.max", &LIMIT.to_string());
        files.write("memory.high", "max");
        files.fill(0);
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        // Renamed into place would be a new file: the descriptors stay open.
        fs::write(self.path().join(name), format!("{text}\n")).unwrap();
    }

    /// Memory is `percent` full, half of it page cache on top.
    fn fill(&self, percent: u64) {
        let anon = LIMIT / 100 * percent;
        let cache = LIMIT / 10;
        self.write(
            "memory.stat",
            &format!("anon {anon}\nfile {cache}\nkernel 0\nshmem 0\nsock 0\ninactive_file {cache}"),
        );
        self.write("memory.current", &(anon + cache).to_string());
    }

    fn guard(
        &self,
        set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder,
    ) -> Result<Guard, ConfigError> {
        let builder = MemoryGuardLayer::builder().cgroup_path(self.path());
        Ok(set(builder).build()?.guard().clone())
    }

    /// So small an estimate that the count binds.
    fn counting_guard(&self) -> Guard {
        self.guard(|builder| builder.max_concurrent(10).estimated_bytes_per_request(1024))
            .unwrap()
    }
}

/// How many requests are admitted before one has to wait.
async fn fits(guard: &Guard) -> usize {
    let mut permits = Vec::new();
    loop {
        let mut next = Box::pin(guard.acquire(1024));
        match poll_once(next.as_mut()) {
            std::task::Poll::Ready(Ok(permit)) => permits.push(permit),
            std::task::Poll::Ready(Err(_)) => return 0,
            std::task::Poll::Pending => return permits.len(),
        }
    }
}

#[tokio::test]
async fn at_50_percent_everything_is_normal() {
    let files = Files::new();
    files.fill(50);
    let guard = files.counting_guard();
    let stats = guard.stats();
    assert_eq!(
        (stats.level, stats.current_concurrency),
        (Pressure::Normal, Some(10))
    );
    assert_eq!(stats.memory_percent, 50.0);
    assert_eq!(fits(&guard).await, 10);
    assert_empty(&guard);
}

#[tokio::test]
async fn at_75_percent_the_eighth_waits() {
    let files = Files::new();
    files.fill(75);
    let guard = files.counting_guard();
    let stats = guard.stats();
    assert_eq!(
        (stats.level, stats.current_concurrency),
        (Pressure::Warning, Some(7))
    );
    assert_eq!(fits(&guard).await, 7);
}

#[tokio::test]
async fn at_90_percent_only_the_active_go_on() {
    let files = Files::new();
    let guard = files.counting_guard();
    let active: Vec<_> = (0..3).map(|_| guard.try_acquire(1024).unwrap()).collect();
    files.fill(90);
    guard.sample_now();
    let stats = guard.stats();
    assert_eq!(
        (stats.level, stats.current_concurrency),
        (Pressure::Critical, Some(3))
    );
    let rejected = guard.acquire(1024).await.unwrap_err();
    assert_eq!(rejected.reason(), Reason::CriticalPressure);
    assert_eq!(guard.stats().active_tasks, 3);
    drop(active);
    assert_empty(&guard);
}

#[tokio::test]
async fn bytes_bind_where_the_count_would_let_more_in() {
    let files = Files::new();
    files.fill(45);
    let guard = files
        .guard(|builder| {
            builder
                .max_concurrent(10)
                .estimated_bytes_per_request(100 * MIB)
        })
        .unwrap();
    // 85 % − 45 % of 1,000 MiB hold four of 100 MiB.
    let active: Vec<_> = (0..4)
        .map(|_| guard.try_acquire(100 * MIB).unwrap())
        .collect();
    let mut fifth = pin!(guard.acquire(100 * MIB));
    assert!(poll_once(fifth.as_mut()).is_pending());
    // Usage that the reservations explain is not counted twice.
    files.fill(80);
    guard.sample_now();
    assert_eq!(guard.stats().level, Pressure::High);
    drop(active);
    files.fill(45);
    guard.sample_now();
    assert!(poll_once(fifth.as_mut()).is_ready());
}

#[tokio::test]
async fn two_guards_of_one_process_never_reserve_the_same_bytes() {
    let files = Files::new();
    let first = files.guard(|builder| builder.max_concurrent(100)).unwrap();
    let second = files.guard(|builder| builder.max_concurrent(50)).unwrap();
    let _permit = first.try_acquire(500 * MIB).unwrap();
    assert_eq!(
        second.try_acquire(400 * MIB).unwrap_err().reason(),
        Reason::NoRoom
    );
    let _permit = second.try_acquire(300 * MIB).unwrap();
    assert_eq!(
        (first.stats().active_tasks, second.stats().active_tasks),
        (1, 1)
    );
    assert_eq!(first.stats().reserved_mib, 800.0);
}

#[tokio::test]
async fn a_limit_that_changes_while_running_is_followed() {
    let files = Files::new();
    files.fill(30);
    let guard = files.counting_guard();
    files.write("memory.max", &(LIMIT / 2).to_string());
    guard.sample_now();
    assert_eq!(guard.stats().memory_percent, 60.0);
    files.write("memory.max", "max");
    guard.sample_now();
    assert_eq!(guard.stats().memory_limit_mib, None);
    assert_eq!(guard.stats().level, Pressure::Normal);
}

#[tokio::test]
async fn files_that_vanish_or_break_are_the_failure_policy_and_heal() {
    let files = Files::new();
    let guard = files
        .guard(|builder| {
            builder
                .max_concurrent(2)
                .on_sensor_failure(OnSensorFailure::Closed)
        })
        .unwrap();
    for broken in ["", "12x", "-4", "99999999999999999999999"] {
        files.write("memory.current", broken);
        guard.sample_now();
        assert!(!guard.stats().sensor_ok, "{broken:?}");
        let rejected = guard.acquire(1024).await.unwrap_err();
        assert_eq!(rejected.reason(), Reason::CriticalPressure);
        files.fill(10);
        guard.sample_now();
        assert!(guard.stats().sensor_ok);
        assert_eq!(fits(&guard).await, 2);
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_the_failure_policy() {
    let guard = MemoryGuardLayer::builder()
        .cgroup_path("/nonexistent/group")
        .max_concurrent(3)
        .build()
        .unwrap()
        .guard()
        .clone();
    assert!(!guard.stats().sensor_ok);
    assert_eq!(fits(&guard).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_looks_full_but_is_not_needed_lets_a_probe_in() {
    let files = Files::new();
    files.fill(88);
    let guard = files
        .guard(|builder| {
            builder
                .max_concurrent(10)
                .estimated_bytes_per_request(1024)
                .check_interval(Duration::from_millis(50))
        })
        .unwrap();
    assert_eq!(
        guard.acquire(1024).await.unwrap_err().reason(),
        Reason::CriticalPressure
    );
    // The allocator keeps what was freed: usage stays flat with nothing running.
    let admitted = std::sync::atomic::AtomicUsize::new(0);
    eventually("a probe is admitted", || {
        if let Ok(permit) = guard.try_acquire(1024) {
            admitted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            drop(permit);
        }
        admitted.load(std::sync::atomic::Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(guard.pressure(), Pressure::Critical);
}

#[tokio::test]
async fn two_guards_from_the_environment_are_one() {
    let (first, second) = (MemoryGuardLayer::from_env(), MemoryGuardLayer::from_env());
    let permit = first.guard().acquire(MIB).await.unwrap();
    assert_eq!(second.guard().stats().active_tasks, 1);
    drop(permit);
    // A closed one is not taken up again.
    second.guard().close();
    assert!(
        MemoryGuardLayer::from_env()
            .guard()
            .try_acquire(MIB)
            .is_ok()
    );
}

#[tokio::test]
async fn without_a_control_group_the_process_or_the_host_is_measured() {
    let resident = |guard: &Guard| {
        let stats = guard.stats();
        assert!(stats.sensor_ok && stats.memory_sys_mib > 1.0, "{stats:?}");
        stats
    };
    let builder = || MemoryGuardLayer::builder();
    let process = builder()
        .source(Source::Process)
        .memory_limit_bytes(LIMIT)
        .build()
        .unwrap();
    assert_eq!(resident(process.guard()).memory_limit_mib, Some(1000.0));
    let host = builder().source(Source::Host).build().unwrap();
    // Its own memory, and what the host has available.
    let stats = resident(host.guard());
    assert!(
        stats.memory_limit_mib.unwrap() > stats.memory_sys_mib,
        "{stats:?}"
    );
    let held = vec![1_u8; 64 << 20];
    process.guard().sample_now();
    assert!(resident(process.guard()).memory_sys_mib > 64.0);
    drop(held);
}

#[tokio::test]
async fn a_share_of_the_limit_is_for_this_process_alone() {
    let files = Files::new();
    files.fill(10);
    let guard = files
        .guard(|builder| builder.share(0.5).policy(Policy::Ladder))
        .unwrap();
    let stats = guard.stats();
    assert_eq!(stats.memory_limit_mib, Some(500.0));
    // Far from the share, whatever the others in the group hold.
    assert!(stats.memory_percent <= 11.0, "{stats:?}");
    let _permit = guard.try_acquire(MIB).unwrap();
    assert_eq!(
        guard.try_acquire(450 * MIB).unwrap_err().reason(),
        Reason::NoRoom
    );
}

/// Says what this process has in full reads alone, as control groups do.
struct SaidSeldom;

impl MemorySource for SaidSeldom {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        sample.push(MemoryLevel::new(LIMIT / 10, Some(LIMIT)));
        if detail == Detail::Full {
            sample.set_process_bytes(MIB);
        }
        Ok(())
    }

    fn name(&self) -> String {
        "said seldom".into()
    }

    fn in_background(&self) -> bool {
        false
    }
}

#[test]
fn who_looks_near_the_end_of_a_share_sees_what_this_process_has_by_then() {
    let builder = MemoryGuardLayer::builder().memory_source(SaidSeldom);
    let builder = builder.share(0.5).estimated_bytes_per_request(450 * MIB);
    let guard = builder.build().unwrap().guard().clone();
    assert_eq!(guard.stats().memory_sys_mib, 1.0);
    let _permit = guard.try_acquire(MIB).unwrap();
    let resident = guard.stats().memory_sys_mib;
    assert!((2.0..500.0).contains(&resident), "{resident}");
}

#[test]
fn where_nobody_tells_whose_memory_it_is_all_of_it_counts_against_a_share() {
    let (layer, memory) = with(|builder| builder.share(0.5));
    fill(layer.guard(), &memory, 40);
    assert_eq!(layer.guard().stats().memory_percent, 80.0);
}

/// A real control group (version 1), removed at the end.
struct RealGroup(PathBuf);

impl RealGroup {
    fn new(name: &str, limit: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups
            .lines()
            .find_map(|line| line.split_once(":memory:"))?
            .1;
        let name = format!("memory-guard-test-{}-{name}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/memory")
            .join(own.trim_start_matches('/'))
            .join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }

    /// A process in the group that holds `mib` MiB until it is killed.
    fn hold(&self, mib: u64) -> Child {
        let procs = self.0.join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && (head -c {mib}m /dev/zero; sleep 60) | tail",
            procs.display()
        );
        let mut command = Command::new("sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .args(["-c", &script])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for RealGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            for pid in left.split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_control_group_moves_the_ladder() {
    let Some(group) = RealGroup::new("ladder", 200 * MIB) else {
        println!("skipped: no memory control group can be made here");
        return;
    };
    let guard = MemoryGuardLayer::builder()
        .cgroup_path(&group.0)
        .max_concurrent(10)
        .estimated_bytes_per_request(1024)
        .check_interval(Duration::from_millis(50))
        .build()
        .unwrap()
        .guard()
        .clone();
    assert_eq!(guard.stats().memory_limit_mib, Some(200.0));
    assert_eq!(guard.pressure(), Pressure::Normal);
    for (mib, level, admitted) in [
        (100, Pressure::Normal, 10),
        (148, Pressure::Warning, 7),
        (180, Pressure::Critical, 0),
    ] {
        let mut child = group.hold(mib);
        eventually("the process holds its memory", || {
            guard.stats().memory_sys_mib > mib as f64
        })
        .await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let stats = guard.stats();
        assert_eq!(stats.level, level, "{stats:?}");
        assert_eq!(fits(&guard).await, admitted, "{stats:?}");
        let _ = Command::new("kill")
            .args(["-9", "--", &format!("-{}", child.id())])
            .status();
        child.wait().unwrap();
        eventually("the memory is free again", || {
            guard.stats().memory_sys_mib < 20.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_cache_in_a_real_control_group_does_not_count() {
    let Some(group) = RealGroup::new("cache", 200 * MIB) else {
        println!("skipped: no memory control group can be made here");
        return;
    };
    let directory = tempfile::tempdir_in("target")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let file = directory.path().join("large");
    let script = format!(
        "echo $$ > {}; head -c 250m /dev/zero > {file}; sync {file}; cat {file} > /dev/null",
        group.0.join("cgroup.procs").display(),
        file = file.display()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let raw: u64 = fs::read_to_string(group.0.join("memory.usage_in_bytes"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if raw < 150 * MIB {
        println!("skipped: this file system's pages are not charged to the group ({raw} bytes)");
        return;
    }
    let guard = MemoryGuardLayer::builder()
        .cgroup_path(&group.0)
        .build()
        .unwrap()
        .guard()
        .clone();
    let stats = guard.stats();
    assert!(stats.memory_percent < 20.0, "{stats:?}");
}

#[tokio::test]
async fn a_guard_further_out_that_lets_all_pass_does_not_speak_for_one_that_does_not() {
    let files = Files::new();
    let answer = |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
    let large = |builder: MemoryGuardBuilder| builder.estimated_bytes_per_request(600 * MIB);
    let inner = files.guard(large).unwrap();
    for enabled in [true, false] {
        let outer = files.guard(|builder| large(builder).mode(Mode::Observe).enabled(enabled));
        let stack = MemoryGuardLayer::from(outer.unwrap())
            .layer(MemoryGuardLayer::from(inner.clone()).layer(service_fn(answer)));
        for (percent, status) in [(99, 503), (0, 200)] {
            files.fill(percent);
            inner.sample_now();
            let request = Request::new(Body::empty());
            let answer = stack.clone().oneshot(request).await.unwrap();
            // What the outer one holds does not stand in its own way.
            assert_eq!(answer.status(), status, "{percent} %, {enabled}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_a_guard_further_in_waits_for_as_long_as_its_caller() {
    let files = Files::new();
    let outer = files.guard(|builder| builder).unwrap();
    let inner = files.guard(|builder| builder.max_concurrent(1)).unwrap();
    let _held = inner.try_acquire(MIB).unwrap();
    let answer = |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
    let stack = MemoryGuardLayer::from(outer)
        .layer(MemoryGuardLayer::from(inner.clone()).layer(service_fn(answer)));
    let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "500");
    let began = tokio::time::Instant::now();
    let request = request.body(Body::empty()).unwrap();
    let answer = stack.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 503);
    let waited = began.elapsed();
    let about = Duration::from_millis(500)..Duration::from_millis(600);
    assert!(about.contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn a_guard_that_is_disabled_takes_no_room_from_others() {
    let reload = |guard: &Guard, enabled| {
        let mut config = Config::clone(&guard.config());
        config.enabled = enabled;
        guard.reload(config).unwrap();
    };
    for from_the_start in [true, false] {
        let files = Files::new();
        let disabled = files.guard(|builder| builder.enabled(!from_the_start));
        let disabled = disabled.unwrap();
        let guard = files.guard(|builder| builder).unwrap();
        let hinted = Class::new("import").cost(100 * MIB);
        if !from_the_start {
            let before = disabled.acquire_for(&hinted).await.unwrap();
            assert!(guard.stats().reserved_mib >= 100.0);
            reload(&disabled, false);
            // What was reserved before is given back with its request.
            drop(before);
            (0..3).for_each(|_| guard.sample_now());
        }
        let held: Vec<_> = (0..50)
            .map(|_| disabled.try_acquire(Cost::Estimated).unwrap())
            .collect();
        let _hinted = disabled.acquire_for(&hinted).await.unwrap();
        let reserved = guard.stats().reserved_mib;
        assert!(reserved < 1.0, "{reserved}, {from_the_start}");
        guard.try_acquire(500 * MIB).unwrap();
        drop(held);
        // Once it is enabled, as much as was configured.
        reload(&disabled, true);
        let _held = disabled.try_acquire(Cost::Estimated).unwrap();
        assert!(guard.stats().reserved_mib >= 1.0);
    }
}

/// Fails as often as it is told to.
#[derive(Debug, Clone, Default)]
struct Failing(Arc<AtomicU32>);

impl MemorySource for Failing {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> std::io::Result<()> {
        let less = |left: u32| left.checked_sub(1);
        if self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
        {
            return Err(std::io::Error::other("told to fail"));
        }
        sample.push(MemoryLevel::new(0, Some(LIMIT)));
        Ok(())
    }

    fn name(&self) -> String {
        "failing".to_owned()
    }
}

#[tokio::test]
async fn one_read_that_fails_opens_nothing_and_many_in_a_row_do() {
    let memory = Failing::default();
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    let guard = builder.build().unwrap().guard().clone();
    let _held = guard.try_acquire(700 * MIB).unwrap();
    for _ in 0..5 {
        memory.0.store(1, Ordering::Relaxed);
        guard.sample_now();
        assert!(guard.try_acquire(500 * MIB).is_err());
    }
    memory.0.store(u32::MAX, Ordering::Relaxed);
    eventually("nothing is known of memory", || {
        guard.try_acquire(500 * MIB).is_ok()
    })
    .await;
}
