//! Metrics through the `metrics` facade, published with the samples.
//!
//! Nothing is recorded while a request passes: totals are published by the
//! sampler, at most once a second. Handles are asked for at each publication,
//! so a recorder that is installed after the guard still gets all totals.

mod table;

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::{
    Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::stats::Stats;
use super::wait_times::WaitTimes;
use crate::class::Priority;
use crate::error::Reason;
use table::{Kind, METRICS};

const MIB: f64 = (1 << 20) as f64;

/// What is published of one guard.
pub(crate) struct Report<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) stats: Stats,
    /// By class and priority, plain requests first.
    pub(crate) sorts: Vec<Sort<'a>>,
    /// For how long requests of a class were paused.
    pub(crate) paused_ms: Vec<(&'a str, u64)>,
    /// What a class's next request needs.
    pub(crate) estimates: Vec<(&'a str, u64)>,
    /// Where levels begin, as fractions.
    pub(crate) thresholds: [(&'static str, f64); 4],
    pub(crate) samples: u64,
    pub(crate) sensor_errors: u64,
    pub(crate) sample_age_seconds: f64,
    pub(crate) cancellations: u64,
    /// Of those admitted, and of those rejected.
    pub(crate) waits: [(&'static str, &'a WaitTimes); 2],
}

/// The counts of one class at one priority.
pub(crate) struct Sort<'a> {
    pub(crate) class: &'a str,
    pub(crate) priority: Priority,
    pub(crate) admitted: u64,
    pub(crate) rejected: [u64; Reason::ALL.len()],
}

impl Report<'_> {
    fn labels(&self, more: &[(&'static str, &str)]) -> Vec<Label> {
        let name = self.name.map(|name| Label::new("guard", name.to_owned()));
        let more = more
            .iter()
            .map(|&(key, value)| Label::new(key, value.to_owned()));
        name.into_iter().chain(more).collect()
    }

    fn count(&self, name: &'static str, total: u64) {
        counter!(name, self.labels(&[])).absolute(total);
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name, self.labels(&[])).set(value);
    }

    fn set_bound(&self, name: &'static str, bound: Option<u64>) {
        let bound = bound.map_or(f64::INFINITY, |bound| bound as f64);
        self.set(name, bound);
    }

    /// Publishes everything.
    pub(crate) fn publish(&self) {
        describe();
        self.publish_requests();
        self.publish_memory();
        self.publish_forecasts();
        self.count(table::SAMPLES, self.samples);
        self.count(table::CAUGHT_PANICS, self.stats.caught_panics);
        self.count(table::SENSOR_ERRORS, self.sensor_errors);
        self.set(table::SAMPLE_AGE, self.sample_age_seconds);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.set(table::SAMPLED_AT, now.map_or(0.0, |now| now.as_secs_f64()));
    }

    fn publish_requests(&self) {
        let stats = &self.stats;
        for (at, sort) in self.sorts.iter().enumerate() {
            let of = [("class", sort.class), ("priority", sort.priority.as_str())];
            counter!(table::ADMITTED, self.labels(&of)).absolute(sort.admitted);
            for reason in Reason::ALL {
                let rejected = sort.rejected[reason as usize];
                // Of plain requests all, so that rates begin at 0.
                if at == 0 || rejected > 0 {
                    let of = [("reason", reason.as_str()), of[0], of[1]];
                    counter!(table::REJECTED, self.labels(&of)).absolute(rejected);
                }
            }
        }
        self.count(table::REQUESTS, stats.total_requests);
        self.count(table::COMPLETED, stats.completed_requests);
        self.count(table::FAILED, stats.failed_requests);
        for (when, abandoned) in [
            ("waiting", stats.abandoned_waiting_requests),
            ("running", stats.abandoned_requests),
        ] {
            let labels = self.labels(&[("while", when)]);
            counter!(table::ABANDONED, labels).absolute(abandoned);
        }
        self.count(table::QUEUED, stats.queued_requests);
        self.count(table::OBSERVED, stats.observed_requests);
        self.count(table::CANCELLATIONS, self.cancellations);
        self.count(table::STALLED, stats.stalled_responses);
        self.count(table::PAUSES, stats.pauses);
        for &(class, ms) in &self.paused_ms {
            counter!(table::PAUSED_SECONDS, self.labels(&[("class", class)])).absolute(ms / 1000);
        }
        self.count(table::OBSERVED_PAUSES, stats.observed_pauses);
        self.set(table::ACTIVE, stats.active_tasks as f64);
        self.set(table::PAUSED, stats.paused_tasks as f64);
        self.set(table::WAITING, stats.waiting_requests as f64);
        self.set_bound(table::CONCURRENCY, stats.current_concurrency);
        self.set_bound(table::BASE_CONCURRENCY, stats.base_concurrency);
        self.set(table::DEMAND, stats.demand_ratio);
        for (outcome, waits) in &self.waits {
            let recorded = histogram!(table::WAIT, self.labels(&[("outcome", outcome)]));
            for (seconds, count) in waits.take().filter(|&(_, count)| count > 0) {
                recorded.record_many(seconds, count as usize);
            }
        }
    }

    fn publish_memory(&self) {
        let stats = &self.stats;
        self.set(table::PERCENT, stats.memory_percent);
        self.set(table::LEVEL, f64::from(stats.level as u8));
        for (level, fraction) in self.thresholds {
            gauge!(table::THRESHOLD, self.labels(&[("level", level)])).set(fraction * 100.0);
        }
        self.set(table::USAGE, stats.memory_sys_mib * MIB);
        self.set(table::ALLOCATED, stats.memory_alloc_mib * MIB);
        if let Some(limit) = stats.memory_limit_mib {
            self.set(table::LIMIT, limit * MIB);
        }
        self.set(table::RESERVED, stats.reserved_mib * MIB);
        let forecast_mib = stats.memory_sys_mib + stats.outstanding_mib;
        self.set(table::FORECAST, forecast_mib * MIB);
        self.set(table::LATCHED, stats.latched_seconds);
        self.count(table::RELEASES, stats.releases);
        self.count(table::RELEASED, (stats.released_mib * MIB) as u64);
    }

    fn publish_forecasts(&self) {
        let stats = &self.stats;
        self.set(table::OLDEST_WAITER, stats.oldest_waiter_ms / 1e3);
        self.set(table::EXPECTED_WAIT, stats.expected_wait_ms / 1e3);
        self.set(table::WAIT_ERROR, stats.wait_error_ms / 1e3);
        self.count(table::WAITS, stats.checked_waits);
        for &(class, bytes) in &self.estimates {
            gauge!(table::ESTIMATE, self.labels(&[("class", class)])).set(bytes as f64);
        }
        self.set(
            table::ESTIMATE_ERROR,
            stats.estimate_error_ratio.unwrap_or(0.0),
        );
        self.count(table::FORECASTS, stats.checked_forecasts);
        self.count(table::EXCEEDED, stats.exceeded_forecasts);
    }
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}
