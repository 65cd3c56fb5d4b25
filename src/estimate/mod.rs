//! What a request will need, and how much of it usage shows already.
//!
//! An [`Estimate`] opens no file and reads no clock. [`UsageEstimate`] knows
//! the process's usage only, not what each request holds.

mod usage;

use std::time::Duration;

pub(crate) use usage::UsageEstimate;

/// What an estimate learns from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// Time since the sampler began.
    pub(crate) now: Duration,
    /// Bytes in use at the own level.
    pub(crate) usage_bytes: u64,
    /// Requests in flight, this guard's and all guards'.
    pub(crate) own_in_flight: u32,
    pub(crate) all_in_flight: u32,
    /// Requests of this guard that have finished since it began.
    pub(crate) completed: u64,
}

/// Estimates the memory of requests.
pub(crate) trait Estimate: Send {
    /// Learns from one full sample. Called in the order of time.
    fn observe(&mut self, evidence: Evidence);

    /// A fresher figure of the usage alone. It may contain page cache that the
    /// next full sample takes off, so nothing is learned from it.
    fn see_usage(&mut self, usage_bytes: u64);

    /// What a request is expected to need at its peak.
    fn request_bytes(&self) -> u64;

    /// What a request is known to need at least; 0 until requests have been seen.
    fn low_bytes(&self) -> u64;

    /// How much of `reserved_bytes` usage shows already: a lower bound.
    fn realised_bytes(&self, reserved_bytes: u64) -> u64;
}
