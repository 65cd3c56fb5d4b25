//! What is logged of the settings.

use super::Config;
#[cfg(feature = "tracing")]
use crate::telemetry::logs::{TARGET, said};
use crate::telemetry::stats::Stats;

/// All settings, at the start and after a change.
#[cfg(feature = "tracing")]
pub(crate) fn settings(
    what: &str,
    config: &Config,
    source: &str,
    stats: &Stats,
    state_problem: Option<&str>,
) {
    let [warning, high, critical] = config.thresholds();
    said(|| {
        tracing::info!(
            target: TARGET,
            enabled = config.enabled,
            source,
            policy = config.decided_policy().as_str(),
            mode = ?config.mode,
            memory_limit_mb = stats.memory_limit_mib,
            memory_percent = stats.memory_percent,
            base_concurrency = stats.base_concurrency,
            warning_fraction = warning,
            high_fraction = high,
            critical_fraction = critical,
            check_interval = ?config.check_interval,
            estimated_mem_per_req_mb = stats.estimated_mem_per_req_mib,
            max_result_size_bytes = config.max_result_size_bytes,
            wait_timeout = ?config.wait_timeout,
            max_waiting = config.max_waiting,
            share_fraction = config.share_fraction,
            on_sensor_failure = ?config.on_sensor_failure,
            cancel = config.cancel,
            exceedance_target = config.exceedance_target,
            body_timeout = ?config.body_timeout,
            tiers = config.tiers.len(),
            critical_reserve_fraction = config.critical_reserve_fraction,
            shed_low_at = config.shed_low_at.map(|level| level.as_str()),
            state = config.state.as_ref().map(|path| tracing::field::display(path.display())),
            state_problem,
            name = config.name,
            "{what}"
        );
    });
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn settings(_: &str, _: &Config, _: &str, _: &Stats, _: Option<&str>) {}
