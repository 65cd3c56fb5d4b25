//! What a guard does in a process that was forked after it was built.
//!
//! Build guards after forking: this is about those that were not.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::{LIMIT, MIB, poll_once};
use tower_memory_guard::{
    Cost, Detail, Guard, MemoryGuardLayer, MemoryLevel, MemorySource, OnSensorFailure, Permit,
    Sample,
};

#[allow(unsafe_code)]
mod system {
    unsafe extern "C" {
        pub(super) fn fork() -> i32;
        pub(super) fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
        pub(super) fn alarm(seconds: u32) -> u32;
        pub(super) fn _exit(status: i32) -> !;
    }
}

/// Runs `work` in a forked child, and says whether it came to `true` within a minute.
#[allow(unsafe_code)]
fn in_child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: this program has one thread but for those of its guards, and the child ends
    // without running what its parent would run at its end.
    unsafe {
        match system::fork() {
            0 => {
                system::alarm(60);
                let work = std::panic::AssertUnwindSafe(work);
                let good = std::panic::catch_unwind(work).unwrap_or(false);
                system::_exit(i32::from(!good))
            }
            child => {
                let mut status = -1;
                assert_eq!(system::waitpid(child, &mut status, 0), child);
                status == 0
            }
        }
    }
}

/// Waits until no thread but this one does anything: none of them is in the midst of a
/// sample then.
fn wait_for_quiet() {
    let others = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let tasks = tasks.filter_map(|task| {
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let told = |line: &&str| line.starts_with("State") || line.contains("ctxt");
            status
                .contains("memory-")
                .then(|| status.lines().filter(told).collect())
        });
        tasks.collect()
    };
    let mut before = others();
    loop {
        std::thread::sleep(Duration::from_millis(10));
        let now = others();
        if now == before && now.iter().all(|status| status.contains("sleeping")) {
            return;
        }
        before = now;
    }
}

/// Percent in use, in the process that built the guard and in others.
#[derive(Clone, Copy)]
struct Memory {
    builder: u32,
    here: u64,
    there: u64,
    background: bool,
}

/// The builder's next full sample does not come to an end.
static BLOCKS: AtomicBool = AtomicBool::new(false);
static BLOCKED: AtomicBool = AtomicBool::new(false);
/// All of the builder's memory is in use, whatever it was built with.
static FULL: AtomicBool = AtomicBool::new(false);

impl MemorySource for Memory {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        let is_here = std::process::id() == self.builder;
        while is_here && detail == Detail::Full && BLOCKS.load(Ordering::SeqCst) {
            BLOCKED.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        let percent = match is_here {
            true if FULL.load(Ordering::SeqCst) => 100,
            true => self.here,
            false => self.there,
        };
        sample.push(MemoryLevel::new(LIMIT * percent / 100, Some(LIMIT)));
        Ok(())
    }

    fn name(&self) -> String {
        "what a test says".into()
    }

    fn in_background(&self) -> bool {
        self.background
    }
}

fn guard(here: u64, there: u64, on_failure: OnSensorFailure) -> Guard {
    let builder = std::process::id();
    let memory = Memory {
        builder,
        here,
        there,
        background: true,
    };
    guard_of(memory, on_failure)
}

fn guard_of(memory: Memory, on_failure: OnSensorFailure) -> Guard {
    let layer = MemoryGuardLayer::builder()
        .memory_source(memory)
        .estimated_bytes_per_request(MIB)
        .on_sensor_failure(on_failure)
        .build();
    layer.unwrap().guard().clone()
}

/// Asks for little until the guard's answer is this. Not for ever: the child is killed.
fn answers_at_last(guard: &Guard, admits: bool) {
    while guard.try_acquire(Cost::Bytes(1024)).is_ok() != admits {
        std::thread::yield_now();
    }
}

/// Memory was full when the process was forked, and is not in the child.
fn it_does_not_reject_for_ever() {
    let guard = guard(99, 10, OnSensorFailure::Open);
    assert!(guard.try_acquire(Cost::Bytes(1024)).is_err());
    wait_for_quiet();
    assert!(in_child(|| {
        answers_at_last(&guard, true);
        guard.stats().memory_percent < 11.0
    }));
    guard.close();
}

/// Who waits in the child is let in by what a sample there shows.
fn it_does_not_let_wait_for_ever() {
    let guard = guard(90, 10, OnSensorFailure::Open);
    let _fills = guard.try_acquire(Cost::Bytes(50 * MIB)).unwrap();
    wait_for_quiet();
    assert!(in_child(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let admission = guard.acquire(Cost::Bytes(200 * MIB));
        runtime.unwrap().block_on(admission).is_ok()
    }));
    guard.close();
}

