//! Whether a sampler has a thread.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use super::Sampler;

impl Sampler {
    /// A thread is to sample, not only those who ask.
    pub(crate) fn in_background(&self) -> bool {
        self.background
    }

    /// One does: there may be none to be had. Takes no lock. Who goes is said to be gone
    /// before all that are paused are let go for that.
    pub(crate) fn has_thread(&self) -> bool {
        self.has_thread.load(Ordering::Relaxed)
    }

    /// `kept`: where it is, under its lock.
    pub(super) fn set_thread(&self, kept: &mut Option<Thread>, thread: Option<Thread>) {
        self.has_thread.store(thread.is_some(), Ordering::Relaxed);
        *kept = thread;
    }

    pub(super) fn forget_thread(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_thread(&mut thread, None);
    }
}
