//! Validated settings, from the environment or from a builder.
//!
//! Both fill the same [`Settings`] draft. Single values are checked where they are
//! read, what they say together by one function.

mod builder;
mod check;
mod decided;
mod env;
#[cfg(test)]
mod env_tests;
pub(crate) mod log;
mod order;
mod parse;

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::class::Tier;
use crate::pressure::Pressure;

use crate::memory::Source;
pub use builder::MemoryGuardBuilder;
pub(crate) use env::Settings;

const MIB: u64 = 1 << 20;

/// How much is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The ladder if a concurrency or a threshold is set, else predictive.
    #[default]
    Auto,
    /// Levels by thresholds, and a concurrency for each; memory is reserved up to
    /// where CRITICAL begins.
    Ladder,
    /// As much as is forecast to fit; levels report, and shed work of low priority.
    Predictive,
}

impl Policy {
    /// The name in settings and logs, such as `ladder`.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Auto => "auto",
            Policy::Ladder => "ladder",
            Policy::Predictive => "predictive",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the guard does with its decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Waits and rejects.
    #[default]
    Enforce,
    /// Decides and reports; every request passes.
    Observe,
}

/// What happens while memory cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnSensorFailure {
    /// Only the concurrency limit holds; without one, nothing does.
    #[default]
    Open,
    /// New work is rejected.
    Closed,
}

/// Settings that have been checked. Built by
/// [`MemoryGuardLayer::builder`](crate::MemoryGuardLayer::builder) or read from
/// the environment by [`from_env`](crate::MemoryGuardLayer::from_env).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `false`: the layer passes everything through. Default `true`.
    pub enabled: bool,
    /// As it was given. Default: `Auto`, which is predictive unless one of the next four is
    /// set; [`decided_policy`](Self::decided_policy) says which.
    pub policy: Policy,
    /// Base concurrency. Default with the ladder: limit / estimate × 0.8, at least
    /// 1, which follows the estimate as it is corrected. Predictive: none.
    pub max_concurrent: Option<u32>,
    /// WARNING begins at this fraction of the limit; STABLE ten points below. `None`, the
    /// default: 0.70; predictive 0.90, or less if the others leave no room.
    /// [`thresholds`](Self::thresholds) says what all three come to.
    pub warning_fraction: Option<f64>,
    /// HIGH begins at this fraction of the limit. `None`, the default: 0.80; predictive
    /// 0.95, or less.
    pub high_fraction: Option<f64>,
    /// CRITICAL begins at this fraction of the limit. Reservations end there;
    /// predictive: one point below, two without accounting. `None`, the default: 0.85;
    /// predictive 0.98.
    pub critical_fraction: Option<f64>,
    /// Longest time between samples and between adjustments. Default 5 s.
    pub check_interval: Duration,
    /// A request's peak, until the first ones have been seen. Default 200 MiB.
    pub estimated_bytes_per_request: u64,
    /// Largest serialised result, for what uses it. Default 5 MiB.
    pub max_result_size_bytes: u64,
    /// A waiter's deadline. Default 10 s.
    pub wait_timeout: Duration,
    /// Most requests that wait. Default 1024.
    pub max_waiting: usize,
    /// Default: enforce.
    pub mode: Mode,
    /// A limit of one's own; the tighter counts. Default: from the system alone.
    pub memory_limit_bytes: Option<u64>,
    /// This process's share of the limit, where several share one container. Default 1.
    pub share_fraction: f64,
    /// Default: auto.
    pub source: Source,
    /// A directory that holds a control group's files. Default: discovered.
    pub cgroup_path: Option<PathBuf>,
    /// A file that keeps what was learned, also through a kill. Default: none.
    pub state: Option<PathBuf>,
    /// Default: open.
    pub on_sensor_failure: OnSensorFailure,
    /// May cancel requests in flight as a last resort. Default `false`.
    pub cancel: bool,
    /// Most that a request in flight is paused, in all, so that others can end. Default
    /// 5 s; zero: requests are never paused.
    pub max_pause: Duration,
    /// How often, at most, aggregate usage may exceed its forecast, as a fraction of
    /// all forecasts: the margin adapts to it. Default 0.001.
    pub exceedance_target: f64,
    /// How long a peer may leave a ready frame of a response unread before the
    /// response's permit is given back. Default 60 s; `None`: for ever.
    pub body_timeout: Option<Duration>,
    /// Puts the [`Permit`](crate::Permit) into each request's extensions. Default `true`.
    pub permit_in_extensions: bool,
    /// What tenants may be entitled to. Default: none.
    pub tiers: Vec<Tier>,
    /// Kept free for critical work, as a fraction of the limit. Default 0.02.
    pub critical_reserve_fraction: f64,
    /// From this level on work of low priority is rejected. Default: WARNING.
    pub shed_low_at: Option<Pressure>,
    /// The part of its deadline that normal work waits at HIGH, if there is work of high
    /// priority. Default 0.5.
    pub normal_wait_at_high: f64,
    /// Once the oldest has waited for so long, the newest goes first. Default: never.
    pub newest_first_after: Option<Duration>,
    /// Rejections of one tenant after which its Retry-After doubles. Default: none.
    pub retry_budget: Option<u32>,
    /// Headers in which callers say how long they wait, beside the well-known ones.
    pub deadline_headers: Vec<HeaderName>,
    /// Label of this guard's metrics and log lines. Default: none.
    pub name: Option<String>,
}

impl Default for Config {
    /// What the builder builds from nothing, and an empty environment comes to.
    fn default() -> Self {
        Self {
            enabled: true,
            policy: Policy::Auto,
            max_concurrent: None,
            warning_fraction: None,
            high_fraction: None,
            critical_fraction: None,
            check_interval: Duration::from_secs(5),
            estimated_bytes_per_request: 200 * MIB,
            max_result_size_bytes: 5 * MIB,
            wait_timeout: Duration::from_secs(10),
            max_waiting: 1024,
            mode: Mode::Enforce,
            memory_limit_bytes: None,
            share_fraction: 1.0,
            source: Source::Auto,
            cgroup_path: None,
            state: None,
            on_sensor_failure: OnSensorFailure::Open,
            cancel: false,
            max_pause: Duration::from_secs(5),
            exceedance_target: 0.001,
            body_timeout: Some(Duration::from_secs(60)),
            permit_in_extensions: true,
            tiers: Vec::new(),
            critical_reserve_fraction: 0.02,
            shed_low_at: Some(Pressure::Warning),
            normal_wait_at_high: 0.5,
            newest_first_after: None,
            retry_budget: None,
            deadline_headers: Vec::new(),
            name: None,
        }
    }
}
