//! Settings that were changed by hand are checked as those that are built.

use super::{Config, MemoryGuardBuilder};
use crate::error::ConfigError;

impl Config {
    /// The settings of the environment, for [`Guard::reload`](crate::Guard::reload).
    ///
    /// # Errors
    ///
    /// Every variable that cannot be used, its value, and what would be right.
    pub fn from_env() -> Result<Self, ConfigError> {
        MemoryGuardBuilder::default().read_env().build_config()
    }

    /// These settings, if the builder takes all of them.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let mut builder = MemoryGuardBuilder::default()
            .enabled(self.enabled)
            .policy(self.policy)
            .some_thresholds(self.said_thresholds())
            .check_interval(self.check_interval)
            .estimated_bytes_per_request(self.estimated_bytes_per_request)
            .max_result_size_bytes(self.max_result_size_bytes)
            .wait_timeout(self.wait_timeout)
            .max_waiting(self.max_waiting)
            .mode(self.mode)
            .share(self.share_fraction)
            .source(self.source)
            .on_sensor_failure(self.on_sensor_failure)
            .cancel(self.cancel)
            .max_pause(self.max_pause)
            .exceedance_target(self.exceedance_target)
            .body_timeout(self.body_timeout)
            .permit_in_extensions(self.permit_in_extensions)
            .critical_reserve(self.critical_reserve_fraction)
            .shed_low_at(self.shed_low_at)
            .normal_wait_at_high(self.normal_wait_at_high)
            .newest_first_after(self.newest_first_after)
            .retry_budget(self.retry_budget);
        if let Some(requests) = self.max_concurrent {
            builder = builder.max_concurrent(requests);
        }
        if let Some(bytes) = self.memory_limit_bytes {
            builder = builder.memory_limit_bytes(bytes);
        }
        if let Some(path) = self.cgroup_path {
            builder = builder.cgroup_path(path);
        }
        if let Some(path) = self.state {
            builder = builder.state(path);
        }
        if let Some(name) = self.name {
            builder = builder.name(name);
        }
        builder = self
            .tiers
            .into_iter()
            .fold(builder, MemoryGuardBuilder::tier);
        builder.settings.config.deadline_headers = self.deadline_headers;
        builder.build_config()
    }
}
