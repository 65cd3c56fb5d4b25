//! What the tests of the brake share with its loom models.

use std::sync::Arc;
use std::task::Wake;

use super::brake::Bound;
use crate::sync::{AtomicU32, Ordering};

pub(super) fn bound(grown_bytes: i64, headroom_bytes: i64) -> Bound {
    Bound {
        grown_bytes,
        headroom_bytes,
        kept_bytes: 0,
        large_bytes: i64::MAX,
        for_ending_bytes: 0,
        room_bytes: i64::MAX,
        unknown_get_on: false,
        observes: false,
        left_bytes: u64::MAX,
    }
}

/// Counts how often it is woken.
pub(super) struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU32::new(0)))
    }

    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
