//! What the allocator keeps of what was freed.

use std::time::Duration;

use super::Forecast;
use crate::forecast::retained::BeforeTrim;

/// What the allocator kept is counted on for so long, less what polls have added since, and
/// what is in use no more.
const KEPT_FOR: Duration = Duration::from_millis(500);
/// So much of what is in use is allocated where the two are about the same process.
const EXPLAINED: f64 = 0.5;
/// Less is not asked for, whoever is stuck.
const LEAST_KEPT_BYTES: f64 = (4u64 << 20) as f64;

/// When it was known what is allocated, and what polls had added and was in use by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) at: Duration,
    pub(super) grown_bytes: i64,
    pub(super) usage_bytes: f64,
}

impl Forecast {
    /// Allocated and not touched: in use before long.
    pub(crate) fn untouched_bytes(&self) -> f64 {
        // A source may measure something else than what this process allocates.
        let accounted = self.book.as_ref();
        accounted.map_or(0.0, |_| self.retained.untouched_bytes())
    }

    /// What the allocator keeps and is taken to use again, when polls have added so much
    /// ever.
    pub(crate) fn reusable_bytes(&self, grown_bytes: i64) -> f64 {
        match self.allocation_is_known() {
            true => self.left_of(self.retained.most_bytes(), grown_bytes) * self.retained.reuse(),
            false => 0.0,
        }
    }

    /// All that polls have added since may have been taken from it, and all that is in use
    /// no more have been given back: that is free, and would count twice.
    fn left_of(&self, kept_bytes: f64, grown_bytes: i64) -> f64 {
        let Some(told) = &self.told else {
            return 0.0;
        };
        let used_bytes = grown_bytes.saturating_sub(told.grown_bytes).max(0) as f64;
        (kept_bytes - used_bytes - self.returned_bytes()).max(0.0)
    }

    /// In use no more, since it was known what is allocated.
    pub(super) fn returned_bytes(&self) -> f64 {
        let told = self.told.as_ref();
        told.map_or(0.0, |told| (told.usage_bytes - self.usage_bytes).max(0.0))
    }

    fn allocation_is_known(&self) -> bool {
        let told = self.told.as_ref();
        told.is_some_and(|told| self.now.saturating_sub(told.at) <= KEPT_FOR)
    }

    /// The allocators gave back what they kept; this is what is left.
    pub(crate) fn trimmed(&mut self, before: BeforeTrim, usage_bytes: u64, allocated_bytes: u64) {
        if self.allocation_is_known() {
            self.retained
                .trimmed(before, usage_bytes as f64, allocated_bytes as f64);
        }
    }

    /// A trim may give something back. Where nobody can tell it may: a source may measure
    /// something else than what this process allocates.
    pub(crate) fn is_worth_a_trim(&self) -> bool {
        let explained = self.retained.allocated_bytes >= self.usage_bytes * EXPLAINED;
        let can_tell = self.book.is_some() || (self.allocation_is_known() && explained);
        !can_tell || self.retained.is_worth_a_trim()
    }

    /// A trim may give something back, as far as can be told at all.
    pub(crate) fn may_trim(&self) -> bool {
        self.book.is_none() || self.retained.most_bytes() >= LEAST_KEPT_BYTES
    }

    /// What the allocator would give back if it had to.
    pub(crate) fn retained_bytes(&self) -> u64 {
        match self.allocation_is_known() {
            true => self.left_of(self.retained.bytes(), self.grown_bytes) as u64,
            false => 0,
        }
    }

    /// The same, as far as it is counted on: where it is not always known, not at all.
    pub(super) fn counted_on_bytes(&self) -> f64 {
        self.book.as_ref().map_or(0.0, |_| self.retained.bytes())
    }
}
