//! What the page shows, at one moment: the contents of `snapshot.json`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::config::Mode;
use crate::error::Reason;
use crate::guard::handle::{Guard, LATCHED_AFTER};
use crate::policy::levels::thresholds;

/// `estimates`: what was said of them last, for while they are made anew.
pub(super) fn take(guard: &Guard, estimates: &mut Vec<Value>) -> Value {
    let (state, config) = (guard.state(), guard.config());
    if let Some(newer) = newer_estimates(guard) {
        *estimates = newer;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let mode = match (config.enabled, config.mode) {
        (false, _) => "disabled",
        (true, Mode::Enforce) => "enforce",
        (true, Mode::Observe) => "observe",
    };
    let rejected = Reason::ALL.map(|reason| (reason.as_str(), state.rejected_for(reason)));
    json!({
        "name": state.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "at_unix_ms": since.map_or(0, |since| since.as_millis() as u64),
        "mode": mode,
        "policy": config.decided_policy().as_str(),
        "source": guard.source(),
        "accounted": state.is_accounted(),
        "closed": state.is_closed(),
        "ready": state.unready(LATCHED_AFTER).is_none(),
        "thresholds": thresholds(&config)
            .map(|(level, fraction)| json!({ "level": level, "percent": fraction * 100.0 })),
        "stats": state.stats(),
        "admitted_requests": state.ever_admitted(),
        // The one that has been paused longest of those that are: for how long, in all.
        "longest_paused_ms": state.longest_paused().as_secs_f64() * 1e3,
        "rejected": BTreeMap::from(rejected),
        "classes": classes(guard),
        "estimates": estimates,
        "decisions": state.recent(),
    })
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

fn newer_estimates(guard: &Guard) -> Option<Vec<Value>> {
    let needs = guard.class_needs()?.into_iter();
    let needs = needs.map(|(class, hinted, expected_bytes, least_bytes)| {
        json!({
            "class": class,
            // For requests with a cost hint: as for one of 16 MiB.
            "hinted": hinted,
            "expected_bytes": expected_bytes,
            "least_bytes": least_bytes,
        })
    });
    Some(needs.collect())
}
