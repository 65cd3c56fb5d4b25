//! What the samples act on, before the first.

use std::time::Duration;

use super::Control;
use crate::config::{self, Config};
use crate::forecast::Forecast;
use crate::policy::ladder::Ladder;
use crate::policy::predictive::Predictive;
use crate::policy::{Decision, Strategy};
use crate::pressure::Pressure;

impl Control {
    /// Nothing is known yet.
    pub(super) fn new(config: &Config, accounted: bool) -> Self {
        let strategy = strategy(config, accounted);
        let mut forecast = Forecast::new(
            config.estimated_bytes_per_request,
            config.exceedance_target,
            accounted,
        );
        forecast.set_brakes(config.enabled && config.max_pause > Duration::ZERO);
        forecast.set_pausing_target(config.pausing_target);
        let base = strategy.blind_concurrency();
        Self {
            strategy,
            forecast,
            levels: Vec::new(),
            decision: Decision {
                pressure: Pressure::Normal,
                base_concurrency: base,
                concurrency: base,
                allowance_bytes: u64::MAX,
                free_bytes: u64::MAX,
                gate: false,
                probes: None,
            },
            new_limit: None,
            process_bytes: 0,
            own_bytes: 0,
            braking: Default::default(),
            cancellations: Default::default(),
            patience: Default::default(),
            demand: Default::default(),
            kept_out: false,
            latched: Default::default(),
            critical: Default::default(),
            request_bytes: config.estimated_bytes_per_request,
            next_bytes: config.estimated_bytes_per_request,
            probes: 0,
            completed: 0,
            blind: false,
            samples: 0,
            sensor_errors: 0,
            said_no_limit: false,
            last: Default::default(),
            notices: Vec::new(),
        }
    }
}

/// Who decides, as `config` has it.
pub(super) fn strategy(config: &Config, accounted: bool) -> Box<dyn Strategy> {
    match config.decided_policy() {
        config::Policy::Predictive => Box::new(Predictive::new(config, accounted)),
        _ => Box::new(Ladder::new(config)),
    }
}
