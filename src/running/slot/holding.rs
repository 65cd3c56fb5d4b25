//! What a request holds, and whose it was.

use super::Slot;
use crate::sync::{AtomicU64, Ordering};

/// Of the word: bytes. Above them stand the lower bits of the generation.
const BYTES: u64 = (1 << 48) - 1;

fn whose(generation: u32) -> u64 {
    u64::from(generation) << 48
}

/// Bytes that the work has allocated and not freed, and of which of the requests that had
/// the slot: in one word, so that who means one of them does not hit another.
#[derive(Debug, Default)]
pub(super) struct Holding(AtomicU64);

impl Holding {
    /// Nothing, of the next request.
    pub(super) fn clear(&self, generation: u32) {
        self.0.store(whose(generation), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & BYTES
    }

    /// Never less than nothing. Says what it is now.
    #[inline]
    pub(super) fn add(&self, bytes: i64) -> u64 {
        let mut next = 0;
        let add = |held: u64| {
            next = (held & BYTES).saturating_add_signed(bytes).min(BYTES);
            Some(held & !BYTES | next)
        };
        let _ = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        next
    }

    /// Only of that one. Says what it is now; `None`: it is another one's by now.
    pub(super) fn change(&self, generation: u32, bytes: i64) -> Option<u64> {
        let mut next = 0;
        let change = |held: u64| {
            next = (held & BYTES).saturating_add_signed(bytes).min(BYTES);
            let same = held & !BYTES == whose(generation);
            same.then_some(held & !BYTES | next)
        };
        let changed = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        changed.ok().map(|_| next)
    }
}

/// A part of a request's work that its future does not own: what it holds stays when that
/// is dropped.
#[derive(Debug)]
#[cfg_attr(not(feature = "account"), allow(dead_code))]
pub(crate) struct Elsewhere(&'static Slot);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.elsewhere.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    /// To be dropped before the work's permit is.
    #[cfg_attr(not(feature = "account"), allow(dead_code))]
    pub(crate) fn begin_elsewhere(&'static self) -> Elsewhere {
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
        Elsewhere(self)
    }

    pub(in crate::running) fn works_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed) > 0
    }
}
