//! From a sample to what may be admitted: pure functions of their arguments.
//!
//! A [`Strategy`] opens no file and reads no clock. It is given what was
//! observed, and answers with a [`Decision`] that the guard publishes to
//! the limiter.

mod latch;
pub(crate) mod levels;
mod strategy;
pub(crate) mod wall;

use std::time::Duration;

pub(crate) use strategy::Strategy;

use crate::forecast::outlook::Outlook;
use crate::memory::MemoryLevel;
use crate::pressure::Pressure;

/// While every task waits for memory for this share of the time, nobody else is let in.
const HELD_BACK_PERCENT: f64 = 10.0;

#[derive(Clone, Debug)]
pub(crate) struct Observation<'a> {
    /// Time since the sampler began; a quick look does not ask for it.
    pub(crate) now: Option<Duration>,
    /// The own level first, then those around it.
    pub(crate) levels: &'a [MemoryLevel],
    /// In use at the own level; of what several processes share, this one's part.
    pub(crate) own_usage_bytes: u64,
    /// Percent of the last ten seconds in which every task waited for memory.
    pub(crate) stall_percent: f64,
    /// Requests of this guard in flight.
    pub(crate) active: u32,
    /// Probes granted that nobody has used.
    pub(crate) unused_probes: u32,
    /// Somebody is paused who would go on with more room: nobody new is let in, by a probe either.
    pub(crate) pauses: bool,
    /// What is reserved on the ledger.
    pub(crate) reserved_bytes: u64,
    /// By how much usage may still rise without another request.
    pub(crate) outstanding: Outlook,
    /// What a request reserves, on average.
    pub(crate) request_bytes: u64,
    /// What the one that is next reserves, and what of the allowance it may not have.
    pub(crate) next_bytes: u64,
    /// What a request is known to need at least.
    pub(crate) low_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) pressure: Pressure,
    pub(crate) base_concurrency: u32,
    pub(crate) concurrency: u32,
    /// Most bytes reserved on the ledger; `None`: any number.
    pub(crate) allowance_bytes: Option<u64>,
    /// Bytes free below where memory ends; `None`: nobody knows where that is.
    pub(crate) free_bytes: Option<u64>,
    /// New work is rejected.
    pub(crate) gate: bool,
    /// Requests to admit past the bounds from now on; `None`: as before.
    pub(crate) probes: Option<u32>,
}

impl Decision {
    /// By what a strategy says where nothing can be observed.
    pub(crate) fn blind(strategy: &Strategy) -> Self {
        let base = strategy.base_concurrency();
        Self {
            base_concurrency: base,
            concurrency: base,
            ..Self::default()
        }
    }
}

/// The greatest share of its bound that any level uses (0–1, or more).
pub(crate) fn worst_fraction(levels: &[MemoryLevel]) -> f64 {
    worst(levels, MemoryLevel::bound_bytes)
}

/// Where a level ends: something is killed there or, where nothing is, the kernel throttles
/// whoever allocates until next to nothing gets on.
pub(crate) fn end_bytes(level: &MemoryLevel) -> Option<u64> {
    level.limit_bytes.or(level.high_bytes)
}

/// The greatest share of so many bytes that any level uses which has them.
pub(crate) fn worst(levels: &[MemoryLevel], bytes: impl Fn(&MemoryLevel) -> Option<u64>) -> f64 {
    let fractions = levels
        .iter()
        .filter_map(|level| Some(level.usage_bytes as f64 / bytes(level)?.max(1) as f64));
    fractions.fold(0.0, f64::max)
}

/// Most bytes that may be reserved.
///
/// A request that reserves `r` fits when `F(t) + r·p(t) ≤ θ·L` at every level and at each
/// time `t` of the outlook, where the forecast `F(t)` is usage and what it will have grown
/// by, and `p(t)` the share of `r` that the request will hold then. With what is reserved
/// now on both sides that is `Σ reserved + r ≤ Σ reserved + min (θ·L − F(t)) / p(t)`: the
/// right side is what this returns, so that an admission compares one number.
pub(crate) fn allowance_bytes(observation: &Observation<'_>, theta: f64) -> Option<u64> {
    let reserved_bytes = observation.reserved_bytes;
    let is_held_back = observation.stall_percent >= HELD_BACK_PERCENT;
    let by_levels = observation.levels.iter().filter_map(|level| {
        let free_bytes = level.bound_bytes()? as f64 * theta - level.usage_bytes as f64;
        // What requests have on swap they touch again before they end. The rest of
        // what is there may never come back, and holds nobody up who is alone.
        let returning_bytes = level.swapped_bytes.min(reserved_bytes);
        let free_bytes = free_bytes - returning_bytes as f64;
        let more_bytes = observation.outstanding.reservable_bytes(free_bytes);
        Some((reserved_bytes as f64 + more_bytes).max(0.0) as u64)
    });
    by_levels
        .chain(is_held_back.then_some(reserved_bytes))
        .min()
}

