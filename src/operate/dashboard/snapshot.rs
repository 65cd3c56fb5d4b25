//! What the page shows, at one moment: the contents of `snapshot.json`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::config::Mode;
use crate::error::Reason;
use crate::guard::handle::{Guard, LATCHED_AFTER};
use crate::guard::state::State;
use crate::policy::levels::thresholds;
use crate::pressure::Pressure;
use crate::telemetry::recent::Event;
use crate::telemetry::stats::Stats;

#[derive(Debug, Serialize)]
pub(super) struct Snapshot<'a> {
    name: Option<&'a str>,
    version: &'static str,
    at_unix_ms: u64,
    mode: &'static str,
    policy: &'static str,
    source: String,
    accounted: bool,
    closed: bool,
    ready: bool,
    level: Pressure,
    sensor_ok: bool,
    latched_seconds: f64,
    demand_ratio: f64,
    memory: Memory,
    thresholds: Vec<Threshold>,
    concurrency: Concurrency,
    queue: Queue,
    paused: Paused,
    totals: Totals,
    rejected: serde_json::Map<String, serde_json::Value>,
    classes: Vec<Class<'a>>,
    estimates: Vec<Estimate>,
    forecasts: Forecasts,
    decisions: Vec<Event>,
}

#[derive(Debug, Serialize)]
struct Memory {
    limit_bytes: Option<u64>,
    usage_bytes: u64,
    allocated_bytes: u64,
    reserved_bytes: u64,
    forecast_bytes: u64,
    percent: f64,
}

#[derive(Debug, Serialize)]
struct Threshold {
    level: Pressure,
    percent: f64,
}

#[derive(Debug, Serialize)]
struct Concurrency {
    active: u64,
    /// `None`: any number.
    limit: Option<u64>,
    base: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Queue {
    waiting: u64,
    oldest_ms: f64,
    expected_wait_ms: f64,
}

#[derive(Debug, Serialize)]
struct Paused {
    tasks: u64,
    /// For how long, in all, the one that has been paused longest of them.
    longest_ms: f64,
}

#[derive(Debug, Serialize)]
struct Totals {
    came: u64,
    admitted: u64,
    completed: u64,
    failed: u64,
    abandoned: u64,
    abandoned_waiting: u64,
    rejected: u64,
    queued: u64,
    observed: u64,
    cancelled: u64,
    stalled: u64,
    pauses: u64,
    paused_ms: f64,
    observed_pauses: u64,
    releases: u64,
    released_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Class<'a> {
    class: &'a str,
    priority: &'static str,
    admitted: u64,
    rejected: u64,
}

#[derive(Debug, Serialize)]
struct Estimate {
    class: String,
    /// For requests with a cost hint: as for one of 16 MiB.
    hinted: bool,
    expected_bytes: u64,
    least_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Forecasts {
    checked: u64,
    exceeded: u64,
    estimate_error_ratio: Option<f64>,
    margin_deviations: Option<f64>,
}

fn bytes(mib: f64) -> u64 {
    (mib * f64::from(1 << 20)) as u64
}

impl<'a> Snapshot<'a> {
    pub(super) fn take(guard: &'a Guard) -> Self {
        let (state, config) = (guard.state(), guard.config());
        let stats = state.stats();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mode = match (config.enabled, config.mode) {
            (false, _) => "disabled",
            (true, Mode::Enforce) => "enforce",
            (true, Mode::Observe) => "observe",
        };
        let thresholds = thresholds(&config).map(|(level, fraction)| Threshold {
            level,
            percent: fraction * 100.0,
        });
        Self {
            name: state.name(),
            version: env!("CARGO_PKG_VERSION"),
            at_unix_ms: since.map_or(0, |since| since.as_millis() as u64),
            mode,
            policy: config.decided_policy().as_str(),
            source: guard.source(),
            accounted: state.is_accounted(),
            closed: state.is_closed(),
            ready: state.unready(LATCHED_AFTER).is_none(),
            level: stats.level,
            sensor_ok: stats.sensor_ok,
            latched_seconds: stats.latched_seconds,
            demand_ratio: stats.demand_ratio,
            memory: Memory::of(&stats),
            thresholds: thresholds.into(),
            concurrency: Concurrency {
                active: stats.active_tasks,
                limit: stats.current_concurrency,
                base: stats.base_concurrency,
            },
            queue: Queue {
                waiting: stats.waiting_requests,
                oldest_ms: stats.oldest_waiter_ms,
                expected_wait_ms: stats.expected_wait_ms,
            },
            paused: Paused {
                tasks: stats.paused_tasks,
                longest_ms: state.longest_paused().as_secs_f64() * 1e3,
            },
            totals: Totals::of(&stats, state),
            rejected: rejected(state),
            classes: classes(state),
            estimates: estimates(guard),
            forecasts: Forecasts {
                checked: stats.checked_forecasts,
                exceeded: stats.exceeded_forecasts,
                estimate_error_ratio: stats.estimate_error_ratio,
                margin_deviations: stats.margin_deviations,
            },
            decisions: state.recent(),
        }
    }
}

impl Memory {
    fn of(stats: &Stats) -> Self {
        Self {
            limit_bytes: stats.memory_limit_mib.map(bytes),
            usage_bytes: bytes(stats.memory_sys_mib),
            allocated_bytes: bytes(stats.memory_alloc_mib),
            reserved_bytes: bytes(stats.reserved_mib),
            forecast_bytes: bytes(stats.memory_sys_mib + stats.outstanding_mib),
            percent: stats.memory_percent,
        }
    }
}

impl Totals {
    fn of(stats: &Stats, state: &State) -> Self {
        Self {
            came: stats.total_requests,
            admitted: state.ever_admitted(),
            completed: stats.completed_requests,
            failed: stats.failed_requests,
            abandoned: stats.abandoned_requests,
            abandoned_waiting: stats.abandoned_waiting_requests,
            rejected: stats.rejected_requests,
            queued: stats.queued_requests,
            observed: stats.observed_requests,
            cancelled: stats.cancelled_requests,
            stalled: stats.stalled_responses,
            pauses: stats.pauses,
            paused_ms: stats.paused_seconds_total * 1e3,
            observed_pauses: stats.observed_pauses,
            releases: stats.releases,
            released_bytes: bytes(stats.released_mib),
        }
    }
}

fn rejected(state: &State) -> serde_json::Map<String, serde_json::Value> {
    let counts = Reason::ALL.into_iter().map(|reason| {
        let count = state.rejected_for(reason);
        (reason.as_str().to_owned(), count.into())
    });
    counts.collect()
}

fn classes(state: &State) -> Vec<Class<'_>> {
    let sorts = state.sorts().into_iter().map(|sort| Class {
        class: state.labels().class_name(sort.class),
        priority: sort.priority.as_str(),
        admitted: sort.admitted,
        rejected: sort.rejected.iter().sum(),
    });
    sorts.collect()
}

fn estimates(guard: &Guard) -> Vec<Estimate> {
    let needs = guard.class_needs().into_iter();
    let needs = needs.map(|(class, hinted, expected_bytes, least_bytes)| Estimate {
        class,
        hinted,
        expected_bytes,
        least_bytes,
    });
    needs.collect()
}
