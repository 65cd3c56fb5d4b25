//! What the samples act on, before the first; and what is shown of it.

use std::time::Duration;

use super::Control;
use crate::config::Config;
use crate::forecast::Forecast;
use crate::guard::state::Summary;
use crate::policy::{Decision, Strategy};

impl Control {
    /// Nothing is known yet.
    pub(super) fn new(config: &Config, accounted: bool) -> Self {
        let strategy = Strategy::new(config, accounted);
        let mut forecast = Forecast::new(
            config.estimated_bytes_per_request,
            config.exceedance_target,
            accounted,
        );
        forecast.set_brakes(config.enabled && config.max_pause > Duration::ZERO);
        forecast.set_pausing_target(config.pausing_target);
        Self {
            decision: Decision::blind(&strategy),
            strategy,
            forecast,
            levels: Vec::new(),
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
            drain_ns: 0,
            forgives_at: Duration::ZERO,
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

    /// What it says of memory, and of what may be admitted.
    pub(super) fn summary(&self) -> Summary {
        let (decision, forecast) = (&self.decision, &self.forecast);
        let usage_bytes = self.levels.first().map_or(0, |level| level.usage_bytes);
        Summary {
            concurrency: decision.concurrency,
            base_concurrency: decision.base_concurrency,
            usage_bytes,
            process_bytes: self.process_bytes,
            request_bytes: self.request_bytes,
            blind: self.blind,
            kept_out: self.kept_out,
            outstanding: Some(forecast.outstanding()),
            error_ratio: forecast.error_ratio(),
            margin_deviations: forecast.margin_deviations(),
            checked: forecast.checked(),
        }
    }
}
