//! How a policy decides what may be admitted.
//!
//! The predictive one admits as much as is forecast to fit, while `F + r ≤ θ·L`, with no
//! bound on the count unless one is configured. θ lies one point below where CRITICAL
//! begins, two where it is not known what each request holds. Levels report how full memory
//! is; only CRITICAL holds back, since by then the forecast was wrong. The ladder bounds the
//! count as well.

use super::ladder::Ladder;
use super::latch::Latch;
use super::levels::Levels;
use super::{Decision, Observation, allowance_bytes, are_within, free_bytes, worst_fraction};
use crate::config::{Config, Policy};
use crate::limiter::MAX_COUNT;
use crate::pressure::Pressure;

/// θ lies so far below where CRITICAL begins.
const BELOW_CRITICAL: f64 = 0.01;
/// And so far where it is not known what each request holds.
const BELOW_CRITICAL_UNACCOUNTED: f64 = 0.02;

#[derive(Debug, Default)]
pub(crate) struct Strategy {
    levels: Levels,
    theta: f64,
    base: u32,
    ladder: Option<Ladder>,
    latch: Latch,
}

impl Strategy {
    pub(crate) fn new(config: &Config, accounted: bool) -> Self {
        let levels = Levels::new(config);
        let (ladder, base) = match config.decided_policy() {
            Policy::Predictive => (None, config.max_concurrent.unwrap_or(MAX_COUNT)),
            _ => {
                let (ladder, base) = Ladder::new(config);
                (Some(ladder), base)
            }
        };
        let below_critical = match accounted {
            _ if ladder.is_some() => 0.0,
            true => BELOW_CRITICAL,
            false => BELOW_CRITICAL_UNACCOUNTED,
        };
        Self {
            theta: levels.critical() - below_critical,
            levels,
            base,
            ladder,
            latch: Latch::default(),
        }
    }

    /// Decides from one sample. Called in the order of time.
    pub(crate) fn decide(&mut self, o: &Observation<'_>) -> Decision {
        let mut pressure = self.levels.next(worst_fraction(o.levels));
        let mut concurrency = self.base;
        if let Some(ladder) = &mut self.ladder {
            (pressure, self.base, concurrency) = ladder.step(o, pressure);
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
