//! Every metric: its name, kind, unit, labels and meaning. `docs/metrics.md` is made
//! of this.

use ::metrics::Unit;

/// A metric, as it is described to the recorder and in the documentation.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    /// Beside `guard`, which every metric of a named guard has.
    #[cfg(test)]
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($id:ident $name:literal $kind:ident $unit:ident $labels:tt $help:literal)*) => {
        $(pub(super) const $id: &str = concat!("memory_guard_", $name);)*
        pub(super) const METRICS: &[Metric] = &[$(Metric {
            name: $id,
            kind: Kind::$kind,
            unit: Unit::$unit,
            #[cfg(test)]
            labels: &$labels,
            help: $help,
        }),*];
    };
}

metrics! {
    REJECTED "rejected_requests_total" Counter Count ["reason", "class", "priority"]
        "Requests turned away."
    ADMITTED "admitted_requests_total" Counter Count ["class", "priority"]
        "Requests that were given a permit, at once or after a wait."
    REQUESTS "requests_total" Counter Count []
        "Requests that came: those that are active or wait, and those completed, failed, abandoned and rejected, each once."
    COMPLETED "completed_requests_total" Counter Count []
        "Requests that were answered, errors such as 500 included; work that is no request and has ended."
    FAILED "failed_requests_total" Counter Count []
        "Requests whose service returned an error or panicked, or whose response's body did."
    ABANDONED "abandoned_requests_total" Counter Count ["while"]
        "Requests whose callers were gone while they were waiting, or while they were running: before the end of the response, or without reading it."
    QUEUED "queued_requests_total" Counter Count []
        "Requests that had to wait for memory, whatever became of them."
    OBSERVED "observed_requests_total" Counter Count []
        "Requests that mode observe let pass and enforce would have held back."
    CANCELLATIONS "cancellations_total" Counter Count []
        "Requests told to stop, to save the others."
    STALLED "stalled_responses_total" Counter Count []
        "Responses ended because their peer did not read."
    PAUSES "pauses_total" Counter Count []
        "Pauses of requests, bodies and followed work that would have grown, of all guards of the process."
    PAUSED_SECONDS "paused_seconds_total" Counter Seconds ["class"]
        "For how long requests were paused, all of a class together, in whole seconds. Counted when a pause ends."
    OBSERVED_PAUSES "observed_pauses_total" Counter Count []
        "Polls that mode observe let pass and enforce would have put off."
    ACTIVE "active_tasks" Gauge Count []
        "Requests that hold a permit."
    PAUSED "paused_tasks" Gauge Count []
        "Requests, bodies and followed work that are paused until there is room to grow, of all guards of the process."
    WAITING "waiting_requests" Gauge Count []
        "Requests that wait for memory."
    CONCURRENCY "current_concurrency" Gauge Count []
        "Requests that may be active at the present level; +Inf: any number."
    BASE_CONCURRENCY "base_concurrency" Gauge Count []
        "Requests that may be active at level NORMAL; +Inf: any number."
    PERCENT "memory_percent" Gauge Percent []
        "Memory in use, in percent of the limit (0-100), at the fullest level."
    LEVEL "level" Gauge Count []
        "Pressure level: 0 NORMAL, 1 STABLE, 2 WARNING, 3 HIGH, 4 CRITICAL."
    THRESHOLD "threshold_percent" Gauge Percent ["level"]
        "Where a level begins, in percent of the limit (0-100)."
    USAGE "usage_bytes" Gauge Bytes []
        "Memory in use that cannot be had back at once."
    ALLOCATED "allocated_bytes" Gauge Bytes []
        "Memory that the process has allocated; without the tracking allocator, its resident memory."
    LIMIT "limit_bytes" Gauge Bytes []
        "Memory at which something is killed or, where nothing is, the kernel throttles. Not published while no limit is known."
    RESERVED "reserved_bytes" Gauge Bytes []
        "Memory reserved for requests in flight, by all guards of the process."
    FORECAST "forecast_bytes" Gauge Bytes []
        "Memory forecast to be in use if nobody else is admitted."
    DEMAND "demand_ratio" Gauge Count []
        "What would be in use if everybody could be served, over what may be: about 3 at three times what can be served."
    LATCHED "latched_seconds" Gauge Seconds []
        "For how long memory has had room for nobody, while nobody was admitted and nobody finished; else 0."
    WAIT "wait_seconds" Histogram Seconds ["outcome"]
        "How long requests waited that were admitted, or rejected, in the end; to a tenth."
    OLDEST_WAITER "oldest_waiter_seconds" Gauge Seconds []
        "How long the oldest of those that wait has waited."
    EXPECTED_WAIT "expected_wait_seconds" Gauge Seconds []
        "What one more request may expect to wait."
    WAIT_ERROR "wait_forecast_error_seconds" Gauge Seconds []
        "How far forecasts of waits were off lately, on average."
    WAITS "wait_forecasts_total" Counter Count []
        "Forecasts of waits checked against how long they were."
    ESTIMATE "estimate_bytes" Gauge Bytes ["class"]
        "What the next request of a class is expected to need. With the tracking allocator for each class that has come, else for all together."
    ESTIMATE_ERROR "estimate_error_ratio" Gauge Count []
        "How far requests' peaks were from what was expected when they began, on average over the last ones, as a share of the peak. 0 without the tracking allocator."
    FORECASTS "forecasts_total" Counter Count []
        "Forecasts checked against what requests went on to need."
    EXCEEDED "forecast_exceedances_total" Counter Count []
        "Forecasts that were exceeded; one in a thousand is meant to be."
    RELEASES "releases_total" Counter Count []
        "Attempts to give memory back, by allocators and hooks."
    RELEASED "released_bytes_total" Counter Bytes []
        "Memory that was given back, as far as usage showed it."
    SAMPLES "samples_total" Counter Count []
        "Full samples of memory, failed ones included."
    CAUGHT_PANICS "caught_panics_total" Counter Count []
        "Panics in code that the guard calls (hooks, sources, responders, classifiers, wakers, recorder, subscriber) and that it passed over, of all guards of the process."
    SENSOR_ERRORS "sensor_errors_total" Counter Count []
        "Samples that failed."
    SAMPLE_AGE "sample_age_seconds" Gauge Seconds []
        "Time since memory could last be read, as of the last attempt."
    SAMPLED_AT "last_sample_timestamp_seconds" Gauge Seconds []
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
default), so any exporter shows them. The guard's sampler publishes them at most once a
second; nothing is looked up, recorded or allocated while a request passes. A recorder
that is installed after the guard still gets all of them but the waits before.

Guards with a name (`MemoryGuardLayer::builder().name(…)`) add the label `guard`. Labels
are bounded: at most 64 classes (the last one is `other`, and requests without a class have
an empty one), four priorities and ten reasons. Series of a class, and of a class and
priority, appear once such a request has come; those of every reason are there from the start.

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
                format!("{:?}", metric.kind).to_lowercase(),
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
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
            let bytes = metric.name.contains("_bytes");
            assert_eq!(bytes, metric.unit == Unit::Bytes, "{}", metric.name);
            let plain = metric.name.trim_end_matches("_total");
            let seconds = plain.ends_with("_seconds");
            assert_eq!(seconds, metric.unit == Unit::Seconds, "{}", metric.name);
        }
    }
}
