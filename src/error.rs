//! What a caller is told: [`Rejected`] at run time, [`ConfigError`] at start-up.

use std::fmt;
use std::time::Duration;

use crate::pressure::Pressure;

/// Any error that can cross threads, as tower uses it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reason {
    /// Memory is at its critical level, or cannot be seen and the guard is set
    /// to fail closed.
    CriticalPressure,
    /// It waited for memory until its deadline.
    WaitTimeout,
    /// Its expected wait is longer than its deadline.
    WaitTooLong,
    /// As many requests wait as the queue takes.
    QueueFull,
    /// It needs more than the limit: it can never be served here.
    NeverFits,
    /// It was stopped to save the others.
    Cancelled,
    /// Its result is larger than results may be.
    ResultTooLarge,
    /// The guard was closed: the service is shutting down.
    Closed,
    /// Memory is short, and its priority is low.
    LowPriority,
    /// There was no room for it at once, and it did not mean to wait: from
    /// [`Guard::try_acquire`](crate::Guard::try_acquire) and
    /// [`Permit::try_grow`](crate::Permit::try_grow).
    NoRoom,
}

impl Reason {
    pub(crate) const ALL: [Reason; 10] = [
        Reason::CriticalPressure,
        Reason::WaitTimeout,
        Reason::WaitTooLong,
        Reason::QueueFull,
        Reason::NeverFits,
        Reason::Cancelled,
        Reason::ResultTooLarge,
        Reason::Closed,
        Reason::LowPriority,
        Reason::NoRoom,
    ];

    /// The name in responses, logs and metrics, such as `critical_pressure`.
    pub fn as_str(self) -> &'static str {
        self.words().0
    }

    /// A retry cannot succeed: the request is too large, now and later.
    pub fn is_permanent(self) -> bool {
        matches!(self, Reason::NeverFits | Reason::ResultTooLarge)
    }

    /// More memory would have served it.
    pub(crate) fn is_for_memory(self) -> bool {
        matches!(
            self,
            Reason::CriticalPressure
                | Reason::WaitTimeout
                | Reason::WaitTooLong
                | Reason::QueueFull
                | Reason::LowPriority
                | Reason::NoRoom
        )
    }

    /// Its name, and what it says to people.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Reason::CriticalPressure => ("critical_pressure", "memory is critically low"),
            Reason::WaitTimeout => ("wait_timeout", "no memory became free before the deadline"),
            Reason::WaitTooLong => (
                "wait_too_long",
                "the wait for memory would exceed the deadline",
            ),
            Reason::QueueFull => ("queue_full", "too many requests wait for memory"),
            Reason::NeverFits => ("never_fits", "the request needs more memory than the limit"),
            Reason::Cancelled => ("cancelled", "the request was stopped to free memory"),
            Reason::ResultTooLarge => ("result_too_large", "the result is larger than the limit"),
            Reason::Closed => ("closed", "the service is shutting down"),
            Reason::LowPriority => (
                "low_priority",
                "memory is short and the request's priority is low",
            ),
            Reason::NoRoom => ("no_room", "not enough memory is free now"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that was not admitted.
///
/// The error flavour returns it as a [`BoxError`]; downcast to tell it from
/// the errors of other middleware.
///
/// ```
/// use tower_memory_guard::{BoxError, Rejected};
///
/// fn is_overload(error: &BoxError) -> bool {
///     error.downcast_ref::<Rejected>().is_some_and(|r| !r.reason().is_permanent())
/// }
/// ```
///
/// Only a guard makes one. Tests of what is done with it have theirs make it, over a
/// [`ManualSource`](crate::ManualSource); for any reason with the feature `test-util`:
///
/// ```
/// use tower_memory_guard::{ManualSource, MemoryGuardLayer, Pressure, Reason};
///
/// let memory = ManualSource::new(1 << 30);
/// let layer = MemoryGuardLayer::builder().memory_source(memory.clone()).build()?;
/// let guard = layer.guard();
/// // By itself:
/// assert_eq!(guard.try_acquire(2 << 30).unwrap_err().reason(), Reason::NeverFits);
/// memory.set_usage_bytes(1 << 30);
/// guard.sample_now();
/// assert_eq!(guard.try_acquire(1024).unwrap_err().reason(), Reason::CriticalPressure);
/// # #[cfg(feature = "test-util")] {
/// // With `test-util`:
/// let rejected = guard.rejection(Reason::Cancelled);
/// assert_eq!(rejected.pressure(), Pressure::Critical);
/// assert_eq!(rejected.memory_percent(), 100.0);
/// # }
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    pub(crate) reason: Reason,
    pub(crate) pressure: Pressure,
    pub(crate) memory_percent: f64,
    pub(crate) retry_after: Option<Duration>,
}

impl Rejected {
    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The pressure level at that moment.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Memory in use at the last sample, in percent of its limit (0–100).
    pub fn memory_percent(&self) -> f64 {
        self.memory_percent
    }

    /// When to try again: the expected wait of the backlog, or at CRITICAL how much longer
    /// that is expected to last, with up to half of it added at random, in whole seconds from 1
    /// to 60; up to sixteen times that for a tenant beyond its
    /// [`retry_budget`](crate::MemoryGuardBuilder::retry_budget). `None` if a retry cannot help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (memory at {:.1} % of its limit, {})",
            self.reason.words().1,
            self.memory_percent,
            self.pressure
        )
    }
}

impl std::error::Error for Rejected {}

/// A response was ended because its peer did not read it for longer than
/// [`body_timeout`](crate::MemoryGuardBuilder::body_timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStalled;

impl fmt::Display for PeerStalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer did not read the response in time, so its memory was given back")
    }
}

impl std::error::Error for PeerStalled {}

/// Work should stop: nobody waits for its result any more, or the guard needs its memory.
///
/// From [`Permit::checkpoint`](crate::Permit::checkpoint) and
/// [`Permit::checkpoint_async`](crate::Permit::checkpoint_async).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the work was told to stop: nobody waits for it, or its memory is needed")
    }
}

impl std::error::Error for Cancelled {}

/// Settings that cannot be used: all of them, not just the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub(crate) problems: Vec<Problem>,
}

/// One setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(crate) setting: String,
    pub(crate) value: String,
    pub(crate) expected: String,
}

impl Problem {
    /// The environment variable or builder method at fault.
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// Its value, as given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What would be right.
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            value,
            expected,
        } = self;
        write!(f, "{setting} = {value:?}: expected {expected}")
    }
}

impl ConfigError {
    /// Every setting at fault.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "setting" } else { "settings" };
        write!(f, "memory guard: {count} {noun} cannot be used")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
