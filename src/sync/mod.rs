//! What threads share: primitives, counters in shards, calls into others' code.
//!
//! Primitives are the standard ones, or loom's in tests under `--cfg memory_guard_loom`.
//!
//! `limiter` and `running` use these: they are the parts whose interleavings are
//! model-checked.

pub(crate) mod foreign;
pub(crate) mod optional;
pub(crate) mod sharded;

#[cfg(not(all(test, memory_guard_loom)))]
pub(crate) use atomic_waker::AtomicWaker;
#[cfg(not(all(test, memory_guard_loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(all(test, memory_guard_loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence},
};

/// What `atomic_waker` does, in a way that loom sees.
#[cfg(all(test, memory_guard_loom))]
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<std::task::Waker>>);

#[cfg(all(test, memory_guard_loom))]
impl AtomicWaker {
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        *lock(&self.0) = Some(waker.clone());
    }

    pub(crate) fn take(&self) -> Option<std::task::Waker> {
        lock(&self.0).take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}

/// Locks, and goes on after a panic elsewhere: every critical section in this
/// crate leaves its data consistent before anything that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
