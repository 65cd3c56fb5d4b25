//! [`Pausing`]: how much less is admitted, so that what is in flight is paused less.

use std::time::Duration;

use crate::running::brake::Running;

/// How fast the margin follows: by this share of the limit for each second in which all
/// that is held is paused.
const PER_SECOND: f64 = 0.2;
/// At most so much of the limit.
const MOST: f64 = 0.1;
/// Of a longer time without a look nothing is known.
const LONGEST: Duration = Duration::from_millis(100);

/// A request that is paused holds its memory and gets nothing done. Where the share of
/// memory × time that is spent so passes a target, less is admitted than is forecast to fit,
/// and more again where it falls below: an integral controller, bounded on both sides so
/// that it does not wind up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pausing {
    /// The share of memory × time that may be spent paused.
    pub(crate) target: f64,
    at: Duration,
    /// A share of the limit.
    margin: f64,
}

impl Pausing {
    /// What is not admitted into, as a share of the limit.
    pub(super) fn margin(&self) -> f64 {
        self.margin
    }

    /// These are in flight.
    pub(super) fn observe(&mut self, runners: &[Running], now: Duration) {
        let (mut held_bytes, mut paused_bytes) = (0.0, 0.0);
        for running in runners {
            let bytes = f64::from(running.runner.held_bytes);
            held_bytes += bytes;
            // A runner knows that only once the brake plans with it.
            if running.request.slot().is_paused() {
                paused_bytes += bytes;
            }
        }
        self.see(held_bytes, paused_bytes, now);
    }

    fn see(&mut self, held_bytes: f64, paused_bytes: f64, now: Duration) {
        let elapsed = now.saturating_sub(self.at).min(LONGEST).as_secs_f64();
        self.at = now;
        if held_bytes > 0.0 {
            let beyond = paused_bytes / held_bytes - self.target;
            self.margin = (self.margin + beyond * PER_SECOND * elapsed).clamp(0.0, MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_target(target: f64) -> Pausing {
        Pausing {
            target,
            ..Pausing::default()
        }
    }

    fn after(seconds: u64, paused_share: f64, mut pausing: Pausing) -> Pausing {
        let from = pausing.at;
        for tick in 1..=seconds * 100 {
            let now = from + Duration::from_millis(tick * 10);
            pausing.see(100.0, 100.0 * paused_share, now);
        }
        pausing
    }

    #[test]
    fn less_is_admitted_where_too_much_is_paused_and_more_again_later() {
        let pausing = after(2, 0.25, with_target(0.15));
        assert!((0.035..0.045).contains(&pausing.margin()), "{pausing:?}");
        assert_eq!(after(60, 0.25, pausing).margin(), MOST);
        assert_eq!(after(10, 0.05, pausing).margin(), 0.0);
    }

    #[test]
    fn within_the_target_nothing_is_put_by() {
        assert_eq!(after(60, 0.1, with_target(0.15)).margin(), 0.0);
    }
}
