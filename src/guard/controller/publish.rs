//! What is published as metrics.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Controller;
use crate::policy::levels::thresholds;
use crate::telemetry::metrics::{Report, Sort};
use crate::telemetry::tally::Entry;

impl Controller {
    pub(super) fn publish_metrics(&self, now: Duration) {
        let stats = self.stats();
        let entries = self.sorts();
        let paused_ms = self.paused_ms(&entries);
        let sorts = entries.into_iter().map(|entry| Sort {
            class: self.labels.class_name(entry.class),
            priority: entry.priority,
            admitted: entry.admitted,
            rejected: entry.rejected,
        });
        let (samples, sensor_errors, good_at, estimates) = {
            let control = self.control();
            let estimates = self.class_estimates(&control);
            let last = control.last;
            (
                control.samples,
                control.sensor_errors,
                last.good_at,
                estimates,
            )
        };
        let counters = &self.counters;
        Report {
            name: self.name.as_deref(),
            stats,
            sorts: sorts.collect(),
            paused_ms,
            estimates,
            thresholds: thresholds(&self.config()).map(|(level, at)| (level.as_str(), at)),
            samples,
            sensor_errors,
            sample_age_seconds: now.saturating_sub(good_at).as_secs_f64(),
            cancellations: counters.cancelled.load(Ordering::Relaxed),
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
            let name = self.labels.class_name(class);
            (name, self.counters.tally.paused_ms(class))
        };
        classes.into_iter().map(paused_ms).collect()
    }
}
