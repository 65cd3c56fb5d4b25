//! What has ended: it counts as reserved until a sample has shown what is left of it.

use super::{Ledger, Released};
use crate::class::tag::Tag;
use crate::limiter::bounds::Bounds;
use crate::limiter::word::InUse;
use crate::sync::Ordering;

impl Ledger {
    /// [`cancel`](Self::cancel) of bytes that were used: they count as reserved until
    /// that is [confirmed](Self::confirm_freed). Where no bytes are bounded, nothing needs to be
    /// confirmed.
    #[inline]
    pub(in crate::limiter) fn complete(&self, bounds: &Bounds, kib: u64, tag: Tag) -> Released {
        if !bounds.caps().bounds_kib() {
            return self.cancel(bounds, kib, tag);
        }
        self.count_out(bounds);
        // Before the release: whoever sees the one sees the other.
        self.ended_kib.add(kib);
        self.give_back(bounds, 1, kib, tag, bounds.count.unit())
    }

    /// What ended before this is seen after it, and who ends after this sees what was done
    /// before it.
    pub(crate) fn meet_ends(&self) {
        // AcqRel: each end changes the word, too, so that one of the two comes second.
        self.word.fetch_or(0, Ordering::AcqRel);
    }

    /// KiB that were ever given back after use.
    pub(crate) fn ended_kib(&self) -> u64 {
        self.ended_kib.total()
    }

    /// What had been given back when it was so much is free: a sample was begun then,
    /// and the bounds that follow from it are published.
    pub(crate) fn confirm_freed(&self, ended_kib: u64) {
        let more = |freed_kib| (ended_kib > freed_kib).then_some(ended_kib);
        let before = self
            .freed_kib
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let Ok(freed_kib) = before {
            self.word.fetch_sub(ended_kib - freed_kib, Ordering::AcqRel);
        }
    }

    /// What is in flight, without what has ended and is not known to be free.
    pub(crate) fn reserved(&self) -> InUse {
        self.unended(self.load())
    }

    /// The same of a word that was loaded before: what is confirmed in between is on it
    /// still, and counts.
    pub(super) fn unended(&self, word: InUse) -> InUse {
        let freed_kib = self.freed_kib.load(Ordering::Relaxed);
        let unconfirmed_kib = self.ended_kib().saturating_sub(freed_kib);
        let kib = word.kib().saturating_sub(unconfirmed_kib);
        InUse::new(word.has_waiters(), word.count(), kib)
    }
}
