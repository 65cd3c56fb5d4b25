//! What is published as metrics.

use std::time::Duration;

use super::{Control, Regulator};
use crate::policy::levels::thresholds;
use crate::telemetry::metrics::Report;
use crate::telemetry::tally::Entry;

impl Regulator {
    /// `over`: for the last time.
    pub(super) fn publish_metrics(&self, over: bool, now: Duration) {
        let stats = self.state.stats();
        let entries = self.state.sorts();
        let paused_ms = self.paused_ms(&entries);
        let class_name = |entry: &Entry| self.state.labels.class_name(entry.class);
        let sorts = entries.into_iter().map(|entry| (class_name(&entry), entry));
        let control = self.control();
        let estimates = self.class_estimates(&control);
        let (samples, sensor_errors) = (control.samples, control.sensor_errors);
        let good_at = control.last.good_at;
        drop(control);
        let counters = &self.state.counters;
        Report {
            name: self.state.name.as_deref(),
            published: &self.state.published,
            stats,
            enforces: !(over || self.state.live.only_observes() || self.state.is_closed()),
            sorts: sorts.collect(),
            paused_ms,
            estimates,
            thresholds: thresholds(&self.state.config()).map(|(level, at)| (level.as_str(), at)),
            samples,
            sensor_errors,
            sample_age_seconds: now.saturating_sub(good_at).as_secs_f64(),
            waits: [
                ("admitted", &counters.waited_then_admitted),
                ("rejected", &counters.waited_then_rejected),
            ],
        }
        .publish();
    }

    /// For how long requests were paused, of each class that has come.
    fn paused_ms(&self, entries: &[Entry]) -> Vec<(&str, u64)> {
        let mut classes: Vec<_> = entries.iter().map(|entry| entry.class).collect();
        // Entries of a class follow one another.
        classes.dedup();
        let paused_ms = |class| {
            let name = self.state.labels.class_name(class);
            (name, self.state.counters.tally.paused_ms(class))
        };
        classes.into_iter().map(paused_ms).collect()
    }

    /// What the next request of each class needs, in bytes: its mean, with its part of
    /// the margin. Without accounting no classes are told apart.
    fn class_estimates(&self, control: &Control) -> Vec<(&str, u64)> {
        let kinds = control.forecast.by_kind();
        let plain = kinds.filter(|(key, ..)| !key.is_hinted());
        let named = plain.map(|(key, bytes, _)| (self.state.labels.name(key), bytes));
        let mut estimates: Vec<_> = named.collect();
        // Of those of no class it is known from the start what they are taken for.
        if estimates.iter().all(|(class, _)| !class.is_empty()) {
            estimates.push(("", control.request_bytes));
        }
        estimates
    }
}
