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

use support::{LIMIT, MIB, Shared, poll_once};
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

/// Set in a process that has no thread but its first.
const ALONE: &str = "MEMORY_GUARD_TEST_ALONE";

/// Runs `work`, which is what the test of this name does, in a process of its own. A new
/// thread's stack is larger there than an address can be.
fn without_threads(test: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
        return work();
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads", "1"])
        .env("RUST_MIN_STACK", (1_u64 << 60).to_string())
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
