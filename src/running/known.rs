//! [`Known`]: a number that may not be known yet.

use crate::sync::{AtomicU32, Ordering};

/// It stands one further on, and what is not known is 0.
#[derive(Debug, Default)]
pub(super) struct Known(AtomicU32);

impl Known {
    pub(super) fn get(&self) -> Option<u32> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn set(&self, number: Option<u32>) {
        let word = number.map_or(0, |number| number.saturating_add(1));
        self.0.store(word, Ordering::Relaxed);
    }
}
