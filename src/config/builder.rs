//! [`MemoryGuardBuilder`]: the same settings, from code. Most of its methods are made of
//! the table.

use http::HeaderName;

use super::Settings;
use crate::class::Tier;
use crate::forecast::Estimates;
use crate::memory::MemorySource;

/// Builds a [`MemoryGuardLayer`](crate::MemoryGuardLayer) from code instead of the environment.
///
/// Every setting has the default that [`Config`](crate::Config) names. What cannot be used is
/// collected and reported by [`build`](Self::build), all at once.
///
/// ```
/// use std::time::Duration;
/// use tower_memory_guard::MemoryGuardLayer;
///
/// let layer = MemoryGuardLayer::builder()
///     .max_concurrent(10)
///     .estimated_bytes_per_request(150 << 20)
///     .wait_timeout(Duration::from_secs(3))
///     .build()?;
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemoryGuardBuilder {
    pub(crate) settings: Settings,
    pub(crate) memory_source: Option<Box<dyn MemorySource>>,
    pub(crate) estimates: Option<Estimates>,
}

impl std::fmt::Debug for MemoryGuardBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryGuardBuilder")
            .field("config", &self.settings.config)
            .field("problems", &self.settings.problems)
            .finish_non_exhaustive()
    }
}

impl MemoryGuardBuilder {
    /// Starts from what the environment says instead of from the defaults.
    ///
    /// Call it first: it replaces what was set before.
    pub fn read_env(mut self) -> Self {
        self.settings = Settings::from_env();
        self
    }

    /// Where WARNING, HIGH and CRITICAL begin, as rising fractions of the limit.
    /// Default 0.70, 0.80, 0.85; with the predictive policy 0.90, 0.95, 0.98.
    pub fn thresholds(mut self, warning: f64, high: f64, critical: f64) -> Self {
        let config = &mut self.settings.config;
        config.warning_fraction = Some(warning);
        config.high_fraction = Some(high);
        config.critical_fraction = Some(critical);
        self
    }

    /// Memory is measured by `source` instead: for what the built-in sources
    /// do not see, and for tests (see [`ManualSource`](crate::ManualSource)).
    pub fn memory_source(mut self, source: impl MemorySource) -> Self {
        self.memory_source = Some(Box::new(source));
        self
    }

    /// A tier that requests may name with [`Class::tier`](crate::Class::tier). A second
    /// one of the same name replaces the first.
    pub fn tier(mut self, tier: Tier) -> Self {
        let tiers = &mut self.settings.config.tiers;
        tiers.retain(|other| other.name != tier.name);
        tiers.push(tier);
        self
    }

    /// One more header in which callers say how long they wait, beside `grpc-timeout`
    /// and `x-envoy-expected-rq-timeout-ms`: a whole number of milliseconds, or gRPC's
    /// form (`500m`, `2S`). It only makes the wait shorter. Response flavour only.
    pub fn deadline_header(mut self, name: HeaderName) -> Self {
        self.settings.config.deadline_headers.push(name);
        self
    }

    /// Starts from what another process has learned of its requests, instead of
    /// from the configured estimate.
    ///
    /// Where a [`state`](Self::state) is read, that counts instead. What makes no sense
    /// is ignored as a whole, with a warning in the log.
    pub fn estimates(mut self, estimates: Estimates) -> Self {
        self.estimates = Some(estimates);
        self
    }
}
