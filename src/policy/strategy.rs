//! How a policy decides what may be admitted.
//!
//! The predictive one admits as much as is forecast to fit, while `F + r ≤ θ·L`, with no
//! bound on the count unless one is configured. θ lies one point below where CRITICAL
//! begins, two where it is not known what each request holds. Levels report how full memory
//! is; only CRITICAL holds back, since by then the forecast was wrong.
//!
//! The ladder bounds the count as well, by level:
//!
//! | usage | level | concurrency |
//! |---|---|---|
//! | below STABLE | NORMAL | base |
//! | ten points below WARNING | STABLE | unchanged, or base − 25 % if that was less |
//! | from WARNING | WARNING | base − 25 % |
//! | from HIGH | HIGH | base − 50 % |
//! | from CRITICAL | CRITICAL | what is active; new work is rejected |
//!
//! Usage moves the level up at once, and down only from a band below the
//! threshold, so that it does not flap. Reservations end where CRITICAL
//! begins: θ is the critical fraction.

use super::latch::Latch;
use super::levels::Levels;
use super::{
    Decision, Observation, allowance_bytes, are_within, free_bytes, limit_bytes, worst_fraction,
};
use crate::config::{Config, Policy};
use crate::limiter::MAX_COUNT;
use crate::pressure::Pressure;

/// θ lies so far below where CRITICAL begins.
const BELOW_CRITICAL: f64 = 0.01;
/// And so far where it is not known what each request holds.
const BELOW_CRITICAL_UNACCOUNTED: f64 = 0.02;

/// The ladder's base without a configured one: this share of what fits.
const BASE_SHARE: f64 = 0.8;
/// Stalled for this share of the time: one level up on the ladder, HIGH at most.
const STALLED_PERCENT: f64 = 5.0;

#[derive(Debug, Default)]
pub(crate) struct Strategy {
    levels: Levels,
    theta: f64,
    max_concurrent: Option<u32>,
    base: u32,
    /// Of the ladder: quarters of the base that the level leaves.
    quarters: Option<u64>,
    latch: Latch,
}

impl Strategy {
    pub(crate) fn new(config: &Config, accounted: bool) -> Self {
        let levels = Levels::new(config);
        let is_ladder = config.decided_policy() != Policy::Predictive;
        let below_critical = match accounted {
            _ if is_ladder => 0.0,
            true => BELOW_CRITICAL,
            false => BELOW_CRITICAL_UNACCOUNTED,
        };
        let mut strategy = Self {
            theta: levels.critical() - below_critical,
            levels,
            max_concurrent: config.max_concurrent,
            base: MAX_COUNT,
            quarters: is_ladder.then_some(4),
            latch: Latch::default(),
        };
        // Until memory has been seen, the share of a limit of one's own is all there is.
        let limit_bytes = config.memory_limit_bytes;
        let limit_bytes = limit_bytes.map(|bytes| (bytes as f64 * config.share_fraction) as u64);
        strategy.base = strategy.base_of(limit_bytes, config.estimated_bytes_per_request);
        strategy
    }

    fn base_of(&self, limit_bytes: Option<u64>, request_bytes: u64) -> u32 {
        let limit_bytes = limit_bytes.filter(|_| self.quarters.is_some());
        let fitting = limit_bytes.map_or(MAX_COUNT, |limit| {
            let fitting = limit as f64 / request_bytes.max(1) as f64 * BASE_SHARE;
            (fitting as u32).clamp(1, MAX_COUNT)
        });
        self.max_concurrent.unwrap_or(fitting)
    }

    /// Decides from one sample. Called in the order of time.
    pub(crate) fn decide(&mut self, o: &Observation<'_>) -> Decision {
        let mut pressure = self.levels.next(worst_fraction(o.levels));
        self.base = self.base_of(limit_bytes(o.levels), o.request_bytes);
        let mut concurrency = self.base;
        if let Some(quarters) = &mut self.quarters {
            if o.stall_percent >= STALLED_PERCENT && pressure < Pressure::High {
                pressure = Pressure::from_index(pressure as u8 + 1);
            }
            *quarters = match pressure {
                Pressure::Normal => 4,
                // As before, but no less than further up.
                Pressure::Stable => (*quarters).max(3),
                Pressure::Warning => 3,
                Pressure::High | Pressure::Critical => 2,
            };
            concurrency = (u64::from(self.base) * *quarters / 4).max(1) as u32;
        }
        let gate = pressure == Pressure::Critical;
        let allowance_bytes = allowance_bytes(o, self.theta);
        let needed_bytes = o.reserved_bytes.saturating_add(o.next_bytes);
        let blocked = gate || !are_within(needed_bytes, allowance_bytes);
        let room = self.base.saturating_sub(o.active);
        Decision {
            pressure,
            base_concurrency: self.base,
            concurrency: if gate { o.active } else { concurrency },
            allowance_bytes,
            free_bytes: free_bytes(o.levels),
            gate,
            probes: self.latch.probes(o, blocked, room),
        }
    }

    /// θ: the share of each limit up to which memory is promised.
    pub(crate) fn theta(&self) -> f64 {
        self.theta
    }

    /// As of the last decision: what bounds where nothing can be observed.
    pub(crate) fn base_concurrency(&self) -> u32 {
        self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::outlook::Outlook;
    use crate::memory::MemoryLevel;

    fn decide(usage_bytes: u64, reserved_bytes: u64, outstanding_bytes: i64) -> Decision {
        stalled(usage_bytes, reserved_bytes, outstanding_bytes, 0.0)
    }

    fn stalled(
        usage_bytes: u64,
        reserved_bytes: u64,
        outstanding_bytes: i64,
        stall_percent: f64,
    ) -> Decision {
        Strategy::new(&Config::default(), true).decide(&Observation {
            stall_percent,
            active: 4,
            reserved_bytes,
            outstanding: Outlook::constant(outstanding_bytes),
            next_bytes: 10,
            ..Observation::of(&[MemoryLevel::new(usage_bytes, Some(1000))])
        })
    }

    #[test]
    fn what_is_reserved_beyond_the_forecast_is_free() {
        // 400 used, 100 of the 300 reserved are to come: 470 of θ = 970 are free.
        assert_eq!(decide(400, 300, 100).allowance_bytes, Some(300 + 470));
        assert_eq!(decide(900, 300, 100).allowance_bytes, Some(300 - 30));
    }

    #[test]
    fn stalls_hold_newcomers_back_and_reject_nobody() {
        let decision = stalled(400, 300, 0, 10.0);
        assert_eq!(
            (decision.allowance_bytes, decision.gate),
            (Some(300), false)
        );
        // Who is alone goes by what is free.
        assert_eq!(decision.free_bytes, Some(600));
        assert!(stalled(400, 300, 0, 9.9).allowance_bytes > Some(300));
    }

    #[test]
    fn levels_report_and_only_critical_holds_back() {
        for (usage, level) in [
            (700, Pressure::Normal),
            (850, Pressure::Stable),
            (900, Pressure::Warning),
            (960, Pressure::High),
        ] {
            let decision = decide(usage, 0, 0);
            assert_eq!((decision.pressure, decision.gate), (level, false));
            assert_eq!(decision.concurrency, MAX_COUNT);
        }
        let critical = decide(985, 0, 0);
        assert_eq!((critical.gate, critical.concurrency), (true, 4));
    }
}
