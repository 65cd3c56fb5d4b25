//! Responses whose peers may stall.
//!
//! Nothing polls a body whose peer does not read, so no timer of its own would
//! fire: all of them are looked through at each full sample.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use slab::Slab;

/// A response on its way to a peer.
pub(crate) trait Stalls: Send + Sync {
    /// Its peer has left what is ready unread for `timeout`, and nobody has said so yet.
    fn has_stalled(&self, timeout: Duration, now: Duration) -> bool;

    fn stall(&self);
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries(Mutex<Slab<Weak<dyn Stalls>>>);

impl Deliveries {
    /// Watches one from now on; where it stands.
    pub(crate) fn watch(&self, delivery: Weak<dyn Stalls>) -> usize {
        self.lock().insert(delivery)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn forget(&self, place: usize) {
        self.lock().remove(place);
    }

    /// Ends the deliveries that have been unread for `timeout`; says how many.
    pub(crate) fn end_stalled(&self, timeout: Duration, now: Duration) -> usize {
        let upgraded = |(_, delivery): (_, &Weak<dyn Stalls>)| delivery.upgrade();
        let mut stalled: Vec<_> = self.lock().iter().filter_map(upgraded).collect();
        // Unlocked: the last owner of a delivery takes it off the register.
        stalled.retain(|delivery| delivery.has_stalled(timeout, now));
        stalled.iter().for_each(|delivery| delivery.stall());
        stalled.len()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Weak<dyn Stalls>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
