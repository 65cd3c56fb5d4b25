//! How long a wait will be.

use std::time::Duration;

/// What is measured is averaged over about so long.
const AVERAGED_OVER: Duration = Duration::from_secs(5);
/// The most that was reserved at once counts half after so long.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// How long work takes is known once so many times that has been measured: work that
/// has begun together has not ended at first.
const KNOWN_AFTER: f64 = 4.0;
/// One in so many waits may turn out shorter than the bound that rejects.
const SHORTER_ONE_IN: f64 = 100.0;
/// How far one observation moves the bound.
const STEP: f64 = 0.02;
/// A wait is at least this part of its forecast, at first and at the very least. In
/// overload most give up before their turn, so waits are a part of what all of those
/// ahead would take.
const FIRST_BOUND: f64 = 0.1;
const LEAST_BOUND: f64 = 0.02;
/// Errors are averaged over about so many waits.
const ERRORS: f64 = 64.0;

/// How long it takes until a waiter's turn comes: those ahead of it need so many KiB,
/// and by Little's law (1961) as much as can be reserved at once is given back in the time
/// that work takes, which is what was reserved over time for each KiB that was given back.
/// What can be reserved at once is the most that lately was: what is reserved at the moment
/// may be little because much was turned away.
///
/// A wait is rejected beforehand only if even the shortest of a hundred like it would
/// be too long: the share of the forecast that one in a hundred waits falls short of is
/// tracked by stochastic approximation (Robbins and Monro, 1951). Those who give up
/// count, too: they waited at least so long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitForecast {
    /// Means of late, for each millisecond: KiB reserved, and KiB given back.
    reserved_kib: f64,
    ended_kib: f64,
    measured_ms: f64,
    /// The most that was reserved, decayed.
    most_kib: f64,
    last: Option<(u64, u64)>,
    /// How far the bound is above the first one.
    raised: f64,
    error_ms: f64,
    checked: u64,
}

impl WaitForecast {
    /// How long work takes, on average over its KiB. `None`: not known.
    fn hold_ms(&self) -> Option<f64> {
        if self.ended_kib <= 0.0 {
            return None;
        }
        let hold_ms = self.reserved_kib / self.ended_kib;
        (self.measured_ms >= hold_ms * KNOWN_AFTER).then_some(hold_ms)
    }

    /// When the last of so many KiB is granted. `None`: not known.
    pub(super) fn expected_ms(&self, ahead_kib: u64) -> Option<u64> {
        let turns = ahead_kib as f64 / self.most_kib.max(1.0);
        self.hold_ms().map(|hold_ms| (hold_ms * turns) as u64)
    }

    /// A wait that is expected to be so long will be at least this, but for one in a
    /// hundred.
    pub(super) fn at_least_ms(&self, expected_ms: u64) -> u64 {
        (expected_ms as f64 * (FIRST_BOUND + self.raised)) as u64
    }

    /// Now so many KiB are reserved, and so many were ever given back.
    pub(super) fn measure(&mut self, now_ms: u64, reserved_kib: u64, ended_kib: u64) {
        let before = self.last.replace((now_ms, ended_kib));
        let Some((last_ms, last_kib)) = before else {
            return;
        };
        let elapsed_ms = now_ms.saturating_sub(last_ms) as f64;
        let ended_kib = ended_kib.saturating_sub(last_kib) as f64;
        // While nothing runs, time says nothing.
        if elapsed_ms == 0.0 {
            self.last = before;
            return;
        }
        if reserved_kib == 0 && ended_kib == 0.0 {
            return;
        }
        let half_lives = elapsed_ms / HALF_LIFE.as_millis() as f64;
        self.most_kib = (self.most_kib * 0.5_f64.powf(half_lives)).max(reserved_kib as f64);
        self.measured_ms += elapsed_ms;
        let over_ms = self.measured_ms.min(AVERAGED_OVER.as_millis() as f64);
        let step = (elapsed_ms / over_ms).min(1.0);
        self.reserved_kib += (reserved_kib as f64 - self.reserved_kib) * step;
        self.ended_kib += (ended_kib / elapsed_ms - self.ended_kib) * step;
    }

    pub(super) fn granted(&mut self, expected_ms: Option<u64>, waited_ms: u64) {
        let Some(expected_ms) = expected_ms else {
            return;
        };
        let error = waited_ms as f64 - expected_ms as f64;
        self.error_ms += (error.abs() - self.error_ms) / ERRORS;
        self.checked += 1;
        self.learn(waited_ms < self.at_least_ms(expected_ms));
    }

    /// It would have waited longer.
    pub(super) fn gave_up(&mut self, expected_ms: Option<u64>, waited_ms: u64) {
        if expected_ms.is_some_and(|expected| waited_ms >= self.at_least_ms(expected)) {
            self.learn(false);
        }
    }

