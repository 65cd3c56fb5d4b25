//! How long a wait will be.

use std::time::Duration;

/// Rates are averaged over about so long.
const AVERAGED_OVER: Duration = Duration::from_secs(3);
/// KiB per millisecond are not known before so much was granted.
const KNOWN_AFTER: Duration = Duration::from_secs(1);
/// One in so many waits may turn out shorter than the bound that rejects.
const SHORTER_ONE_IN: f64 = 100.0;
/// How far one observation moves the bound.
const STEP: f64 = 0.02;
const LEAST_BOUND: f64 = 0.05;
/// Errors are averaged over about so many waits.
const ERRORS: f64 = 64.0;

/// From the KiB that are granted in a second while somebody waits, how long it takes
/// until a waiter's turn comes.
///
/// A wait is rejected beforehand only if even the shortest of a hundred like it would
/// be too long: the share of the forecast that one in a hundred waits falls short of is
/// tracked by stochastic approximation (Robbins and Monro, 1951). Those who give up
/// count, too: they waited at least so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitForecast {
    kib_per_ms: f64,
    /// Time in which somebody waited, that the rate is known from.
    known_ms: f64,
    granted_kib: u64,
    measured_ms: Option<u64>,
    bound: f64,
    error_ms: f64,
    checked: u64,
}

impl Default for WaitForecast {
    fn default() -> Self {
        Self {
            kib_per_ms: 0.0,
            known_ms: 0.0,
            granted_kib: 0,
            measured_ms: None,
            bound: 0.5,
            error_ms: 0.0,
            checked: 0,
        }
    }
}

impl WaitForecast {
    /// When the last of so many KiB is granted. `None`: not known.
    pub(super) fn expected_ms(&self, ahead_kib: u64) -> Option<u64> {
        let known = self.known_ms >= KNOWN_AFTER.as_millis() as f64 && self.kib_per_ms > 0.0;
        known.then(|| (ahead_kib as f64 / self.kib_per_ms) as u64)
    }

    /// A wait that is expected to be so long will be at least this, but for one in a
    /// hundred.
    pub(super) fn at_least_ms(&self, expected_ms: u64) -> u64 {
        (expected_ms as f64 * self.bound) as u64
    }

    /// Measures the rate. `contended`: somebody waited since the last time.
    pub(super) fn measure(&mut self, now_ms: u64, contended: bool) {
        let granted_kib = std::mem::take(&mut self.granted_kib) as f64;
        let before = self.measured_ms.replace(now_ms);
        let Some(elapsed) = before.and_then(|before| now_ms.checked_sub(before)) else {
            return;
        };
        if !contended && granted_kib == 0.0 {
            return;
        }
        let elapsed = elapsed as f64;
        let over = (AVERAGED_OVER.as_millis() as f64).min(self.known_ms + elapsed);
        // A mean weighted by time: so much of it is new.
        let step = elapsed / over.max(1.0);
        let latest = granted_kib / elapsed.max(1.0);
        self.kib_per_ms += (latest - self.kib_per_ms) * step.min(1.0);
        self.known_ms += elapsed;
    }

    pub(super) fn granted(&mut self, expected_ms: Option<u64>, waited_ms: u64, kib: u64) {
        self.granted_kib += kib;
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
        self.bound = (self.bound + moved).clamp(LEAST_BOUND, 1.0);
    }

    /// How far forecasts were off lately, on average, and how many were checked.
    pub(super) fn errors(&self) -> (Duration, u64) {
        (Duration::from_millis(self.error_ms as u64), self.checked)
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_is_granted_while_somebody_waits() {
        let mut wait = WaitForecast::default();
        assert_eq!(wait.expected_ms(1000), None);
        for step in 0..100 {
            wait.granted(None, 0, 500);
            wait.measure(step * 50, true);
        }
        // Nobody waits, so nothing is granted: that says nothing.
        wait.measure(60_000, false);
        let expected = wait.expected_ms(10_000).unwrap();
        assert!((950..1050).contains(&expected), "{expected}");
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
            wait.granted(Some(1000), waited, 1);
        }
        assert!((90..360).contains(&shorter), "{shorter} of 18,000");
    }
}