/// `most_bytes`: `None` if there is no such bound.
pub(crate) fn are_within(bytes: u64, most_bytes: Option<u64>) -> bool {
    most_bytes.is_none_or(|most_bytes| bytes <= most_bytes)
}

/// Bytes free below where something is killed, at the tightest.
pub(crate) fn free_to_kill_bytes(levels: &[MemoryLevel]) -> Option<i64> {
    // A source may say anything; sums of these do not overflow.
    let bounded = |bytes: u64| bytes.min(1 << 60) as i64;
    let free = |level: &MemoryLevel| Some(bounded(level.limit_bytes?) - bounded(level.usage_bytes));
    levels.iter().filter_map(free).min()
}

/// Bytes free below where a level ends, at the tightest.
pub(crate) fn free_bytes(levels: &[MemoryLevel]) -> Option<u64> {
    let free = |level: &MemoryLevel| Some(end_bytes(level)?.saturating_sub(level.usage_bytes));
    levels.iter().filter_map(free).min()
}

/// Where the first level ends.
pub(crate) fn limit_bytes(levels: &[MemoryLevel]) -> Option<u64> {
    levels.iter().filter_map(end_bytes).min()
}

/// The tightest limit at which something is killed: what is larger never fits.
pub(crate) fn kill_bytes(levels: &[MemoryLevel]) -> Option<u64> {
    levels.iter().filter_map(|level| level.limit_bytes).min()
}

#[cfg(test)]
mod ladder_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Policy};

    const LEVEL: MemoryLevel = MemoryLevel {
        usage_bytes: 400,
        limit_bytes: Some(1000),
        high_bytes: None,
        swapped_bytes: 0,
    };

    impl<'a> Observation<'a> {
        /// Of one request in flight, and of others that need next to nothing.
        pub(super) fn of(levels: &'a [MemoryLevel]) -> Self {
            Self {
                now: Some(Duration::ZERO),
                levels,
                own_usage_bytes: levels[0].usage_bytes,
                stall_percent: 0.0,
                active: 1,
                unused_probes: 0,
                pauses: false,
                reserved_bytes: 0,
                outstanding: Outlook::constant(0),
                request_bytes: 1,
                next_bytes: 1,
                low_bytes: 0,
            }
        }
    }

    #[test]
    fn each_policy_probes_for_what_does_not_fit_and_for_nothing_that_does() {
        for policy in [Policy::Ladder, Policy::Predictive] {
            let new = || {
                let config = Config {
                    policy,
                    ..Config::default()
                };
                Strategy::new(&config, true)
            };
            let free_bytes = (new().theta() * 1000.0) as u64 - 400;
            for (next_bytes, probes) in [(free_bytes, None), (free_bytes + 1, Some(1))] {
                let mut strategy = new();
                let mut probes_at = |second| {
                    let now = Some(Duration::from_secs(second));
                    let observation = Observation {
                        now,
                        next_bytes,
                        reserved_bytes: 100,
                        active: 4,
                        ..Observation::of(&[LEVEL])
                    };
                    strategy.decide(&observation).probes
                };
                assert_eq!(probes_at(0), None);
                assert_eq!(probes_at(3), probes, "{next_bytes} of {free_bytes}");
            }
        }
    }

    #[test]
    fn what_requests_have_on_swap_is_not_free() {
        let swapped = MemoryLevel {
            swapped_bytes: 50,
            ..LEVEL
        };
        let allowed = |levels: &[MemoryLevel], reserved_bytes| {
            let observation = Observation {
                reserved_bytes,
                ..Observation::of(levels)
            };
            allowance_bytes(&observation, 0.5).unwrap()
        };
        assert_eq!(allowed(&[LEVEL], 100), 100 + 100);
        assert_eq!(allowed(&[swapped], 100), 100 + 100 - 50);
        // More than what is reserved is no request's.
        assert_eq!(allowed(&[swapped], 20), 20 + 100 - 20);
    }
}