    fn learn(&mut self, was_shorter: bool) {
        let moved = match was_shorter {
            true => -STEP,
            false => STEP / (SHORTER_ONE_IN - 1.0),
        };
        let raised = self.raised + moved;
        self.raised = raised.clamp(LEAST_BOUND - FIRST_BOUND, 1.0 - FIRST_BOUND);
    }

    pub(super) fn errors(&self) -> (Duration, u64) {
        (Duration::from_millis(self.error_ms as u64), self.checked)
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use std::cmp::Ordering::{Equal, Greater, Less};

    use super::*;

    #[test]
    fn what_is_reserved_is_given_back_once_in_the_time_that_work_takes() {
        let mut wait = WaitForecast::default();
        assert_eq!(wait.expected_ms(1000), None);
        // 500 KiB of work that takes 400 ms.
        for step in 1..=100 {
            wait.measure(step * 50, 500, (step * 50).saturating_sub(400) * 500 / 400);
            assert!(step > 20 || wait.expected_ms(1).is_none(), "{step}");
        }
        // Nothing runs: that says nothing.
        wait.measure(60_000, 0, 4600 * 500 / 400);
        let expected = wait.expected_ms(1_000).unwrap();
        assert!((780..1000).contains(&expected), "{expected}");
    }

    #[test]
    fn a_wait_follows_what_is_reserved_and_given_back_of_late() {
        let mut wait = WaitForecast::default();
        let (mut second, mut ended_kib) = (0, 0);
        let mut run = |wait: &mut WaitForecast, seconds, reserved_kib, kib_per_second| {
            for _ in 0..seconds {
                second += 1;
                ended_kib += kib_per_second;
                wait.measure(second * 1000, reserved_kib, ended_kib);
            }
            wait.expected_ms(10_000).unwrap().next_multiple_of(10)
        };
        // Work takes a second, and 1,000 KiB of it are in flight at once.
        assert_eq!(run(&mut wait, 20, 1000, 1000), 10_000);
        // The most counts half after half a minute.
        assert_eq!(run(&mut wait, 30, 100, 100), 20_000);
        assert_eq!(run(&mut wait, 60, 1000, 1000), 10_000);
        // Averages move by a fifth in a second: 1,200 ms for each of 2,000 KiB.
        assert_eq!(run(&mut wait, 1, 2000, 1000), 6_000);
        // And 1,360 KiB are reserved, 1,200 given back in a second.
        assert_eq!(run(&mut wait, 1, 2000, 2000), 5_670);
        // A second in which nothing ends counts as well: 1,488 KiB, and 960.
        assert_eq!(run(&mut wait, 1, 2000, 0), 7_750);
    }

    #[test]
    fn errors_are_averaged_over_the_waits_that_were_forecast() {
        let mut wait = WaitForecast::default();
        wait.granted(None, 5000);
        assert_eq!(wait.errors(), (Duration::ZERO, 0));
        wait.granted(Some(1000), 1640);
        assert_eq!(wait.errors(), (Duration::from_millis(10), 1));
        wait.granted(Some(1000), 360);
        assert_eq!(wait.errors(), (Duration::from_millis(19), 2));
    }

    #[test]
    fn a_wait_that_is_as_long_as_the_bound_raises_it_and_so_does_one_that_was_given_up() {
        let learned = |learn: fn(&mut WaitForecast)| {
            let mut wait = WaitForecast::default();
            learn(&mut wait);
            wait.at_least_ms(1_000_000).cmp(&100_000)
        };
        assert_eq!(learned(|wait| wait.granted(Some(1000), 100)), Greater);
        assert_eq!(learned(|wait| wait.granted(Some(1000), 99)), Less);
        assert_eq!(learned(|wait| wait.gave_up(Some(1000), 100)), Greater);
        // How long it would have waited is not known.
        assert_eq!(learned(|wait| wait.gave_up(Some(1000), 99)), Equal);
        assert_eq!(learned(|wait| wait.gave_up(None, 100)), Equal);
    }

    #[test]
    fn one_wait_in_a_hundred_is_shorter_than_the_bound() {
        let mut wait = WaitForecast::default();
        let mut random = fastrand::Rng::with_seed(3);
        let mut shorter = 0;
        for step in 0..20_000 {
            let waited = 300 + random.u64(0..1400);
            let bound = wait.at_least_ms(1000);
            // Those that are turned away are never seen.
            if bound > 900 {
                continue;
            }
            shorter += u64::from(step >= 2_000 && waited < bound);
            wait.granted(Some(1000), waited);
        }
        assert!((90..360).contains(&shorter), "{shorter} of 18,000");
    }
}
