//! A process in which there is no thread to be had, as where the limit of its group's
//! `pids.max` is reached: samples are taken where something happens.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

use std::future::{Future, poll_fn};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{LIMIT, MIB, Shared, hold_up_releases, poll_once};
use tower_memory_guard::{Guard, MemoryGuardLayer, Permit};

#[derive(Default)]
struct Woken(AtomicBool);

impl Woken {
    fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Set in a process of its own.
const ALONE: &str = "MEMORY_GUARD_TEST_ALONE";

/// Runs `work`, which is what the test of this name does, in a process of its own. A new
/// thread's stack is larger there than an address can be.
fn without_threads(test: &str, work: impl FnOnce()) {
    let largest_stack = ("RUST_MIN_STACK", (1_u64 << 60).to_string());
    in_its_own(test, [largest_stack], || {
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
        work();
    });
}

/// The same, with threads to be had.
fn in_its_own(
    test: &str,
    variables: impl IntoIterator<Item = (&'static str, String)>,
    work: impl FnOnce(),
) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads", "1"])
        .envs(variables)
        .env(ALONE, "1")
        .status();
    assert!(status.unwrap().success());
}

/// Two requests, and what says how much is in use.
fn two() -> (Guard, Shared, [Permit; 2]) {
    let memory = Shared::default();
    let layer = MemoryGuardLayer::builder()
        .memory_source(memory.clone())
        .estimated_bytes_per_request(16 * MIB)
        .build();
    let guard = layer.unwrap().guard().clone();
    let permits = [(); 2].map(|()| guard.try_acquire(16 * MIB).unwrap());
    (guard, memory, permits)
}

#[test]
fn who_is_paused_goes_on_when_another_ends() {
    without_threads("who_is_paused_goes_on_when_another_ends", || {
        let (guard, memory, [first, second]) = two();
        memory.is_used(LIMIT);
        guard.sample_now();
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let cx = &mut Context::from_waker(&waker);
        let mut checkpoint = Box::pin(second.checkpoint_async());
        assert!(checkpoint.as_mut().poll(cx).is_pending());
        assert_eq!((guard.stats().paused_tasks, woken.is()), (1, false));
        memory.is_used(0);
        drop(first);
        assert!(woken.is());
        assert!(checkpoint.as_mut().poll(cx).is_ready());
    });
}

#[test]
fn who_is_paused_goes_on_when_a_poll_is_over() {
    without_threads("who_is_paused_goes_on_when_a_poll_is_over", || {
        let (guard, memory, [first, second]) = two();
        // Room for what a poll of one of them may add.
        memory.is_used(955 * MIB);
        guard.sample_now();
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut second = Box::pin(second.follow(std::future::pending::<()>()));
        let mut first = Box::pin(first.follow(poll_fn(|_| {
            let cx = &mut Context::from_waker(&waker);
            assert!(second.as_mut().poll(cx).is_pending());
            assert_eq!((guard.stats().paused_tasks, woken.is()), (1, false));
            Poll::<()>::Pending
        })));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(woken.is());
    });
}

/// Addresses for anything but another thread's stack, until it is dropped.
struct Full(Rlimit);

impl Full {
    fn new() -> Self {
        let before = getrlimit(Resource::As);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let used = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let used_kib: u64 = used
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        let current = Some(used_kib * 1024 + MIB);
        setrlimit(Resource::As, Rlimit { current, ..before }).unwrap();
        Self(before)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        setrlimit(Resource::As, self.0).unwrap();
    }
}

#[test]
fn a_thread_that_is_not_to_be_had_at_first_is_had_later() {
    let test = "a_thread_that_is_not_to_be_had_at_first_is_had_later";
    in_its_own(test, [], || {
        hold_up_releases();
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let full = Full::new();
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
        let (guard, memory, [_first, second]) = two();
        assert_eq!(threads(), before);
        drop(full);
        memory.is_used(LIMIT);
        guard.sample_now();
        // It is not tried all the time.
        std::thread::sleep(Duration::from_millis(1100));
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let cx = &mut Context::from_waker(&waker);
        let mut checkpoint = Box::pin(second.checkpoint_async());
        assert!(checkpoint.as_mut().poll(cx).is_pending());
        // Nobody polls, and nobody ends.
        memory.is_used(0);
        let goes_on = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            woken.is()
        });
        assert!(goes_on);
    });
}
