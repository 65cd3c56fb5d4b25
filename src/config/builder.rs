//! [`MemoryGuardBuilder`]: the same settings, from code.

use std::path::PathBuf;
use std::time::Duration;

use super::parse::{check_fraction, file};
use super::{Config, Mode, OnSensorFailure, Policy, Settings};
use crate::error::ConfigError;
use crate::memory::{MemorySource, Source};

/// Builds a [`MemoryGuardLayer`](crate::MemoryGuardLayer) from code instead of the environment.
///
/// Every setting has the default that [`Config`] names. What cannot be used is
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
    pub(super) settings: Settings,
    memory_source: Option<Box<dyn MemorySource>>,
    estimates: Option<crate::forecast::Estimates>,
}

/// What a guard is started with.
pub(crate) struct Start {
    pub(crate) config: Config,
    /// To be said once it has started.
    pub(crate) warnings: Vec<String>,
    /// The user's own.
    pub(crate) memory_source: Option<Box<dyn MemorySource>>,
    pub(crate) estimates: Option<crate::forecast::Estimates>,
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

    /// `false` makes the layer a pass-through. Default `true`.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.settings.config.enabled = enabled;
        self
    }

    /// Default: [`Policy::Auto`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.config.policy = policy;
        self
    }

    /// May cancel requests in flight when memory is about to be full by growth that no
    /// pause stops, or when nobody in flight gets on any more. Default `false`.
    ///
    /// As many are cancelled as free what is missing, where that can be told; those of
    /// which least is lost, no critical work, and none whose response has begun. At most a
    /// quarter of them in a second, unless that comes too late. Their callers get a
    /// rejection with [`Reason::Cancelled`](crate::Reason::Cancelled), their futures are
    /// dropped, and [`Permit::cancelled`](crate::Permit::cancelled) tells synchronous
    /// work. Costs a copy of each request's head.
    pub fn cancel(mut self, cancel: bool) -> Self {
        self.settings.config.cancel = cancel;
        self
    }

    /// Most that a request in flight is paused, in all, so that others can end: while
    /// it is not polled, it does not grow. Up to a year; default 5 s; zero: requests
    /// are never paused. See `docs/braking.md`.
    pub fn max_pause(mut self, pause: Duration) -> Self {
        if pause <= super::parse::LONGEST {
            self.settings.config.max_pause = pause;
        } else {
            let expected = "at most a year, or zero for never";
            self.settings
                .problem("max_pause", format!("{pause:?}"), expected);
        }
        self
    }

    /// How often aggregate usage may exceed its forecast, as a fraction of all
    /// forecasts, above 0 and up to 0.5. The margin adapts to it. Default 0.001.
    pub fn exceedance_target(mut self, fraction: f64) -> Self {
        if fraction > 0.0 && fraction <= 0.5 {
            self.settings.config.exceedance_target = fraction;
        } else {
            let expected = "a fraction above 0 and up to 0.5";
            self.settings
                .problem("exceedance_target", fraction.to_string(), expected);
        }
        self
    }

    /// Base concurrency, from 1 to 1,048,575. Default: limit / estimate × 0.8 with
    /// the ladder, none with the predictive policy.
    pub fn max_concurrent(mut self, requests: u32) -> Self {
        if (1..=crate::limiter::MAX_COUNT).contains(&requests) {
            self.settings.config.max_concurrent = Some(requests);
        } else {
            let expected = format!("a whole number from 1 to {}", crate::limiter::MAX_COUNT);
            self.settings
                .problem("max_concurrent", requests.to_string(), expected);
        }
        self
    }

    /// Where WARNING, HIGH and CRITICAL begin, as rising fractions of the limit.
    /// Default 0.70, 0.80, 0.85; with the predictive policy 0.90, 0.95, 0.98.
    pub fn thresholds(self, warning: f64, high: f64, critical: f64) -> Self {
        self.some_thresholds([warning, high, critical].map(Some))
    }

    /// Where some levels begin; the others follow from the policy.
    pub(super) fn some_thresholds(mut self, said: [Option<f64>; 3]) -> Self {
        let given = said.iter().flatten();
        if given.clone().all(|&one| check_fraction(one).is_ok()) {
            let config = &mut self.settings.config;
            config.warning_fraction = said[0];
            config.high_fraction = said[1];
            config.critical_fraction = said[2];
        } else {
            let given: Vec<_> = given.map(f64::to_string).collect();
            let expected = "fractions above 0 and up to 1";
            self.settings
                .problem("thresholds", given.join(", "), expected);
        }
        self
    }

    /// Longest time between samples and between adjustments, from 1 ms to 365 days.
    /// Default 5 s.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        if self.positive("check_interval", interval) {
            self.settings.config.check_interval = interval;
        }
        self
    }

    /// A request's peak in bytes, until the first ones have been seen. Default 200 MiB.
    pub fn estimated_bytes_per_request(mut self, bytes: u64) -> Self {
        if bytes > 0 {
            self.settings.config.estimated_bytes_per_request = bytes;
        } else {
            self.settings
                .problem("estimated_bytes_per_request", "0", "bytes above 0");
        }
        self
    }

    /// Largest serialised result in bytes, for what uses it. Default 5 MiB.
    pub fn max_result_size_bytes(mut self, bytes: u64) -> Self {
        if bytes > 0 {
            self.settings.config.max_result_size_bytes = bytes;
        } else {
            self.settings
                .problem("max_result_size_bytes", "0", "bytes above 0");
        }
        self
    }

    /// A waiter's deadline, from 1 ms to 365 days. Default 10 s.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        if self.positive("wait_timeout", timeout) {
            self.settings.config.wait_timeout = timeout;
        }
        self
    }

    /// Most requests that wait; 0: nobody does. Default 1024.
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.settings.config.max_waiting = requests;
        self
    }

    /// Default: [`Mode::Enforce`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings.config.mode = mode;
        self
    }

    /// A limit of one's own in bytes; the tighter of it and the system's counts.
    pub fn memory_limit_bytes(mut self, bytes: u64) -> Self {
        if bytes > 0 {
            self.settings.config.memory_limit_bytes = Some(bytes);
        } else {
            self.settings
                .problem("memory_limit_bytes", "0", "bytes above 0");
        }
        self
    }

    /// This process's share of the limit, where several share one container. Default 1.
    pub fn share(mut self, fraction: f64) -> Self {
        match check_fraction(fraction) {
            Ok(fraction) => self.settings.config.share_fraction = fraction,
            Err(()) => {
                let expected = "a fraction above 0 and up to 1";
                self.settings
                    .problem("share", fraction.to_string(), expected);
            }
        }
        self
    }

    /// Where memory is measured. [`Source::Process`] needs
    /// [`memory_limit_bytes`](Self::memory_limit_bytes). Default: [`Source::Auto`].
    pub fn source(mut self, source: Source) -> Self {
        self.settings.config.source = source;
        self
    }

    /// A directory that holds a control group's files. Default: discovered.
    pub fn cgroup_path(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.config.cgroup_path = Some(directory.into());
        self
    }

    /// Memory is measured by `source` instead: for what the built-in sources
    /// do not see, and for tests (see [`ManualSource`](crate::ManualSource)).
    pub fn memory_source(mut self, source: impl MemorySource) -> Self {
        self.memory_source = Some(Box::new(source));
        self
    }

    /// A file that keeps what was learned of requests, so that the next process starts
    /// from it, also after a kill. Default: none; an empty path is none.
    ///
    /// Written by a thread of the guard's, seldom more than once a second and only when
    /// there is news; one process writes it, others that name it only read. A file that
    /// cannot be read or written is a warning in the log, and nothing else.
    pub fn state(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let state = &mut self.settings.config.state;
        if path.as_os_str().is_empty() {
            *state = None;
            return self;
        }
        match file(path.clone()) {
            Ok(path) => *state = Some(path),
            Err(expected) => {
                let given = path.to_string_lossy();
                self.settings.problem("state", given, expected);
            }
        }
        self
    }

    /// Default: [`OnSensorFailure::Open`].
    pub fn on_sensor_failure(mut self, policy: OnSensorFailure) -> Self {
        self.settings.config.on_sensor_failure = policy;
        self
    }

    /// How long a peer may leave a ready frame of a response unread. Then the
    /// permit is given back, and the response ends with an error. Only that
    /// time counts, never the handler's own silence: a quiet stream may live
    /// for ever. Checked at each sample. Default 60 s; `None`: no bound.
    pub fn body_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        if timeout.is_none_or(|timeout| self.positive("body_timeout", timeout)) {
            self.settings.config.body_timeout = timeout;
        }
        self
    }

    /// Puts the [`Permit`](crate::Permit) into each request's extensions. Default `true`.
    ///
    /// `http` boxes every extension, so `false` is what makes the response
    /// flavour free of heap allocations. Without it a handler cannot keep the
    /// permit for work that outlives the response, and a guard that is applied
    /// twice to one request admits it twice.
    pub fn permit_in_extensions(mut self, insert: bool) -> Self {
        self.settings.config.permit_in_extensions = insert;
        self
    }

    /// Labels this guard's metrics (`guard="…"`) and log lines. Name your
    /// guards where a process has several.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.config.name = Some(name.into());
        self
    }

    /// Starts from what another process has learned of its requests, instead of
    /// from the configured estimate.
    ///
    /// Where a [`state`](Self::state) is read, that counts instead. What makes no sense
    /// is ignored as a whole, with a warning in the log.
    pub fn estimates(mut self, estimates: crate::forecast::Estimates) -> Self {
        self.estimates = Some(estimates);
        self
    }

    /// What a guard is started with, if the settings are good.
    pub(crate) fn start(self) -> Result<Start, ConfigError> {
        let (config, warnings) = self.settings.check()?;
        Ok(Start {
            config,
            warnings,
            memory_source: self.memory_source,
            estimates: self.estimates,
        })
    }

    /// Checks the settings without starting a guard: for
    /// [`Guard::reload`](crate::Guard::reload).
    ///
    /// # Errors
    ///
    /// Lists every setting that cannot be used.
    pub fn build_config(self) -> Result<Config, ConfigError> {
        let (config, warnings) = self.settings.check()?;
        crate::telemetry::logs::warnings(&warnings);
        Ok(config)
    }

    pub(super) fn positive(&mut self, setting: &str, duration: Duration) -> bool {
        let good =
            duration >= Duration::from_millis(1) && duration <= Duration::from_secs(365 * 86_400);
        if !good {
            let expected = "from 1 ms to 365 days";
            self.settings
                .problem(setting, format!("{duration:?}"), expected);
        }
        good
    }
}
