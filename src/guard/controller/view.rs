//! What requests, metrics and the dashboard look at.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::demand::Load;
use super::{Control, Controller};
use crate::units::MAX_KIB;

impl Controller {
    /// What is watched.
    pub(crate) fn source_name(&self) -> String {
        self.sampler.source_name(self.source)
    }

    /// Where memory ends; `u64::MAX` while no limit is known.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// What is larger never fits; `u64::MAX` where nothing is killed.
    pub(crate) fn kill_bytes(&self) -> u64 {
        self.kill_bytes.load(Ordering::Relaxed)
    }

    #[cfg(feature = "account")]
    pub(super) fn allocated_bytes(&self) -> Option<u64> {
        crate::running::charge::allocated_bytes()
    }

    #[cfg(not(feature = "account"))]
    pub(super) fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    /// What the demand is computed from.
    pub(super) fn load(&self, control: &Control, now: Duration) -> Load {
        Load {
            now,
            utilisation: self.utilisation(),
            turned_away: self.counters.rejected_for_memory(),
            completed: control.completed,
            waiting: self.limiter.waiting_for(&self.bounds) as u64,
            wait_timeout: self.config().wait_timeout,
        }
    }

    /// How much of what may be admitted is: of the bytes, or of the count if that is more.
    /// Never more than all: where nothing may be admitted, whatever is there is all.
    fn utilisation(&self) -> f64 {
        let caps = self.bounds.caps();
        let share = |used: u64, of: u64| (used as f64 / of.max(1) as f64).min(1.0);
        let count = share(
            self.limiter.in_flight(&self.bounds).into(),
            caps.count().into(),
        );
        match caps.kib() {
            MAX_KIB => count,
            kib => count.max(share(self.limiter.reserved().kib(), kib)),
        }
    }

    /// Requests that were admitted, ever.
    #[cfg(any(feature = "metrics", feature = "dashboard"))]
    pub(crate) fn ever_admitted(&self) -> u64 {
        // In this order: one that ends in between is not counted twice.
        let ended = self.counters.outcomes.all_ended();
        let ready = self.ready.count();
        let active = u64::from(self.limiter.in_flight(&self.bounds));
        ended + active.saturating_sub(ready)
    }

    /// Counts by class and priority, those of plain requests first.
    #[cfg(any(feature = "metrics", feature = "dashboard"))]
    pub(crate) fn sorts(&self) -> Vec<crate::telemetry::tally::Entry> {
        self.counters.tally.entries(self.ever_admitted())
    }

    /// What the next request of each class needs, in bytes: its mean, with its part of
    /// the margin. Without accounting no classes are told apart.
    #[cfg(feature = "metrics")]
    pub(super) fn class_estimates(&self, control: &Control) -> Vec<(&str, u64)> {
        let plain = control
            .forecast
            .by_kind()
            .filter(|(key, ..)| !key.is_hinted());
        let mut estimates: Vec<_> = plain
            .map(|(key, bytes, _)| (self.labels.name(key), bytes))
            .collect();
        if estimates.is_empty() {
            estimates.push(("", control.request_bytes));
        }
        estimates
    }

    /// The same with the least that is known of each, in bytes, and whether it is for
    /// requests with a cost hint: then for one of 16 MiB.
    #[cfg(feature = "dashboard")]
    pub(crate) fn class_needs(&self) -> Vec<(String, bool, u64, u64)> {
        let control = self.control();
        let kinds = control.forecast.by_kind();
        let needs = kinds.map(|(key, bytes, least_bytes)| {
            let class = self.labels.name(key).to_owned();
            (class, key.is_hinted(), bytes, least_bytes)
        });
        let mut needs: Vec<_> = needs.collect();
        if needs.is_empty() {
            needs.push((String::new(), false, control.request_bytes, 0));
        }
        needs
    }
}
