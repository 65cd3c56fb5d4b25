//! [`Seldom`]: log lines of one kind, which storms bring by the thousand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shortest time between two publications of metrics, and two log lines of one kind.
pub(in crate::guard) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// At most one a second, with a count of those in between.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// By the sampler's clock, one millisecond on; 0: never. Its tick stands still where nobody
    /// samples.
    last_ms: AtomicU64,
    unlogged: AtomicU64,
}

impl Seldom {
    /// As if nothing had been said so far.
    pub(super) fn forget(&self) {
        self.last_ms.store(0, Ordering::Relaxed);
        self.unlogged.store(0, Ordering::Relaxed);
    }

    /// Whether to say it now: then how many were not said in between.
    pub(super) fn may_say(&self, now: Duration) -> Option<u64> {
        let now_ms = now.as_millis() as u64 + 1;
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        let due = last_ms == 0 || now_ms >= last_ms + REPORT_INTERVAL.as_millis() as u64;
        let ours = due
            && self
                .last_ms
                .compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !ours {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unlogged.swap(0, Ordering::Relaxed))
    }
}