/// Memory was free when the process was forked, and is full in the child.
fn it_does_not_admit_for_ever() {
    let guard = guard(10, 99, OnSensorFailure::Open);
    // The child inherits it, so something is always in flight there.
    let _held = guard.try_acquire(Cost::Bytes(MIB)).unwrap();
    wait_for_quiet();
    assert!(in_child(|| {
        answers_at_last(&guard, false);
        guard.stats().memory_percent > 98.0
    }));
    guard.close();
}

/// From now on somebody is in the midst of a sample, until nothing blocks it any more.
fn in_the_midst_of_a_sample(guard: &Guard) -> JoinHandle<()> {
    BLOCKED.store(false, Ordering::SeqCst);
    BLOCKS.store(true, Ordering::SeqCst);
    let samples = {
        let guard = guard.clone();
        std::thread::spawn(move || guard.sample_now())
    };
    while !BLOCKED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    samples
}

/// The process was forked in the midst of a sample.
fn it_fails_by_its_policy(on_failure: OnSensorFailure) {
    let guard = guard(50, 50, on_failure);
    // The last sample of a guard that was closed would be what blocks.
    wait_for_quiet();
    let samples = in_the_midst_of_a_sample(&guard);
    let admits = on_failure == OnSensorFailure::Open;
    assert!(in_child(|| {
        // None of them waits for a thread that is not there.
        guard.sample_now();
        let _ = (guard.source(), guard.stats(), guard.pressure());
        answers_at_last(&guard, admits);
        let _ = guard.reload((*guard.config()).clone());
        // One that is built here is whole.
        BLOCKS.store(false, Ordering::SeqCst);
        let own = self::guard(10, 10, OnSensorFailure::Closed);
        let of_own = own.try_acquire(Cost::Bytes(MIB)).is_ok();
        guard.close();
        of_own
    }));
    BLOCKS.store(false, Ordering::SeqCst);
    samples.join().unwrap();
    // Nothing of this has changed anything here.
    assert!(guard.try_acquire(Cost::Bytes(1024)).is_ok());
    guard.close();
}

/// Sampled by nobody but those who ask: while somebody is paused no thread would be quiet.
fn without_thread(here: u64, there: u64) -> Guard {
    let builder = std::process::id();
    let memory = Memory {
        builder,
        here,
        there,
        background: false,
    };
    guard_of(memory, OnSensorFailure::Open)
}

/// Two requests while memory was free, which it is not any more: the next to grow is paused.
fn while_full(guard: &Guard) -> [Permit; 2] {
    let permits = [(); 2].map(|()| guard.try_acquire(Cost::Bytes(MIB)).unwrap());
    FULL.store(true, Ordering::SeqCst);
    guard.sample_now();
    permits
}

/// One was paused when the process was forked: who comes to the child does not wait for it.
fn it_does_not_hold_back_for_who_was_paused() {
    let guard = without_thread(10, 10);
    let [permit, other] = while_full(&guard);
    let mut paused = Box::pin(permit.checkpoint_async());
    assert!(poll_once(paused.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 1);
    wait_for_quiet();
    assert!(in_child(|| {
        guard.sample_now();
        answers_at_last(&guard, true);
        let paused_before = guard.stats().paused_tasks;
        let goes_on = poll_once(paused.as_mut()).is_ready();
        drop(paused);
        (paused_before, goes_on, guard.stats().paused_tasks) == (0, true, 0)
    }));
    FULL.store(false, Ordering::SeqCst);
    drop((permit, other));
    guard.close();
}

/// The process was forked in the midst of a sample, while who grows was paused.
fn it_pauses_nobody_where_it_sees_nothing() {
    let guard = guard(10, 10, OnSensorFailure::Open);
    wait_for_quiet();
    let [permit, other] = while_full(&guard);
    let samples = in_the_midst_of_a_sample(&guard);
    assert!(in_child(|| {
        let goes_on = || poll_once(std::pin::pin!(permit.checkpoint_async())).is_ready();
        goes_on() && goes_on() && guard.stats().paused_tasks == 0
    }));
    BLOCKS.store(false, Ordering::SeqCst);
    samples.join().unwrap();
    // Where it sees, it does.
    assert!(poll_once(std::pin::pin!(permit.checkpoint_async())).is_pending());
    FULL.store(false, Ordering::SeqCst);
    drop((permit, other));
    guard.close();
}

// One after the other: only the guards' threads may be there when the process is forked.
#[test]
fn a_guard_that_was_built_before_a_fork_neither_hangs_nor_believes_what_was() {
    it_does_not_reject_for_ever();
    it_does_not_let_wait_for_ever();
    it_does_not_admit_for_ever();
    it_fails_by_its_policy(OnSensorFailure::Open);
    it_fails_by_its_policy(OnSensorFailure::Closed);
    it_does_not_hold_back_for_who_was_paused();
    it_pauses_nobody_where_it_sees_nothing();
}
