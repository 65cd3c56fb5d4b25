//! Memory per request: an allocator that knows for whom it works.
//!
//! Put [`TrackingAllocator`] in the place of the global allocator, and every
//! allocation is charged to the request whose future is being polled:
//!
//! ```
//! use tower_memory_guard::account::TrackingAllocator;
//!
//! #[global_allocator]
//! static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();
//! # fn main() { assert!(tower_memory_guard::account::is_installed()) }
//! ```
//!
//! The guard then knows what each request holds and what it needed at its peak,
//! and predicts from that. Nothing else changes: allocations carry no header, and
//! memory may be freed by whoever has it last.
//!
//! # Whose memory
//!
//! The request's, while its future, its response's body or [`follow`]ed work is
//! polled. Work on other threads is followed if it is started by [`spawn`] or
//! [`spawn_blocking`], or wrapped by [`follow`] or [`carry`]: it then also keeps
//! the request's [`Permit`] until it is done. What it frees is taken off its own
//! account, whoever allocated it: a handler that frees what the server allocated (the
//! frames of an upload) shows that much less. An account never falls below nothing,
//! so that hides no more than what is held then. Frames of a response's body leave
//! the account when they are sent. Figures are published at the end of
//! each poll, and within one every 48 KiB.
//!
//! # Cost
//!
//! A few instructions for each allocation and two atomic operations for each poll.
//! Measured in `docs/architecture.md`.

mod allocator;
mod follow;
mod threads;

pub use allocator::TrackingAllocator;
pub use follow::{Followed, carry, follow, spawn, spawn_blocking};

use crate::guard::permit::Permit;
use crate::guard::scope;
use crate::running::charge;

/// Whether [`TrackingAllocator`] is the global allocator of this process.
///
/// Found out once, by allocating.
pub fn is_installed() -> bool {
    charge::is_counted()
}

/// The permit of the request that this code runs for.
///
/// `None` outside of a guarded request's polls, and in tasks and threads that
/// do not [`follow`] one.
pub fn current() -> Option<Permit> {
    let permit = scope::innermost();
    // SAFETY: null, or the permit that the innermost scope on this thread still
    // borrows: a scope puts back what it found when it is dropped, or null where
    // that was not its own, it cannot leave its thread, and this crate forgets none.
    unsafe { permit.as_ref() }.cloned()
}
