//! Which request is told to stop, as a last resort, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Controller};
use crate::policy::worst_kill_fraction;
use crate::running::victims::choose;
use crate::telemetry::recent::Kind;

/// Usage at which a request is cancelled, as a share of the hard limit. Late, since
/// a forecast that is only feared costs a request whose work was nearly done.
const CANCEL_AT: f64 = 0.97;
/// Between two cancellations, so that the first can take effect.
const CANCEL_PAUSE: Duration = Duration::from_millis(30);
/// In each second at most one in so many requests, but one.
const CANCEL_ONE_IN: u32 = 4;

/// The cancellations of the present second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cancellations {
    second: u64,
    count: u32,
    last: Option<Duration>,
}

impl Cancellations {
    fn may(&mut self, in_flight: u32, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.count = 0;
        }
        let rested = self.last.is_none_or(|last| now >= last + CANCEL_PAUSE);
        let may = rested && self.count < (in_flight / CANCEL_ONE_IN).max(1);
        if may {
            self.count += 1;
            self.last = Some(now);
        }
        may
    }
}

impl Controller {
    pub(super) fn must_cancel(&self, control: &mut Control, now: Duration) -> bool {
        self.live.may_cancel()
            && !control.blind
            && (Self::is_stuck(control, now) || worst_kill_fraction(&control.levels) >= CANCEL_AT)
            && control
                .cancellations
                .may(self.limiter.in_flight(&self.bounds), now)
    }

    /// Tells one to stop.
    pub(super) fn cancel_one(&'static self, missing_bytes: u64, now: Duration) {
        let from = self.running.victims(self.accounted, now);
        let victims = choose(missing_bytes, from);
        // It may have ended meanwhile.
        let victim = victims.first();
        if let Some(victim) = victim.filter(|one| one.slot.cancel(one.generation)) {
            self.brake.force(victim.slot, victim.generation);
            self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
            let text = "a request was told to stop".into();
            self.note(Kind::Cancelled, text, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_cancelled_at_a_time() {
        let mut cancellations = Cancellations::default();
        let mut count = |in_flight, from: u64| {
            let ticks = (from..from + 1000).map(Duration::from_millis);
            ticks
                .filter(|&now| cancellations.may(in_flight, now))
                .count()
        };
        assert_eq!(count(3, 0), 1);
        assert_eq!(count(20, 1000), 5);
        assert!(count(4000, 2000) <= 34);
    }
}
