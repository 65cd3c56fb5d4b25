//! What may be reserved, and what is asked for.

use super::ledger::{MAX_COUNT, MAX_KIB, ONE, Packed};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// What is reserved for it.
    pub(crate) kib: u64,
    /// What it is known to need at least: enough to start it when nothing else runs.
    pub(crate) low_kib: u64,
}

/// What a waiter needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// What its guard estimates when its turn comes: estimates are corrected
    /// while it waits.
    Estimated,
    Known(Ask),
}

impl Need {
    pub(super) fn ask(self, bounds: &Bounds) -> Ask {
        match self {
            Need::Estimated => bounds.estimate(),
            Need::Known(ask) => ask,
        }
    }
}

/// What one guard may reserve; written by its controller at every sample.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Gate flag, most requests in flight, most KiB reserved.
    limits: AtomicU64,
    /// Above this many reserved KiB an admission refreshes the sample first.
    pub(super) refresh_kib: AtomicU64,
    /// KiB free below the hard limit, for a request that comes when nothing runs.
    pub(super) idle_kib: AtomicU64,
    /// KiB that had ever been given back when the last sample was taken.
    pub(super) settled_kib: std::sync::atomic::AtomicU64,
    /// What a request is estimated to ask for.
    request_kib: AtomicU64,
    low_kib: AtomicU64,
    /// Requests that may be admitted past the bounds, to find out whether
    /// memory that looks full really is.
    probes: AtomicU32,
    /// The count of a guard that is not the first on its ledger; the first
    /// one's is in the ledger's word, which saves it a second shared counter.
    pub(super) own_count: Option<AtomicU32>,
}

impl Bounds {
    pub(crate) fn new(first: bool) -> Self {
        Self {
            limits: AtomicU64::new(Packed::new(false, MAX_COUNT, MAX_KIB).0),
            refresh_kib: AtomicU64::new(MAX_KIB),
            idle_kib: AtomicU64::new(MAX_KIB),
            settled_kib: std::sync::atomic::AtomicU64::new(0),
            request_kib: AtomicU64::new(1),
            low_kib: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            own_count: (!first).then(|| AtomicU32::new(0)),
        }
    }

    pub(crate) fn limits(&self) -> Packed {
        Packed(self.limits.load(Ordering::Acquire))
    }

    /// Publishes new bounds. The caller then pumps the queue (under its lock),
    /// which is what makes them visible to everybody who waits.
    pub(crate) fn publish(&self, limits: Packed, refresh_kib: u64, idle_kib: u64) {
        self.refresh_kib.store(refresh_kib, Ordering::Relaxed);
        self.idle_kib.store(idle_kib, Ordering::Relaxed);
        self.limits.store(limits.0, Ordering::Release);
    }

    /// A sample is about to be taken, when so many KiB have been given back.
    pub(crate) fn settle(&self, finished_kib: u64) {
        self.settled_kib.store(finished_kib, Ordering::Relaxed);
    }

    /// What a request is estimated to ask for.
    #[inline]
    pub(crate) fn estimate(&self) -> Ask {
        Ask {
            kib: self.request_kib.load(Ordering::Relaxed),
            low_kib: self.low_kib.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_estimate(&self, estimate: Ask) {
        self.request_kib.store(estimate.kib, Ordering::Relaxed);
        self.low_kib.store(estimate.low_kib, Ordering::Relaxed);
    }

    pub(crate) fn set_probes(&self, probes: u32) {
        self.probes.store(probes, Ordering::Relaxed);
    }

    pub(crate) fn probes(&self) -> u32 {
        self.probes.load(Ordering::Relaxed)
    }

    pub(crate) fn take_probe(&self) -> bool {
        self.probes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }

    /// What one request of this guard adds to the count in the word.
    pub(super) fn unit(&self) -> u64 {
        if self.counts_in_word() { ONE } else { 0 }
    }

    /// Its requests are counted in the ledger's word, not beside it.
    pub(crate) fn counts_in_word(&self) -> bool {
        self.own_count.is_none()
    }
}
