//! Counters, logs and metrics: what a guard tells of itself.
pub(crate) mod logs;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod outcome;
pub(crate) mod recent;
pub(crate) mod stats;
pub(crate) mod tally;
pub(crate) mod wait_times;
