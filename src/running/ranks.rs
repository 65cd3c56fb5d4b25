//! Which rank each request in flight has.
//!
//! Of what a rank is made is fixed when a request is admitted, or changes only when some
//! begin, end or reserve more; but for the time that low work has been paused, which only
//! becomes longer. So who is paused keeps its place, and so does who goes on.

use std::collections::HashMap;
use std::time::Duration;

use super::place::rank;
use super::{Running, Slot};
use crate::class::Priority;

/// A tenant is beyond its share if it has so much more: reservations of requests that are
/// alike differ by what was estimated when they came.
const BEYOND: f64 = 9.0 / 8.0;

impl Running {
    /// Says of each where it stands: by priority, where work of low priority that has been
    /// paused for so long in all counts as normal, and by whether its tenant has more
    /// reserved than its part, by its weight, of what all have that are in flight.
    pub(crate) fn rank(&self, ages_after: Duration, now: Duration, weight: impl Fn(u16) -> u64) {
        let mut reserved: HashMap<u16, u64> = HashMap::new();
        for slot in self.in_flight() {
            *reserved.entry(slot.tag().tenant).or_default() += slot.reserved_kib();
        }
        let all_kib: u64 = reserved.values().sum();
        let weights: u64 = reserved.keys().map(|&tenant| weight(tenant)).sum();
        let is_beyond = |tenant: u16, kib: u64| {
            let share = all_kib as f64 * weight(tenant) as f64 / weights as f64;
            kib as f64 > share * BEYOND
        };
        reserved.retain(|&tenant, kib| is_beyond(tenant, *kib));
        for slot in self.in_flight() {
            let (generation, tag) = (slot.generation(), slot.tag());
            let priority = match tag.priority {
                Priority::Low if slot.paused(now) >= ages_after => Priority::Normal,
                other => other,
            };
            let is_beyond = reserved.contains_key(&tag.tenant);
            slot.set_rank(generation, rank(priority, is_beyond));
        }
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Slot> {
        let taken = self.shards.all().flat_map(|(_, shard)| shard.taken());
        let slots = taken.map(|(_, slot)| slot);
        slots.filter(|slot| slot.life.get().is_in_flight())
    }
}
