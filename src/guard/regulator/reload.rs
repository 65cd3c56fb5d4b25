//! Other settings, while the guard runs.

use std::sync::atomic::Ordering;

use super::Regulator;
use crate::config::Config;
use crate::error::ConfigError;
use crate::policy::Strategy;
use crate::telemetry::recent::EventKind;
use crate::units::kib;

impl Regulator {
    pub(crate) fn reload(&'static self, config: Config) -> Result<(), ConfigError> {
        // One after the other, up to where others' code is called.
        let alone = self.reloading.lock();
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
            forecast.pausing.target = config.pausing_target;
            state.live.set(config.clone());
            forecast.brakes = state.live.may_pause();
            self.publish_estimates(forecast);
            // Granted by the policy that was.
            control.probes = 0;
            state.bounds.set_probes(0);
            let reserved_kib = state.limiter.reserved().kib();
            state
                .shown
                .change(|shown| control.show(reserved_kib, shown));
        }
        drop(alone);
        // By now another one may have changed them again.
        self.begin(&state.config());
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
            bounds.set_unknown([kib(config.estimated_bytes_per_request); 2], 0);
            self.state.sampler.subscribe(self, self.source);
        } else if config.enabled {
            self.state.sampler.sample_now();
            // It may rest for longer than from now on.
            self.state.sampler.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::running::brake::Stuck;
    use crate::{Cost, ManualSource, MemoryGuardLayer};

    #[tokio::test]
    async fn who_is_in_flight_as_a_guard_stops_pausing_is_gone_from_the_brake_when_it_ends() {
        for is_enabled in [true, false] {
            let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
            let layer = builder.cancel(true).build().unwrap();
            let (guard, state) = (layer.guard(), layer.guard().state());
            let now = state.sampler.tick();
            state
                .brake
                .set_on(guard.regulator.state.board_key(), Some(now));
            let permit = guard.acquire(Cost::Estimated).await.unwrap();
            let slot = permit.slot().unwrap();
            slot.polled(now, now);
            slot.charge(1 << 20, 1);
            state.sampler.sample_now();
            // As another guard on the ledger plans.
            let stuck = || state.brake.sweep(0, None, false, state.sampler.now()).stuck;
            assert_ne!(stuck(), Stuck::Yes);
            let mut config = (*guard.config()).clone();
            match is_enabled {
                true => config.max_pause = Duration::ZERO,
                false => config.enabled = false,
            }
            guard.reload(config).unwrap();
            let request = slot.request();
            drop(permit);
            state.sampler.sample_now();
            assert_eq!(stuck(), Stuck::Yes);
            assert!(request.is_over(), "its slot is another's");
        }
    }
}
