//! Other settings, while the guard runs.

use std::sync::atomic::Ordering;

use super::Regulator;
use crate::config::Config;
use crate::error::ConfigError;
use crate::policy::Strategy;
use crate::sync::lock;
use crate::telemetry::recent::EventKind;
use crate::units::kib;

impl Regulator {
    pub(crate) fn reload(&'static self, config: Config) -> Result<(), ConfigError> {
        let _alone = lock(&self.reloading);
        let state = &self.state;
        let old = state.config();
        let config = config.checked(&old)?;
        if *old == config {
            return Ok(());
        }
        {
            let mut control = self.control();
            control.strategy = Strategy::new(&config, state.is_accounted());
            let forecast = &mut control.forecast;
            forecast.set_prior(config.estimated_bytes_per_request);
            forecast.set_target(config.exceedance_target);
            forecast.set_pausing_target(config.pausing_target);
            state.live.set(config.clone());
            forecast.set_brakes(state.live.may_pause());
            // Granted by the policy that was.
            control.probes = 0;
            state.bounds.set_probes(0);
            state.shown.set_summary(control.summary());
        }
        self.begin(&config);
        if !state.live.may_pause() {
            // Nobody stays paused.
            self.sweep(state.sampler.now());
        }
        if state.live.only_observes() {
            state.let_all_in();
        }
        state.note(EventKind::Reloaded, "other settings are in force".into(), 0);
        self.log_settings("memory guard reloaded");
        Ok(())
    }

    /// What follows from settings, at the start and after a change.
    pub(super) fn begin(&'static self, config: &Config) {
        let bounds = &self.state.bounds;
        bounds.set_most_waiting(config.max_waiting);
        bounds.set_order(config.wait_timeout, config.newest_first_after);
        // Until it is enabled it reserves nothing that others on the ledger would miss.
        if config.enabled && !self.is_sampled.swap(true, Ordering::Relaxed) {
            bounds.set_unknown(kib(config.estimated_bytes_per_request), 0);
            self.state.sampler.subscribe(self, self.source);
        } else if config.enabled {
            self.state.sampler.sample_now();
            // It may rest for longer than from now on.
            self.state.sampler.unpark();
        }
    }
}
