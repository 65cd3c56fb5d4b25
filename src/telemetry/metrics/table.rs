//! Every metric: its name, kind, unit, labels, meaning and values. `docs/metrics.md` is
//! made of this.

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::Unit;

use super::Report;
use crate::error::Reason;

const MIB: f64 = (1 << 20) as f64;

/// A metric, as it is described to the recorder and in the documentation.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    /// Beside `guard`, which every metric of a named guard has.
    #[cfg(test)]
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// Says the labels and the value of each series, and of a histogram how often it came.
    pub(super) series: fn(&Report<'_>, Say<'_>),
}

type Say<'a> = &'a mut dyn FnMut(&[(&'static str, &str)], f64, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    /// Of several guards, each of which tells all of it.
    SharedCounter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($name:literal $kind:ident $unit:ident $labels:tt |$($arg:tt),+| $value:expr, $help:literal)*) => {
        pub(super) const METRICS: &[Metric] = &[$(Metric {
            name: concat!("memory_guard_", $name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            #[cfg(test)]
            labels: &$labels,
            help: $help,
            series: series!(|$($arg),+| $value),
        }),*];
    };
}

macro_rules! series {
    (|$report:tt| $value:expr) => {
        |$report, say| say(&[], $value, 1)
    };
    (|$report:tt, $say:tt| $value:expr) => {
        |$report, $say| $value
    };
}

fn bounded(concurrency: Option<u64>) -> f64 {
    concurrency.map_or(f64::INFINITY, |bound| bound as f64)
}

metrics! {
    "rejected_requests_total" Counter Count ["reason", "class", "priority"]
        |r, say| for (at, (class, sort)) in r.sorts.iter().enumerate() {
            for reason in Reason::ALL {
                let rejected = sort.rejected[reason as usize];
                // Of plain requests all, so that rates begin at 0.
                if at == 0 || rejected > 0 {
                    let priority = ("priority", sort.priority.as_str());
                    let labels = [("reason", reason.as_str()), ("class", class), priority];
                    say(&labels, rejected as f64, 1);
                }
            }
        },
        "Requests turned away."
    "admitted_requests_total" Counter Count ["class", "priority"]
        |r, say| for (class, sort) in &r.sorts {
            let labels = [("class", *class), ("priority", sort.priority.as_str())];
            say(&labels, sort.admitted as f64, 1);
        },
        "Requests that were given a permit, at once or after a wait."
    "requests_total" Counter Count [] |r| r.stats.total_requests as f64,
        "Requests that came: those that are active or wait, and those completed, failed, abandoned and rejected, each once."
    "completed_requests_total" Counter Count [] |r| r.stats.completed_requests as f64,
        "Requests that were answered, errors such as 500 included; work that is no request and has ended."
    "failed_requests_total" Counter Count [] |r| r.stats.failed_requests as f64,
        "Requests whose service returned an error or panicked, or whose response's body did."
    "abandoned_requests_total" Counter Count ["while"]
        |r, say| {
            say(&[("while", "waiting")], r.stats.abandoned_waiting_requests as f64, 1);
            say(&[("while", "running")], r.stats.abandoned_requests as f64, 1);
        },
        "Requests whose callers were gone while they were waiting, or while they were running: before the end of the response, or without reading it."
    "queued_requests_total" Counter Count [] |r| r.stats.queued_requests as f64,
        "Requests that had to wait for memory, whatever became of them."
    "observed_requests_total" Counter Count [] |r| r.stats.observed_requests as f64,
        "Requests that mode observe let pass and enforce would have held back."
    "cancellations_total" Counter Count [] |r| r.stats.cancelled_requests as f64,
        "Requests told to stop, to save the others."
    "stalled_responses_total" Counter Count [] |r| r.stats.stalled_responses as f64,
        "Responses ended because their peer did not read."
    "pauses_total" SharedCounter Count [] |r| r.stats.pauses as f64,
        "Pauses of requests, bodies and followed work that would have grown, of all guards on the same ledger."
    "paused_seconds_total" Counter Seconds ["class"]
        |r, say| for &(class, ms) in &r.paused_ms {
            say(&[("class", class)], (ms / 1000) as f64, 1);
        },
        "For how long requests were paused, all of a class together, in whole seconds. Counted when a pause ends."
    "observed_pauses_total" Counter Count [] |r| r.stats.observed_pauses as f64,
        "Polls that mode observe let pass and enforce would have put off."
    "active_tasks" Gauge Count [] |r| r.stats.active_tasks as f64,
        "Requests that hold a permit."
    "paused_tasks" Gauge Count [] |r| r.stats.paused_tasks as f64,
        "Requests, bodies and followed work that are paused until there is room to grow, of all guards on the same ledger."
    "waiting_requests" Gauge Count [] |r| r.stats.waiting_requests as f64,
        "Requests that wait for memory."
    "current_concurrency" Gauge Count [] |r| bounded(r.stats.current_concurrency),
        "Requests that may be active at the present level; +Inf: any number."
    "base_concurrency" Gauge Count [] |r| bounded(r.stats.base_concurrency),
        "Requests that may be active at level NORMAL; +Inf: any number."
    "memory_percent" Gauge Percent [] |r| r.stats.memory_percent,
        "Memory in use, in percent of the limit, or of `memory.high` where that is lower (0-100), at the fullest level."
    "level" Gauge Count [] |r| f64::from(r.stats.level as u8),
        "Pressure level: 0 NORMAL, 1 STABLE, 2 WARNING, 3 HIGH, 4 CRITICAL."
    "enforcing" Gauge Count [] |r| f64::from(u8::from(r.enforces)),
        "1 where requests are held back and turned away; 0 in mode observe, while it is switched off, and once it is closed or nobody has it any more."
    "threshold_percent" Gauge Percent ["level"]
        |r, say| for (level, fraction) in r.thresholds {
            say(&[("level", level)], fraction * 100.0, 1);
        },
        "Where a level begins, in percent of the limit (0-100)."
    "usage_bytes" Gauge Bytes [] |r| r.stats.memory_sys_mib * MIB,
        "Memory in use that cannot be had back at once."
    "allocated_bytes" Gauge Bytes [] |r| r.stats.memory_alloc_mib * MIB,
        "Memory that the process has allocated; without the tracking allocator, its resident memory."
    "limit_bytes" Gauge Bytes [] |r| r.stats.memory_limit_mib.unwrap_or(0.0) * MIB,
        "Memory at which something is killed or, where nothing is, the kernel throttles. 0 while no limit is known."
    "reserved_bytes" Gauge Bytes [] |r| r.stats.reserved_mib * MIB,
        "Memory reserved for requests in flight, by all guards on the same ledger."
    "forecast_bytes" Gauge Bytes [] |r| (r.stats.memory_sys_mib + r.stats.outstanding_mib) * MIB,
        "Memory forecast to be in use if nobody else is admitted."
    "demand_ratio" Gauge Count [] |r| r.stats.demand_ratio,
        "What would be in use if everybody could be served, over what may be: about 3 at three times what can be served. In mode observe, where nobody waits, 1 at most."
    "latched_seconds" Gauge Seconds [] |r| r.stats.latched_seconds,
        "For how long memory has had room for nobody, while nobody was admitted and nobody finished; else 0."
    "wait_seconds" Histogram Seconds ["outcome"]
        |r, say| for (outcome, waits) in &r.waits {
            let waited = waits.take().filter(|&(_, count)| count > 0);
            // There from the start, as counts are.
            for (seconds, count) in [(0.0, 0)].into_iter().chain(waited) {
                say(&[("outcome", outcome)], seconds, count as usize);
            }
        },
        "How long requests waited that were admitted, or rejected, in the end; to a tenth."
    "oldest_waiter_seconds" Gauge Seconds [] |r| r.stats.oldest_waiter_ms / 1e3,
        "How long the oldest of those that wait has waited."
    "expected_wait_seconds" Gauge Seconds [] |r| r.stats.expected_wait_ms / 1e3,
        "What one more request may expect to wait."
    "wait_forecast_error_seconds" Gauge Seconds [] |r| r.stats.wait_error_ms / 1e3,
        "How far forecasts of waits were off lately, on average."
    "wait_forecasts_total" Counter Count [] |r| r.stats.checked_waits as f64,
        "Forecasts of waits checked against how long they were."
    "estimate_bytes" Gauge Bytes ["class"]
        |r, say| for &(class, bytes) in &r.estimates {
            say(&[("class", class)], bytes as f64, 1);
        },
        "What the next request of a class is expected to need. With the tracking allocator for each class of which some have come without a cost hint, else for all together."
    "estimate_error_ratio" Gauge Count [] |r| r.stats.estimate_error_ratio.unwrap_or(0.0),
        "How far requests' peaks were from what was expected when they began, on average over the last ones, as a share of the peak. 0 without the tracking allocator."
    "forecasts_total" Counter Count [] |r| r.stats.checked_forecasts as f64,
        "Forecasts checked against what requests went on to need."
    "forecast_exceedances_total" Counter Count [] |r| r.stats.exceeded_forecasts as f64,
        "Forecasts that were exceeded; one in a thousand is meant to be."
    "releases_total" Counter Count [] |r| r.stats.releases as f64,
        "Attempts to give memory back, by allocators and hooks."
    "released_bytes_total" Counter Bytes [] |r| r.stats.released_mib * MIB,
        "Memory that was given back, as far as usage showed it."
    "samples_total" Counter Count [] |r| r.samples as f64,
        "Full samples of memory, failed ones included."
    "caught_panics_total" SharedCounter Count [] |r| r.stats.caught_panics as f64,
        "Panics in code that the guard calls (hooks, sources, responders, classifiers, wakers, recorder, subscriber) and that it passed over, of all guards of the process."
    "sensor_errors_total" Counter Count [] |r| r.sensor_errors as f64,
        "Samples that failed."
    "sample_age_seconds" Gauge Seconds [] |r| r.sample_age_seconds,
        "Time since memory could last be read, as of the last attempt."
    "last_sample_timestamp_seconds" Gauge Seconds []
        |_, say| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            say(&[], now.map_or(0.0, |now| now.as_secs_f64()), 1);
        },
        "When the last attempt to read memory was made, since the epoch. It stands still if sampling has stopped."
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    const HEAD: &str = "\
# Metrics

<!-- Made from src/telemetry/metrics/table.rs: MEMORY_GUARD_WRITE_DOCS=1 cargo test --lib metrics -->

Published through the [`metrics`](https://docs.rs/metrics) facade (feature `metrics`, on by
default), so any exporter shows them. The guard's sampler publishes them once a second at
most, and with a full sample that finds another level or limit, or that memory cannot be read
or can again; of a source that no thread reads, with each full sample. A guard that is closed, once the last
request has ended, and one that nobody has any more publish what came last, with `enforcing` 0; of
a source that no thread reads, when another guard begins. Then it is also published whom a closed one,
which nobody has any more, has turned away since. Nothing is looked up, recorded or allocated
while a request passes. A recorder that is installed after the guard still gets all of them
but the waits before.

Guards with a name (`MemoryGuardLayer::builder().name(…)`) add the label `guard`. Labels
are bounded: at most 64 classes (the last one is `other`, and requests without a class have
an empty one), four priorities and ten reasons. Series of a class, and of a class and
priority, appear once such a request has come, with a reason once one was turned away for it;
those of every reason are there from the start for requests of no class and normal priority.

Counters of guards that share a name (or have none) add up, also those of a guard that takes
the place of another. `pauses_total` and `caught_panics_total` are not of one guard
alone, and are the largest that any of these guards told. Gauges are those of whoever published
last. Give guards names to tell them apart.

`memory_guard_wait_seconds` is recorded with the samples as well, each wait to a tenth of
its length. Give your exporter buckets for it, for example with
`metrics-exporter-prometheus`: 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30.

| name | kind | unit | labels | meaning |
|---|---|---|---|---|
";

    fn documentation() -> String {
        let rows = METRICS.iter().map(|metric| {
            let labels: Vec<_> = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let unit = match metric.unit {
                Unit::Bytes => "bytes",
                Unit::Seconds => "seconds",
                Unit::Percent => "percent",
                _ => "",
            };
            format!(
                "| `{}` | {} | {unit} | {} | {} |\n",
                metric.name,
                match metric.kind {
                    Kind::Counter | Kind::SharedCounter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram => "histogram",
                },
                labels.join(", "),
                metric.help
            )
        });
        HEAD.chars()
            .chain(rows.collect::<String>().chars())
            .collect()
    }

    #[test]
    fn the_documentation_says_what_is_published() {
        let made = documentation();
        if std::env::var_os("MEMORY_GUARD_WRITE_DOCS").is_some() {
            std::fs::write(PATH, &made).unwrap();
        }
        let written = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(
            written == made,
            "docs/metrics.md is out of date: MEMORY_GUARD_WRITE_DOCS=1 cargo test --lib metrics"
        );
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in METRICS {
            let total = metric.name.ends_with("_total");
            let counts = matches!(metric.kind, Kind::Counter | Kind::SharedCounter);
            assert_eq!(total, counts, "{}", metric.name);
            let bytes = metric.name.contains("_bytes");
            assert_eq!(bytes, metric.unit == Unit::Bytes, "{}", metric.name);
            let plain = metric.name.trim_end_matches("_total");
            let seconds = plain.ends_with("_seconds");
            assert_eq!(seconds, metric.unit == Unit::Seconds, "{}", metric.name);
        }
    }
}
