//! Guards that begin on a ledger, and those that are gone from it.

use std::sync::Arc;

use super::{Bounds, GuardCount, Limiter, TenantTable};
use crate::sync::{Ordering, lock};

impl Limiter {
    /// Bounds for one more guard on this ledger.
    pub(crate) fn join(&self, tenants: Arc<TenantTable>) -> Arc<Bounds> {
        self.guards.fetch_add(1, Ordering::Relaxed);
        let count = match self.counts_in_word.swap(1, Ordering::Relaxed) {
            0 => GuardCount::InWord,
            _ => GuardCount::beside(),
        };
        Arc::new(Bounds::new(count, tenants))
    }

    /// A guard is gone, and with it all that it had in flight.
    pub(crate) fn leave(&self, bounds: &Bounds) {
        self.guards.fetch_sub(1, Ordering::Relaxed);
        if bounds.count.is_in_word() {
            self.counts_in_word.store(0, Ordering::Relaxed);
        }
    }

    /// Another guard begins with the bounds of one that is gone; `false`: yet another one
    /// has its place by now.
    pub(crate) fn join_again(&self, bounds: &Bounds) -> bool {
        if bounds.count.is_in_word() && self.counts_in_word.swap(1, Ordering::Relaxed) != 0 {
            return false;
        }
        self.guards.fetch_add(1, Ordering::Relaxed);
        bounds.forget();
        true
    }

    /// Nobody is in flight, nor waits: as if nobody had ever done so.
    pub(crate) fn forget(&self) {
        self.ledger.confirm_freed(self.ledger.ended_kib());
        lock(&self.queue).forecast = Default::default();
        self.now_ms.store(0, Ordering::Relaxed);
    }
}
