//! What the page shows, at one moment: the contents of `snapshot.json`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::config::{Config, Mode};
use crate::error::Reason;
use crate::guard::handle::{Guard, LATCHED_AFTER};
use crate::guard::state::State;
use crate::policy::levels::thresholds;
use crate::telemetry::stats::Stats;

fn bytes(mib: f64) -> u64 {
    (mib * f64::from(1 << 20)) as u64
}

pub(super) fn take(guard: &Guard) -> Value {
    let (state, config) = (guard.state(), guard.config());
    let stats = state.stats();
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    json!({
        "name": state.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "at_unix_ms": since.map_or(0, |since| since.as_millis() as u64),
        "mode": mode(&config),
        "policy": config.decided_policy().as_str(),
        "source": guard.source(),
        "accounted": state.is_accounted(),
        "closed": state.is_closed(),
        "ready": state.unready(LATCHED_AFTER).is_none(),
        "level": stats.level,
        "sensor_ok": stats.sensor_ok,
        "latched_seconds": stats.latched_seconds,
        "demand_ratio": stats.demand_ratio,
        "memory": {
            "limit_bytes": stats.memory_limit_mib.map(bytes),
            "usage_bytes": bytes(stats.memory_sys_mib),
            "allocated_bytes": bytes(stats.memory_alloc_mib),
            "reserved_bytes": bytes(stats.reserved_mib),
            "forecast_bytes": bytes(stats.memory_sys_mib + stats.outstanding_mib),
            "percent": stats.memory_percent,
        },
        "thresholds": thresholds(&config)
            .map(|(level, fraction)| json!({ "level": level, "percent": fraction * 100.0 })),
        // Without a limit: any number.
        "concurrency": {
            "active": stats.active_tasks,
            "limit": stats.current_concurrency,
            "base": stats.base_concurrency,
        },
        "queue": {
            "waiting": stats.waiting_requests,
            "oldest_ms": stats.oldest_waiter_ms,
            "expected_wait_ms": stats.expected_wait_ms,
        },
        // The one that has been paused longest of them: for how long, in all.
        "paused": {
            "tasks": stats.paused_tasks,
            "longest_ms": state.longest_paused().as_secs_f64() * 1e3,
        },
        "totals": totals(state, &stats),
        "rejected": rejected(guard),
        "classes": classes(guard),
        "estimates": estimates(guard),
        "forecasts": {
            "checked": stats.checked_forecasts,
            "exceeded": stats.exceeded_forecasts,
            "estimate_error_ratio": stats.estimate_error_ratio,
            "margin_deviations": stats.margin_deviations,
        },
        "decisions": state.recent(),
    })
}

fn mode(config: &Config) -> &'static str {
    match (config.enabled, config.mode) {
        (false, _) => "disabled",
        (true, Mode::Enforce) => "enforce",
        (true, Mode::Observe) => "observe",
    }
}

fn totals(state: &State, stats: &Stats) -> Value {
    json!({
        "came": stats.total_requests,
        "admitted": state.ever_admitted(),
        "completed": stats.completed_requests,
        "failed": stats.failed_requests,
        "abandoned": stats.abandoned_requests,
        "abandoned_waiting": stats.abandoned_waiting_requests,
        "rejected": stats.rejected_requests,
        "queued": stats.queued_requests,
        "observed": stats.observed_requests,
        "cancelled": stats.cancelled_requests,
        "stalled": stats.stalled_responses,
        "pauses": stats.pauses,
        "paused_ms": stats.paused_seconds_total * 1e3,
        "observed_pauses": stats.observed_pauses,
        "releases": stats.releases,
        "released_bytes": bytes(stats.released_mib),
    })
}

fn rejected(guard: &Guard) -> Map<String, Value> {
    let count = |reason| guard.state().rejected_for(reason).into();
    let counts = Reason::ALL.map(|reason| (reason.as_str().to_owned(), count(reason)));
    counts.into_iter().collect()
}

fn classes(guard: &Guard) -> Vec<Value> {
    let sorts = guard.state().sorts().into_iter().map(|sort| {
        json!({
            "class": guard.state().labels().class_name(sort.class),
            "priority": sort.priority.as_str(),
            "admitted": sort.admitted,
            "rejected": sort.rejected.iter().sum::<u64>(),
        })
    });
    sorts.collect()
}

fn estimates(guard: &Guard) -> Vec<Value> {
    let needs = guard.class_needs().into_iter();
    let needs = needs.map(|(class, hinted, expected_bytes, least_bytes)| {
        json!({
            "class": class,
            // For requests with a cost hint: as for one of 16 MiB.
            "hinted": hinted,
            "expected_bytes": expected_bytes,
            "least_bytes": least_bytes,
        })
    });
    needs.collect()
}
