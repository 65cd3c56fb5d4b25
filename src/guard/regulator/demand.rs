//! How much of what there is would be needed to serve everybody.

use std::time::Duration;

use super::{Control, Regulator};

/// Rates are averaged over about so long: autoscalers look every 15 s.
const AVERAGED_OVER: Duration = Duration::from_secs(15);
/// What is shown at most, when next to nothing may be reserved.
const MOST: f64 = 100.0;

#[derive(Clone, Copy, Debug)]
struct Load {
    now: Duration,
    /// How much of what may be admitted is, at most 1.
    utilisation: f64,
    /// Requests that ever were turned away for want of memory, and that were finished.
    turned_away: u64,
    completed: u64,
    waiting: u64,
    wait_timeout: Duration,
}

/// The demand ratio: what would be in use if all could be served, over what may be.
///
/// Requests that were not served would have used as much as those that were, in
/// proportion to how many came: by Little's law (1961) what is in flight is the rate
/// times the time in flight, so with `a` requests finished and `b` not served in the
/// same time, everybody would have needed `1 + b / a` times as much. Not served are
/// those turned away; or those that wait beyond what can be served by their deadlines, if
/// that is more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    last: Option<(Duration, u64, u64)>,
    measured: Duration,
    utilisation: f64,
    /// The same, and all while somebody waits or is turned away.
    used: f64,
    waiting: f64,
    /// For each second.
    turned_away: f64,
    completed: f64,
    ratio: f64,
}

impl Demand {
    fn observe(&mut self, load: &Load) {
        let seen = (load.now, load.turned_away, load.completed);
        let (at, turned_away, completed) = self.last.unwrap_or(seen);
        self.last = Some(seen);
        let elapsed = load.now.saturating_sub(at);
        if elapsed.is_zero() && self.measured > Duration::ZERO {
            self.last = Some((at, turned_away, completed));
            return;
        }
        self.measured += elapsed;
        let over = self.measured.min(AVERAGED_OVER).as_secs_f64();
        let elapsed = elapsed.as_secs_f64();
        // The first is all there is: NaN is no number, and 1 is.
        let step = (elapsed / over).min(1.0);
        let mean = |mean: &mut f64, value: f64| *mean += (value - *mean) * step;
        let rate = |more: u64| {
            if elapsed > 0.0 {
                more as f64 / elapsed
            } else {
                0.0
            }
        };
        let more = load.turned_away.saturating_sub(turned_away);
        // What is too little for the next is as good as used.
        let is_short = more > 0 || load.waiting > 0;
        let used = if is_short { 1.0 } else { load.utilisation };
        mean(&mut self.used, used);
        mean(&mut self.utilisation, load.utilisation);
        mean(&mut self.turned_away, rate(more));
        mean(&mut self.waiting, load.waiting as f64);
        mean(
            &mut self.completed,
            rate(load.completed.saturating_sub(completed)),
        );
        // Of those who wait now, so many in a second are at their deadlines or served.
        let leave = self.waiting / load.wait_timeout.as_secs_f64().max(0.001);
        let unserved = self.turned_away.max(leave - self.completed);
        // Where nothing is finished, one request in the time of the average is.
        let completed = self.completed.max(1.0 / AVERAGED_OVER.as_secs_f64());
        let ratio = self.used * (1.0 + unserved / completed);
        self.ratio = ratio.min(MOST);
    }
}

impl Regulator {
    pub(super) fn observe_demand(&self, control: &mut Control, now: Duration) {
        let demand = &mut control.demand;
        demand.observe(&Load {
            now,
            utilisation: self.state.utilisation(),
            turned_away: self.state.counters.rejected_for_memory(),
            completed: control.completed,
            waiting: self.state.bounds.waiting() as u64,
            wait_timeout: self.state.config().wait_timeout,
        });
        self.state.shown.set_loads([
            demand.utilisation,
            demand.ratio,
            demand.completed,
            demand.turned_away,
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a minute at so many requests for each second, 10 of which are served.
    fn after_a_minute(utilisation: f64, arrivals: u64, waiting: u64) -> f64 {
        let mut demand = Demand::default();
        for tick in 0..600 {
            demand.observe(&Load {
                now: Duration::from_millis(tick * 100),
                utilisation,
                turned_away: tick * arrivals.saturating_sub(10) / 10,
                completed: tick * arrivals.min(10) / 10,
                waiting,
                wait_timeout: Duration::from_secs(10),
            });
        }
        demand.ratio
    }

    #[test]
    fn three_times_what_can_be_served_reads_about_three() {
        let ratio = after_a_minute(0.97, 30, 40);
        assert!((2.7..3.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn what_is_served_reads_as_what_is_used() {
        let ratio = after_a_minute(0.6, 6, 0);
        assert!((0.59..0.61).contains(&ratio), "{ratio}");
    }

    #[test]
    fn what_was_too_much_is_forgotten() {
        let mut demand = Demand::default();
        for second in 0..120 {
            demand.observe(&Load {
                now: Duration::from_secs(second),
                utilisation: 0.5,
                // 30 a second for a minute.
                turned_away: second.min(60) * 30,
                completed: second * 10,
                waiting: 0,
                wait_timeout: Duration::from_secs(10),
            });
            if second == 60 {
                assert!((3.5..4.1).contains(&demand.ratio), "{}", demand.ratio);
            }
        }
        assert!((0.5..0.6).contains(&demand.ratio), "{}", demand.ratio);
    }

    #[test]
    fn a_queue_that_is_not_served_in_time_asks_for_more() {
        // For ten seconds each at most: 100 of them are served in time.
        let ratio = after_a_minute(1.0, 10, 100);
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
        let ratio = after_a_minute(1.0, 10, 200);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn where_nothing_is_served_it_is_bounded() {
        let mut demand = Demand::default();
        for tick in 0..100 {
            demand.observe(&Load {
                now: Duration::from_secs(tick),
                utilisation: 0.0,
                turned_away: tick * 1000,
                completed: 0,
                waiting: 0,
                wait_timeout: Duration::ZERO,
            });
        }
        assert!((1.0..=MOST).contains(&demand.ratio), "{}", demand.ratio);
    }
}
