//! Requests that were admitted for their bodies alone, until their work begins.

use super::{Ledger, Released};
use crate::limiter::bounds::{Bounds, Need};
use crate::sync::Ordering;

/// Requests whose work has not begun, and what they have read of their bodies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenBodies {
    pub(crate) requests: u32,
    pub(crate) read_bytes: u64,
}

impl Ledger {
    pub(crate) fn staged(&self) -> OpenBodies {
        OpenBodies {
            requests: self.staged_requests.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn stage(&self) {
        self.staged_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them has read so much more.
    pub(crate) fn stage_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Its work begins, or never will; it had read so much.
    pub(crate) fn unstage(&self, read_bytes: u64) {
        self.staged_requests.fetch_sub(1, Ordering::Relaxed);
        self.read_bytes.fetch_sub(read_bytes, Ordering::Relaxed);
    }

    /// No work has begun: all that is in flight are bodies.
    pub(in crate::limiter) fn only_staged(&self) -> bool {
        self.all_in_flight() <= self.staged().requests
    }

    pub(in crate::limiter) fn cancel_need(
        &self,
        bounds: &Bounds,
        kib: u64,
        need: Need,
    ) -> Released {
        let tag = need.tag();
        match need {
            // The request itself goes on.
            Need::More { .. } => self.give_back(bounds, 0, kib, tag, kib),
            Need::Nested(_) => self.end_nested(bounds, tag),
            _ => self.cancel(bounds, kib, tag),
        }
    }
}
