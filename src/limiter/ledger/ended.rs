//! What has ended: it counts as reserved until a sample has shown what is left of it.

use super::{Ledger, Released};
use crate::class::tag::Tag;
use crate::limiter::bounds::Bounds;
use crate::limiter::word::Packed;
use crate::sync::Ordering;

impl Ledger {
    /// [`release`](Self::release) of bytes that were used: they count as reserved until
    /// they are [settled](Self::settle). Where no bytes are bounded, nothing needs to be
    /// settled.
    #[inline]
    pub(crate) fn finish(&self, bounds: &Bounds, kib: u64, tag: Tag) -> Released {
        if !bounds.limits().bounds_kib() {
            return self.release(bounds, kib, tag);
        }
        self.count_out(bounds);
        bounds.let_go(tag, kib);
        let of_tenant = bounds.shares.leave(tag.tenant, 1, kib);
        // Before the release: whoever sees the one sees the other.
        self.finished_kib.add(kib);
        let before = self.word.fetch_sub(bounds.count.unit(), Ordering::AcqRel);
        Released {
            somebody_waits: Packed(before).flag(),
            of_tenant,
        }
    }

    /// What ended before this is seen after it, and who ends after this sees what was done
    /// before it.
    pub(crate) fn meet_ends(&self) {
        // AcqRel: each end changes the word, too, so that one of the two comes second.
        self.word.fetch_or(0, Ordering::AcqRel);
    }

    /// KiB that were ever given back after use.
    pub(crate) fn finished_kib(&self) -> u64 {
        self.finished_kib.total()
    }

    /// What had been given back when it was so much is free: a sample was begun then,
    /// and the limits that follow from it are published.
    pub(crate) fn settle(&self, finished_kib: u64) {
        let more = |settled_kib| (finished_kib > settled_kib).then_some(finished_kib);
        let before = self
            .settled_kib
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let Ok(settled_kib) = before {
            self.word
                .fetch_sub(finished_kib - settled_kib, Ordering::AcqRel);
        }
    }

    /// What is in flight, without what has ended and is not settled.
    pub(crate) fn in_use(&self) -> Packed {
        self.unended(self.load())
    }

    /// The same of a word that was loaded before: what is settled in between is on it
    /// still, and counts.
    pub(super) fn unended(&self, word: Packed) -> Packed {
        let settled_kib = self.settled_kib.load(Ordering::Relaxed);
        let ended_kib = self.finished_kib().saturating_sub(settled_kib);
        let kib = word.kib().saturating_sub(ended_kib);
        Packed::new(word.flag(), word.count(), kib)
    }
}
