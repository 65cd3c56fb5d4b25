//! Metrics through the `metrics` facade, published with the samples.
//!
//! Nothing is recorded while a request passes: totals are published by the
//! sampler, at most once a second but where something is to be said. Handles are asked for at
//! each publication, so a recorder that is installed after the guard still gets all totals.

mod table;
mod totals;

use ::metrics::{
    Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::stats::Stats;
use super::tally::Entry;
use super::wait_times::WaitTimes;
use table::{Kind, METRICS};
pub(crate) use totals::Published;

/// What is published of one guard.
pub(crate) struct Report<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) published: &'a Published,
    pub(crate) stats: Stats,
    pub(crate) enforces: bool,
    /// By class and priority, plain requests first; with the class's name.
    pub(crate) sorts: Vec<(&'a str, Entry)>,
    /// For how long requests of a class were paused.
    pub(crate) paused_ms: Vec<(&'a str, u64)>,
    /// What a class's next request needs.
    pub(crate) estimates: Vec<(&'a str, u64)>,
    /// Where levels begin, as fractions.
    pub(crate) thresholds: [(&'static str, f64); 4],
    pub(crate) samples: u64,
    pub(crate) sensor_errors: u64,
    pub(crate) sample_age_seconds: f64,
    /// Of those admitted, and of those rejected.
    pub(crate) waits: [(&'static str, &'a WaitTimes); 2],
}

impl Report<'_> {
    pub(crate) fn publish(&self) {
        for metric in METRICS {
            let (name, unit, help) = (metric.name, metric.unit, metric.help);
            match metric.kind {
                Kind::Counter | Kind::SharedCounter => describe_counter!(name, unit, help),
                Kind::Gauge => describe_gauge!(name, unit, help),
                Kind::Histogram => describe_histogram!(name, unit, help),
            }
            (metric.series)(self, &mut |labels, value, times| {
                let labels = self.labels(labels);
                match metric.kind {
                    Kind::Counter => {
                        let total = self.published.total(name, &labels, value as u64);
                        counter!(name, labels).absolute(total);
                    }
                    Kind::SharedCounter => counter!(name, labels).absolute(value as u64),
                    Kind::Gauge => gauge!(name, labels).set(value),
                    Kind::Histogram if times == 0 => _ = histogram!(name, labels),
                    Kind::Histogram => histogram!(name, labels).record_many(value, times),
                }
            });
        }
    }

    fn labels(&self, more: &[(&'static str, &str)]) -> Vec<Label> {
        let name = self.name.map(|name| Label::new("guard", name.to_owned()));
        let more = more
            .iter()
            .map(|&(key, value)| Label::new(key, value.to_owned()));
        name.into_iter().chain(more).collect()
    }
}
