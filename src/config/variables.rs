//! All settings, each in one place: [`settings!`] makes of a row the field of [`Config`]
//! and its default, the builder's method, their documentation, and what is read of
//! variables, checked and logged. What variables mean says `docs/settings.md`.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::builder::MemoryGuardBuilder;
#[cfg(feature = "tracing")]
use super::logged;
use super::{Mode, OnSensorFailure, Policy, kinds};
use crate::class::Tier;
use crate::memory::Source;
use crate::pressure::Pressure;
use crate::telemetry::logs::say;
use crate::telemetry::stats::Stats;

/// What is known of a setting, whatever its type is.
pub(super) struct Setting {
    /// The builder's method.
    pub(super) name: &'static str,
    /// From the weakest to the one that counts.
    pub(super) variables: &'static [&'static str],
    /// From a variable's text, or says what would be right.
    pub(super) read: fn(&mut Config, &str) -> Result<(), String>,
    /// A value that cannot be used, and what would be right.
    pub(super) wrong: fn(&Config) -> Option<(String, &'static str)>,
    /// May not change while the guard runs.
    pub(super) is_fixed: bool,
    pub(super) shown: fn(&Config) -> String,
}

/// The builder's, but where it is written by hand.
macro_rules! method {
    ($(#[$doc:meta])* $field:ident $method:ident) => {};
    ($(#[$doc:meta])* $field:ident $method:ident ($argument:ident: $given:ty) $value:expr) => {
        $(#[$doc])*
        pub fn $method(mut self, $argument: $given) -> Self {
            self.settings.config.$field = $value;
            self
        }
    };
}

/// A row, of which only the first two lines must be there:
///
/// ```text
/// /// Documentation of the field and of the method.
/// field: Type = default, by method,
///     by method(argument: Type) what the field becomes,  (else the method is written by hand)
///     fixed true,                                        (cannot be reloaded)
///     log how,                                           (of `logged`, if it is logged)
///     is KIND,                                           (of `kinds`, if it is checked)
///     is KIND read ["VARIABLE"];                         (if it has a variable)
/// ```
macro_rules! settings {
    ($(
        $(#[$doc:meta])*
        $field:ident: $type:ty = $default:expr,
            by $method:ident $(($argument:ident: $given:ty) $value:expr)?
            $(, fixed $fixed:literal)?
            $(, log $log:ident)?
            $(, is $kind:ident $(read [$($variable:literal),+])?)?;
    )+) => {
        /// Settings that have been checked. Built by
        /// [`MemoryGuardLayer::builder`](crate::MemoryGuardLayer::builder) or read from
        /// the environment by [`from_env`](crate::MemoryGuardLayer::from_env).
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl Default for Config {
            /// What the builder builds from nothing, and an empty environment comes to.
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl MemoryGuardBuilder {
            $(method! {
                $(#[$doc])*
                $field $method $(($argument: $given) $value)?
            })+
        }

        /// In the order of the documentation.
        pub(super) const SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($method),
            variables: &[$($($($variable),+)?)?],
            read: |_config, _text| Ok(())$(.and(kinds::$kind.read(&mut _config.$field, _text)))?,
            wrong: |_config| None$(.or(kinds::$kind.wrong(&_config.$field)))?,
            is_fixed: false $(|| $fixed)?,
            shown: |config| format!("{:?}", config.$field),
        }),+];

        /// The settings in force, at the start and after a change.
        pub(crate) fn log_settings(
            what: &str,
            config: &Config,
            source: &str,
            stats: &Stats,
            state_problem: Option<&str>,
        ) {
            let [warning, high, critical] = config.thresholds();
            say!(
                info,
                source,
                policy = config.decided_policy().as_str(),
                memory_limit_mb = stats.memory_limit_mib,
                memory_percent = stats.memory_percent,
                base_concurrency = stats.base_concurrency,
                warning_fraction = warning,
                high_fraction = high,
                critical_fraction = critical,
                estimated_mem_per_req_mb = stats.estimated_mem_per_req_mib,
                $($($field = logged::$log(&config.$field),)?)+
                state_problem,
                "{what}"
            );
        }
    };
}

settings! {
    /// `false` makes the layer a pass-through. Default `true`.
    enabled: bool = true,
        by enabled(enabled: bool) enabled, log copied,
        is SWITCH read ["MEMORY_GUARD_ENABLED"];

    /// How much is admitted, as it was given. Default: [`Policy::Auto`], which is predictive
    /// unless a concurrency or a threshold is set;
    /// [`Config::decided_policy`] says which.
    policy: Policy = Policy::Auto,
        by policy(policy: Policy) policy,
        is POLICY read ["MEMORY_GUARD_POLICY"];

    /// Base concurrency, from 1 to 1,048,575. Default with the ladder: limit / estimate ×
    /// 0.8, at least 1, which follows the estimate as it is corrected. Predictive: none.
    max_concurrent: Option<u32> = None,
        by max_concurrent(requests: u32) Some(requests),
        is COUNT read ["MAX_CONCURRENT", "MEMORY_GUARD_MAX_CONCURRENT"];

    /// WARNING begins at this fraction of the limit; STABLE ten points below. `None`, the
    /// default: 0.70; predictive 0.90, or less if the others leave no room.
    /// [`thresholds`](Self::thresholds) says what all three come to.
    warning_fraction: Option<f64> = None,
        by thresholds,
        is FRACTION read ["MEMORY_GUARD_WARNING_PERCENT"];

    /// HIGH begins at this fraction of the limit. `None`, the default: 0.80; predictive
    /// 0.95, or less.
    high_fraction: Option<f64> = None,
        by thresholds,
        is FRACTION read ["MEMORY_GUARD_MAX_PERCENT"];

    /// CRITICAL begins at this fraction of the limit. Reservations end there;
    /// predictive: one point below, two without accounting. `None`, the default: 0.85;
    /// predictive 0.98.
    critical_fraction: Option<f64> = None,
        by thresholds,
        is FRACTION read ["MEMORY_GUARD_CRITICAL_PERCENT"];

    /// Longest time between samples and between adjustments, from 1 ms to 365 days.
    /// Default 5 s.
    check_interval: Duration = Duration::from_secs(5),
        by check_interval(interval: Duration) interval, log debug,
        is TIME read ["MEMORY_GUARD_CHECK_INTERVAL_SEC"];

    /// A request's peak in bytes, until the first ones have been seen. Default 200 MiB.
    estimated_bytes_per_request: u64 = 200 << 20,
        by estimated_bytes_per_request(bytes: u64) bytes,
        is MEBIBYTES read ["MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB"];

    /// Largest serialised result in bytes, for what uses it. Default 5 MiB.
    max_result_size_bytes: u64 = 5 << 20,
        by max_result_size_bytes(bytes: u64) bytes, log copied,
        is SIZE read ["MAX_RESULT_SIZE", "MEMORY_GUARD_MAX_RESULT_SIZE"];

    /// A waiter's deadline, from 1 ms to 365 days. Default 10 s.
    wait_timeout: Duration = Duration::from_secs(10),
        by wait_timeout(timeout: Duration) timeout, log debug,
        is TIME read ["MEMORY_GUARD_WAIT_TIMEOUT_SEC"];

    /// Most requests that wait; 0: nobody does. Default 1024.
    max_waiting: usize = 1024,
        by max_waiting(requests: usize) requests, log copied,
        is WAITING read ["MEMORY_GUARD_MAX_WAITING"];

    /// Default: [`Mode::Enforce`].
    mode: Mode = Mode::Enforce,
        by mode(mode: Mode) mode, log debug,
        is MODE read ["MEMORY_GUARD_MODE"];

    /// A limit of one's own in bytes; the tighter of it and the system's counts. Default:
    /// from the system alone.
    memory_limit_bytes: Option<u64> = None,
        by memory_limit_bytes(bytes: u64) Some(bytes),
        is SIZE read ["MEMORY_GUARD_MEMORY_LIMIT"];

    /// This process's share of the limit, where several share one container. Default 1.
    share_fraction: f64 = 1.0,
        by share(fraction: f64) fraction, log copied,
        is FRACTION read ["MEMORY_GUARD_SHARE"];

    /// Where memory is measured. [`Source::Process`] needs
    /// [`memory_limit_bytes`](Self::memory_limit_bytes). Default: [`Source::Auto`].
    source: Source = Source::Auto,
        by source(source: Source) source, fixed true,
        is SOURCE read ["MEMORY_GUARD_SOURCE"];

    /// A directory that holds a control group's files. Default: discovered.
    cgroup_path: Option<PathBuf> = None,
        by cgroup_path(directory: impl Into<PathBuf>) Some(directory.into()), fixed true,
        is DIRECTORY read ["MEMORY_GUARD_CGROUP_PATH"];

    /// What happens while memory cannot be read. Default: [`OnSensorFailure::Open`].
    on_sensor_failure: OnSensorFailure = OnSensorFailure::Open,
        by on_sensor_failure(policy: OnSensorFailure) policy, log debug,
        is SENSOR_FAILURE read ["MEMORY_GUARD_ON_SENSOR_FAILURE"];

    /// May cancel requests in flight when memory is about to be full by growth that no
    /// pause stops, or when nobody in flight gets on any more; where requests are never paused
    /// ([`max_pause`](Self::max_pause) zero), also at 97 % of the limit. Default `false`.
    ///
    /// As many are cancelled as free what is missing, where that can be told; those of
    /// which least is lost, no critical work, and none whose response has begun. At most a
    /// quarter of them in a second, unless that comes too late. Their callers get a
    /// rejection with [`Reason::Cancelled`](crate::Reason::Cancelled), their futures are
    /// dropped, and [`Permit::cancelled`](crate::Permit::cancelled) tells synchronous
    /// work. Costs a copy of each request's head.
    cancel: bool = false,
        by cancel(cancel: bool) cancel, log copied,
        is SWITCH read ["MEMORY_GUARD_CANCEL"];

    /// For how long a request in flight is paused, in all, before it comes first in the order:
    /// while it is not polled, it does not grow, and others can end. It still needs room then,
    /// so a pause may be longer. From 1 ms to a year; default 5 s; zero: requests are never
    /// paused. See `docs/braking.md`.
    max_pause: Duration = Duration::from_secs(5),
        by max_pause(pause: Duration) pause, log debug,
        is TIME_OR_NEVER read ["MEMORY_GUARD_MAX_PAUSE_SEC"];

    /// A file that keeps what was learned of requests, so that the next process starts
    /// from it, also after a kill. Default: none; to the builder an empty path is none.
    ///
    /// Written by a thread of the guard's, seldom more than once a second and only when
    /// there is news; one process writes it, others that name it only read. A file that
    /// cannot be read or written is a warning in the log, and nothing else.
    state: Option<PathBuf> = None,
        by state(path: impl Into<PathBuf>)
            Some(path.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty()),
        fixed true, log path,
        is FILE read ["MEMORY_GUARD_STATE"];

    /// How often aggregate usage may exceed its forecast, as a fraction of all
    /// forecasts, above 0 and up to 0.5. The margin adapts to it. Default 0.001.
    exceedance_target: f64 = 0.001,
        by exceedance_target(fraction: f64) fraction, log copied, is SELDOM;

    /// The share of memory × time that requests may spend paused, above 0 and up to 1: where it
    /// is more, less is admitted, by up to a tenth of the limit. Default 0.25; 1: as many are
    /// admitted as are forecast to fit. See `docs/tuning.md`.
    pausing_target: f64 = 0.25,
        by pausing_target(fraction: f64) fraction, log copied, is FRACTION;

    /// How long a peer may leave a ready frame of a response unread. Then the
    /// permit is given back, and the response ends with an error. Only that
    /// time counts, never the handler's own silence: a quiet stream may live
    /// for ever. Checked at each full sample, from one of which to the next at most half of
    /// it counts: the process may have stood still. Default 60 s; `None`: no bound.
    body_timeout: Option<Duration> = Some(Duration::from_secs(60)),
        by body_timeout(timeout: impl Into<Option<Duration>>) timeout.into(), log debug, is TIME;

    /// Puts the [`Permit`](crate::Permit) into each request's extensions. Default `true`.
    ///
    /// `http` boxes every extension, so `false` is what makes the response
    /// flavour free of heap allocations. Without it a handler cannot keep the
    /// permit for work that outlives the response, and a guard that is applied
    /// twice to one request admits it twice.
    permit_in_extensions: bool = true,
        by permit_in_extensions(insert: bool) insert;

    /// What tenants may be entitled to. Default: none.
    tiers: Vec<Tier> = Vec::new(),
        by tier, fixed true, log count;

    /// Memory that is kept free for [`Priority::Critical`](crate::Priority::Critical)
    /// work, as a fraction of the limit, from 0 to 0.5; from the first such request on.
    /// Default 0.02.
    ///
    /// Critical work that fits there never waits. 0 makes it as other work, but first.
    critical_reserve_fraction: f64 = 0.02,
        by critical_reserve(fraction: f64) fraction, log copied, is RESERVE;

    /// From this level on, new work of [`Priority::Low`](crate::Priority::Low) is
    /// rejected with [`Reason::LowPriority`](crate::Reason::LowPriority). `None`: it
    /// waits like other work, after it. Default [`Pressure::Warning`].
    shed_low_at: Option<Pressure> = Some(Pressure::Warning),
        by shed_low_at(level: impl Into<Option<Pressure>>) level.into(), log level;

    /// From [`Pressure::High`] on, work of [`Priority::Normal`](crate::Priority::Normal)
    /// waits for this part of its deadline, if the guard has met work of
    /// [`Priority::High`](crate::Priority::High); above 0 and up to 1. Default 0.5.
    normal_wait_at_high: f64 = 0.5,
        by normal_wait_at_high(fraction: f64) fraction, is FRACTION;

    /// Once the oldest waiter of a class of priority and a tenant has waited for so
    /// long, the newest goes first, until the backlog is shorter: those who waited
    /// longest are the likeliest to have gone. Default `None`: a quarter of
    /// [`wait_timeout`](Self::wait_timeout), where callers are seen to give up; else the oldest goes
    /// first.
    newest_first_after: Option<Duration> = None,
        by newest_first_after(wait: impl Into<Option<Duration>>) wait.into(), is TIME;

    /// Rejections of one tenant up to so many have their usual Retry-After; for each
    /// further such number of them it doubles, up to sixteen times. Half of them are
    /// forgotten every ten seconds. Requests without a tenant are one tenant's. Default `None`: it
    /// never does.
    retry_budget: Option<u32> = None,
        by retry_budget(rejections: impl Into<Option<u32>>) rejections.into(), is AT_LEAST_ONE;

    /// Headers in which callers say how long they wait, beside the well-known ones.
    deadline_headers: Vec<HeaderName> = Vec::new(),
        by deadline_header;

    /// Labels this guard's metrics (`guard="…"`) and log lines. Name your
    /// guards where a process has several. Default: none.
    name: Option<String> = None,
        by name(name: impl Into<String>) Some(name.into()), fixed true, log given;
}
