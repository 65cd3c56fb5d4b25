//! [`Live`]: the settings in force.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::config::{Config, Mode};
use crate::pressure::Pressure;

const NEVER: u8 = u8::MAX;

/// The settings in force. What the path of a request needs of them is beside them, so
/// that it takes no lock.
#[derive(Debug, Default)]
pub(crate) struct Live {
    config: RwLock<Arc<Config>>,
    enabled: AtomicBool,
    observes: AtomicBool,
    cancels: AtomicBool,
    max_pause_ms: AtomicU64,
    permit_in_extensions: AtomicBool,
    sheds_low_at: AtomicU8,
}

impl Live {
    pub(super) fn new(config: Config) -> Self {
        let live = Self::default();
        live.set(config);
        live
    }

    /// The settings. Not for admissions.
    pub(crate) fn get(&self) -> Arc<Config> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config)
    }

    pub(crate) fn set(&self, config: Config) {
        let config = Arc::new(config);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        // Relaxed: requests that come meanwhile may go by either.
        let observes = config.mode == Mode::Observe || !config.enabled;
        let sheds_low_at = config.shed_low_at.map_or(NEVER, |level| level as u8);
        self.observes.store(observes, Ordering::Relaxed);
        self.enabled.store(config.enabled, Ordering::Relaxed);

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

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn may_cancel(&self) -> bool {
        self.cancels.load(Ordering::Relaxed)
    }

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
}
