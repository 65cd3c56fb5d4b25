//! The standard primitives, or loom's in tests under `--cfg memory_guard_loom`.
//!
//! Only `limiter` uses these: it is the part whose interleavings are model-checked.

#[cfg(not(all(test, memory_guard_loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(all(test, memory_guard_loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

/// Locks, and goes on after a panic elsewhere: every critical section in this
/// crate leaves its data consistent before anything that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
