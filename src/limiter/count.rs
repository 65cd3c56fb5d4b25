//! Where the requests of one guard are counted.

use super::word::{InUse, ONE};
use crate::sync::{AtomicU32, Ordering};

#[derive(Debug, Default)]
pub(crate) enum GuardCount {
    /// In the ledger's word: those of the first guard on it, which saves that a second shared
    /// counter.
    #[default]
    InWord,
    Beside(AtomicU32),
}

impl GuardCount {
    pub(super) fn beside() -> Self {
        Self::Beside(AtomicU32::new(0))
    }

    #[inline]
    pub(super) fn is_in_word(&self) -> bool {
        matches!(self, Self::InWord)
    }

    #[inline]
    pub(super) fn unit(&self) -> u64 {
        if self.is_in_word() { ONE } else { 0 }
    }

    /// How many there are, when the ledger's word is this.
    pub(super) fn of(&self, word: InUse) -> u32 {
        match self {
            Self::InWord => word.count(),
            Self::Beside(own) => own.load(Ordering::Relaxed),
        }
    }
}
