//! Metrics through the `metrics` facade, published with the samples.
//!
//! Nothing is recorded while a request passes: totals are published by the
//! sampler, at most once a second. Handles are asked for at each publication,
//! so a recorder that is installed after the guard still gets everything.

use ::metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};

use crate::error::Reason;
use crate::stats::{Counters, Stats};

const REJECTED: &str = "memory_guard_rejected_requests_total";
const COMPLETED: &str = "memory_guard_completed_requests_total";
const STALLED: &str = "memory_guard_stalled_responses_total";
const ACTIVE: &str = "memory_guard_active_tasks";
const WAITING: &str = "memory_guard_waiting_requests";
const CONCURRENCY: &str = "memory_guard_current_concurrency";
const PERCENT: &str = "memory_guard_memory_percent";
const USAGE: &str = "memory_guard_usage_bytes";
const LIMIT: &str = "memory_guard_limit_bytes";
const RESERVED: &str = "memory_guard_reserved_bytes";
const FORECAST: &str = "memory_guard_forecast_bytes";
const FORECASTS: &str = "memory_guard_forecasts_total";
const EXCEEDED: &str = "memory_guard_forecast_exceedances_total";
const RELEASES: &str = "memory_guard_releases_total";
const RELEASED: &str = "memory_guard_released_bytes_total";
const EXPECTED_WAIT: &str = "memory_guard_expected_wait_seconds";
const WAIT_ERROR: &str = "memory_guard_wait_forecast_error_seconds";
const WAITS: &str = "memory_guard_wait_forecasts_total";
const SENSOR_ERRORS: &str = "memory_guard_sensor_errors_total";

const MIB: f64 = (1 << 20) as f64;

/// Publishes the totals and the present state of one guard.
pub(crate) fn publish(name: Option<&str>, stats: &Stats, counters: &Counters, sensor_errors: u64) {
    describe();
    let labels = |extra: Option<Label>| -> Vec<Label> {
        name.map(|name| Label::new("guard", name.to_owned()))
            .into_iter()
            .chain(extra)
            .collect()
    };
    for reason in Reason::ALL {
        let rejected = counters.rejected(reason);
        let labels = labels(Some(Label::from_static_parts("reason", reason.as_str())));
        counter!(REJECTED, labels).absolute(rejected);
    }
    counter!(COMPLETED, labels(None)).absolute(stats.completed_requests);
    counter!(STALLED, labels(None)).absolute(stats.stalled_responses);
    counter!(SENSOR_ERRORS, labels(None)).absolute(sensor_errors);
    counter!(FORECASTS, labels(None)).absolute(stats.checked_forecasts);
    counter!(EXCEEDED, labels(None)).absolute(stats.exceeded_forecasts);
    counter!(RELEASES, labels(None)).absolute(stats.releases);
    counter!(RELEASED, labels(None)).absolute((stats.released_mb * MIB) as u64);
    gauge!(FORECAST, labels(None)).set((stats.memory_sys_mb + stats.outstanding_mb) * MIB);
    counter!(WAITS, labels(None)).absolute(stats.checked_waits);
    gauge!(EXPECTED_WAIT, labels(None)).set(stats.expected_wait_ms / 1e3);
    gauge!(WAIT_ERROR, labels(None)).set(stats.wait_error_ms / 1e3);
    gauge!(ACTIVE, labels(None)).set(stats.active_tasks as f64);
    gauge!(WAITING, labels(None)).set(stats.waiting_requests as f64);
    gauge!(CONCURRENCY, labels(None)).set(stats.current_concurrency as f64);
    gauge!(PERCENT, labels(None)).set(stats.memory_percent);
    gauge!(USAGE, labels(None)).set(stats.memory_sys_mb * MIB);
    gauge!(RESERVED, labels(None)).set(stats.reserved_mb * MIB);
    if let Some(limit) = stats.memory_limit_mb {
        gauge!(LIMIT, labels(None)).set(limit * MIB);
    }
}

fn describe() {
    describe_counter!(REJECTED, Unit::Count, "Requests turned away, by reason.");
    describe_counter!(
        COMPLETED,
        Unit::Count,
        "Requests whose permit was given back."
    );
    describe_counter!(
        STALLED,
        Unit::Count,
        "Responses ended because their peer did not read."
    );
    describe_counter!(
        FORECASTS,
        Unit::Count,
        "Forecasts checked against what requests went on to need."
    );
    describe_counter!(EXCEEDED, Unit::Count, "Forecasts that were exceeded.");
    describe_counter!(RELEASES, Unit::Count, "Attempts to give memory back.");
    describe_counter!(RELEASED, Unit::Bytes, "Memory that was given back.");
    describe_gauge!(
        FORECAST,
        Unit::Bytes,
        "Memory forecast to be in use if nobody else is admitted."
    );
    describe_counter!(
        WAITS,
        Unit::Count,
        "Forecasts of waits checked against how long they were."
    );
    describe_gauge!(
        EXPECTED_WAIT,
        Unit::Seconds,
        "What one more request may expect to wait."
    );
    describe_gauge!(
        WAIT_ERROR,
        Unit::Seconds,
        "How far forecasts of waits were off lately, on average."
    );
    describe_counter!(SENSOR_ERRORS, Unit::Count, "Samples that failed.");
    describe_gauge!(ACTIVE, Unit::Count, "Requests that hold a permit.");
    describe_gauge!(WAITING, Unit::Count, "Requests that wait for memory.");
    describe_gauge!(CONCURRENCY, Unit::Count, "Requests that may be active now.");
    describe_gauge!(
        PERCENT,
        Unit::Percent,
        "Memory in use, in percent of the limit (0-100)."
    );
    describe_gauge!(
        USAGE,
        Unit::Bytes,
        "Memory in use that cannot be had back at once."
    );
    describe_gauge!(LIMIT, Unit::Bytes, "Memory at which something is killed.");
    describe_gauge!(
        RESERVED,
        Unit::Bytes,
        "Memory reserved for requests in flight."
    );
}
