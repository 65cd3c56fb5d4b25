//! Responses whose peers may stall.
//!
//! Nothing polls a body whose peer does not read, so no timer of its own would
//! fire: all of them are looked through at each full sample.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use slab::Slab;

/// A response on its way to a peer.
pub(crate) trait Stalls: Send + Sync {
    /// Its peer has left what is ready unread for `timeout`, and nobody has said so yet. `now`
    /// is of a clock that stands still where the process does.
    fn has_stalled(&self, timeout: Duration, now: Duration) -> bool;

    fn stall(&self);
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries(Mutex<Register>);

#[derive(Debug, Default)]
struct Register {
    deliveries: Slab<Weak<dyn Stalls>>,
    looked: Duration,
    /// What of the time so far counts.
    counted: Duration,
}

impl Register {
    /// A look. From one to the next half of the timeout counts at most: while the process
    /// stood still nobody was served, so one look alone ends nothing.
    fn look(&mut self, timeout: Duration, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.looked);
        self.looked += passed;
        self.counted += passed.min(timeout / 2);
        self.counted
    }
}

impl Deliveries {
    /// Watches one from now on; where it stands.
    pub(crate) fn watch(&self, delivery: Weak<dyn Stalls>) -> usize {
        self.lock().deliveries.insert(delivery)
    }

    /// For a guard that begins: its clock may be another, which is not as far.
    pub(crate) fn begin(&self) {
        let mut register = self.lock();
        (register.looked, register.counted) = Default::default();
    }

    pub(crate) fn are_none(&self) -> bool {
        self.lock().deliveries.is_empty()
    }

    pub(crate) fn forget(&self, place: usize) {
        self.lock().deliveries.remove(place);
    }

    /// Ends the deliveries that have been unread for `timeout`; says how many.
    pub(crate) fn end_stalled(&self, timeout: Duration, now: Duration) -> usize {
        let mut register = self.lock();
        let now = register.look(timeout, now);
        let upgraded = |(_, delivery): (_, &Weak<dyn Stalls>)| delivery.upgrade();
        let mut stalled: Vec<_> = register.deliveries.iter().filter_map(upgraded).collect();
        // Unlocked: the last owner of a delivery takes it off the register.
        drop(register);
        stalled.retain(|delivery| delivery.has_stalled(timeout, now));
        stalled.iter().for_each(|delivery| delivery.stall());
        stalled.len()
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_counts_from_its_own_clock_on() {
        let deliveries = Deliveries::default();
        let look = |second| {
            let now = Duration::from_secs(second);
            deliveries.lock().look(Duration::from_secs(6), now)
        };
        look(600);
        deliveries.begin();
        let first = look(1);
        assert_eq!(look(3) - first, Duration::from_secs(2));
    }
}
