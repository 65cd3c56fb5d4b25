//! Whether a sampler has a thread.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::Sampler;
use crate::telemetry::logs::say;

/// A thread that is not to be had is asked for so often.
const TRIED_EVERY: Duration = Duration::from_secs(1);

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

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

    /// There was none to be had, which is said once until there is.
    pub(super) fn has_no_thread(&self, error: &io::Error) {
        let now_ms = self.now().as_millis() as u64;
        if self.failed_ms.swap(now_ms.max(1), Ordering::Relaxed) == 0 {
            say!(error, %error, "the memory guard has no thread to sample memory with");
        }
    }

    /// There may be one to be had by now: without any, nobody would see what only time changes.
    pub(super) fn run_again(self: &Arc<Self>) {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        let rested = self.now() >= Duration::from_millis(failed_ms) + TRIED_EVERY;
        if failed_ms > 0 && rested {
            self.run();
        }
    }

    /// `kept`: where it is, under its lock.
    pub(super) fn set_thread(&self, kept: &mut Option<Thread>, thread: Option<Thread>) {
        if thread.is_some() {
            self.failed_ms.store(0, Ordering::Relaxed);
        }
        self.has_thread.store(thread.is_some(), Ordering::Relaxed);
        *kept = thread;
    }

    pub(super) fn forget_thread(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_thread(&mut thread, None);
    }
}
