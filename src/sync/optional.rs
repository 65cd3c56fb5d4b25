//! [`AtomicOption`]: a number that may not be known.

use std::sync::atomic::{AtomicU64, Ordering};

const NONE: u64 = u64::MAX;

/// Not model-checked: it hands nothing over.
#[derive(Debug)]
pub(crate) struct AtomicOption(AtomicU64);

impl Default for AtomicOption {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

impl AtomicOption {
    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&number| number != NONE)
    }

    pub(crate) fn set(&self, number: Option<u64>) {
        self.0.store(number.unwrap_or(NONE), Ordering::Relaxed);
    }
}
