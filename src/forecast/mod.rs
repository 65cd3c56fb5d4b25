//! What requests will need, and what the process will.
//!
//! Nothing here opens a file or reads a clock. A [`Forecast`] is for one guard.
//! With accounting, its book knows what each request holds ([`book`]), what requests
//! like it went on to need ([`profile`]), and how wide the margin has to be
//! ([`calibration`]); [`usage`] then sees what accounting does not explain. Without,
//! that is all there is.

mod book;
mod calibration;
mod cohort;
pub(crate) mod course;
mod histogram;
mod kinds;
mod lately;
mod need;
pub(crate) mod news;
pub(crate) mod outlook;
mod process;
mod profile;
mod record;
mod retained;
#[cfg(test)]
mod simulation_tests;
pub(crate) mod state;
mod trajectory;
mod usage;

use std::time::Duration;

pub(crate) use process::{Forecast, Portion};
pub use record::Estimates;
pub(crate) use retained::BeforeTrim;

/// No request is taken to need less.
const LEAST_BYTES: u64 = 64 << 10;

/// What estimates learn from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// Time since the sampler began.
    pub(crate) now: Duration,
    /// Bytes in use at the own level.
    pub(crate) usage_bytes: u64,
    /// The same of this process alone, where it is known.
    pub(crate) process_bytes: u64,
    /// Bytes that the process has allocated, where somebody tells.
    pub(crate) allocated_bytes: Option<u64>,
    /// With accounting: what the allocator says that it keeps, if that may be much.
    pub(crate) kept_bytes: u64,
    /// Without accounting: polls show what they allocate, and not only what they touch.
    pub(crate) polls_tell: bool,
    /// And so they all have since the last sample, and none was left out.
    pub(crate) all_told: bool,
    /// Since when the brake has been on, and it was asked what is allocated.
    pub(crate) seen_since: Duration,
    /// What they have added, if none is under way while it is known what is allocated.
    pub(crate) told_bytes: Option<i64>,
    /// Where the allocator does not tell: what is resident and stands in no file.
    pub(crate) anonymous_bytes: Option<u64>,
    /// What polls have added so far.
    pub(crate) grown_bytes: i64,
    /// Requests in flight, this guard's and all guards'.
    pub(crate) own_in_flight: u32,
    pub(crate) all_in_flight: u32,
    /// Requests that wait for memory: their connections take some, too.
    pub(crate) waiting: u32,
    /// Without accounting, bytes in use for bodies of requests whose work has not begun;
    /// these requests are not among those in flight.
    pub(crate) body_bytes: u64,
    /// Requests of this guard that have finished since it began.
    pub(crate) completed: u64,
}
