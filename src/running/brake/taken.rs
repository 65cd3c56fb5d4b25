//! What a poll under way may add.

use super::Brake;
use crate::sync::Ordering;

/// What a poll took from the headroom. Given back when it is over.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(super) brake: &'static Brake,
    pub(super) bytes: i64,
    /// There was room for it, or it would have been held back.
    pub(super) was_let: bool,
    /// Of a newcomer: what it may need beyond that.
    pub(super) rest_bytes: i64,
}

impl Taken {
    /// The poll has added so much.
    pub(crate) fn charge(self, grown_bytes: i64) {
        // First: for a moment both count, which holds back rather than lets go.
        self.brake
            .grown
            .fetch_add(grown_bytes.max(0), Ordering::AcqRel);
        if self.was_let {
            let let_grown = &self.brake.let_grown;
            let_grown.fetch_add(grown_bytes.max(0), Ordering::AcqRel);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.brake.ongoing.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.rest_bytes > 0 {
            self.brake.rest.fetch_sub(self.rest_bytes, Ordering::AcqRel);
        }
        if !self.was_let {
            let unheld = &self.brake.unheld_ongoing;
            unheld.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}
