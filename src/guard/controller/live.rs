//! The settings in force, and their change while the guard runs.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::{Controller, strategy};
use crate::config::{Config, Mode};
use crate::error::ConfigError;
use crate::pressure::Pressure;
use crate::telemetry::recent::EventKind;
use crate::units::MAX_KIB;

/// Low work is never shed.
const NEVER: u8 = u8::MAX;

/// The settings in force. What the path of a request needs of them is beside them, so
/// that it takes no lock.
#[derive(Debug)]
pub(crate) struct Live {
    config: RwLock<Arc<Config>>,
    observes: AtomicBool,
    cancels: AtomicBool,
    max_pause_ms: AtomicU64,
    permit_in_extensions: AtomicBool,
    sheds_low_at: AtomicU8,
    /// It has been put into force once.
    is_sampled: AtomicBool,
}

impl Live {
    pub(super) fn new(config: Config) -> Self {
        let live = Self {
            config: RwLock::new(Arc::new(config)),
            observes: AtomicBool::new(false),
            cancels: AtomicBool::new(false),
            max_pause_ms: AtomicU64::new(0),
            permit_in_extensions: AtomicBool::new(false),
            sheds_low_at: AtomicU8::new(NEVER),
            is_sampled: AtomicBool::new(false),
        };
        live.spread(&live.get());
        live
    }

    /// The settings. Not on the path of a request that is admitted at once.
    pub(crate) fn get(&self) -> Arc<Config> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config)
    }

    fn set(&self, config: Config) {
        let config = Arc::new(config);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        self.spread(&config);
    }

    /// Relaxed: requests that come meanwhile may go by either.
    fn spread(&self, config: &Config) {
        let observes = config.mode == Mode::Observe || !config.enabled;
        let sheds_low_at = config.shed_low_at.map_or(NEVER, |level| level as u8);
        self.observes.store(observes, Ordering::Relaxed);
        self.cancels.store(config.cancel, Ordering::Relaxed);
        let max_pause_ms = match config.enabled {
            true => config.max_pause.as_millis() as u64,
            false => 0,
        };
        self.max_pause_ms.store(max_pause_ms, Ordering::Relaxed);
        self.permit_in_extensions
            .store(config.permit_in_extensions, Ordering::Relaxed);
        self.sheds_low_at.store(sheds_low_at, Ordering::Relaxed);
    }

    /// Every decision passes, whatever it is.
    #[inline]
    pub(crate) fn only_observes(&self) -> bool {
        self.observes.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn may_cancel(&self) -> bool {
        self.cancels.load(Ordering::Relaxed)
    }

    /// Requests in flight may be paused.
    pub(crate) fn may_pause(&self) -> bool {
        self.max_pause() > Duration::ZERO
    }

    /// For how long, each of them in all.
    pub(crate) fn max_pause(&self) -> Duration {
        Duration::from_millis(self.max_pause_ms.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn puts_permit_in_extensions(&self) -> bool {
        self.permit_in_extensions.load(Ordering::Relaxed)
    }

    /// Work of low priority is turned away at this level.
    pub(crate) fn sheds_low_at(&self, level: Pressure) -> bool {
        level as u8 >= self.sheds_low_at.load(Ordering::Relaxed)
    }

    /// A guard begins with these.
    pub(super) fn renew(&self, config: Config) {
        self.set(config);
        self.is_sampled.store(false, Ordering::Relaxed);
    }

    /// Whether memory has been sampled for this guard before now.
    pub(super) fn begins_to_be_sampled(&self) -> bool {
        !self.is_sampled.swap(true, Ordering::Relaxed)
    }
}

impl Controller {
    /// The settings in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.live.get()
    }

    /// Puts other settings into force.
    pub(crate) fn reload(&'static self, config: Config) -> Result<(), ConfigError> {
        let old = self.config();
        let config = config.checked(&old)?;
        if *old == config {
            return Ok(());
        }
        {
            let mut control = self.control();
            control.strategy = strategy(&config, self.accounted);
            control
                .forecast
                .set_prior(config.estimated_bytes_per_request);
            control.forecast.set_target(config.exceedance_target);
            control.forecast.set_pausing_target(config.pausing_target);
            self.live.set(config.clone());
            control.forecast.set_brakes(self.live.may_pause());
            // Granted by the policy that was.
            control.probes = 0;
            self.bounds.set_probes(0);
            self.show(&control);
        }
        self.begin(&config);
        if !self.live.may_pause() {
            // Nobody stays paused.
            self.sweep(self.sampler.now());
        }
        if self.live.only_observes() {
            self.let_all_in();
        }
        self.note(EventKind::Reloaded, "other settings are in force".into(), 0);
        self.log_settings("memory guard reloaded");
        Ok(())
    }

    /// Nobody waits who would not have had to.
    pub(super) fn let_all_in(&self) {
        while self.limiter.probe_oldest(&self.bounds, MAX_KIB) {}
    }

    /// What follows from settings, at the start and after a change.
    pub(super) fn begin(&'static self, config: &Config) {
        self.bounds
            .set_order(config.wait_timeout, config.newest_first_after);
        if config.enabled && self.live.begins_to_be_sampled() {
            self.sampler.subscribe(self, self.source);
        } else if config.enabled {
            self.sampler.sample_now();
        }
    }
}
