//! An estimate from usage over the idle baseline.

use std::time::Duration;

use super::{Estimate, Evidence};

/// Requests seen before the configured estimate no longer counts.
const TRUSTED_AFTER: f64 = 8.0;
/// Requests in flight are of all ages, and hold less on average than each does
/// at its peak: half, if all grow evenly. The greatest average seen stands
/// between the two, and this is the rest of the way.
const PEAK_OVER_AVERAGE: f64 = 1.5;
/// No request is taken to need less.
const LEAST_BYTES: u64 = 64 << 10;
/// The greatest average seen is halved after this time without one like it.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Above the lowest baseline by more than this share, the process holds memory
/// that requests may be reusing: usage then does not show what they need.
const CLEAN: f64 = 0.10;
/// And by more than this many bytes.
const CLEAN_BYTES: u64 = 4 << 20;

/// `max(prior·(1 − w) + 1.5·a·w, 1.5·a)`, where `a` is the decayed greatest of
/// (usage − baseline) / requests in flight, and `w` rises from 0 to 1 with the
/// first eight requests seen through.
///
/// The baseline is the usage when nothing is in flight.
#[derive(Debug)]
pub(crate) struct UsageEstimate {
    prior_bytes: f64,
    average_bytes: f64,
    baseline_bytes: u64,
    lowest_baseline_bytes: u64,
    usage_bytes: u64,
    seen: f64,
    last: Evidence,
    started: bool,
}

impl UsageEstimate {
    pub(crate) fn new(prior_bytes: u64) -> Self {
        Self {
            prior_bytes: prior_bytes as f64,
            average_bytes: 0.0,
            baseline_bytes: 0,
            lowest_baseline_bytes: u64::MAX,
            usage_bytes: 0,
            seen: 0.0,
            last: Evidence::default(),
            started: false,
        }
    }

    fn growth_bytes(&self) -> u64 {
        self.usage_bytes.saturating_sub(self.baseline_bytes)
    }

    /// Usage shows what requests need: nothing is kept from earlier ones.
    fn is_clean(&self) -> bool {
        let kept = self
            .baseline_bytes
            .saturating_sub(self.lowest_baseline_bytes);
        kept <= CLEAN_BYTES || kept as f64 <= self.lowest_baseline_bytes as f64 * CLEAN
    }
}

impl Estimate for UsageEstimate {
    fn observe(&mut self, evidence: Evidence) {
        self.usage_bytes = evidence.usage_bytes;
        if evidence.all_in_flight == 0 || !self.started {
            self.started = true;
            self.baseline_bytes = evidence.usage_bytes;
        } else {
            self.baseline_bytes = self.baseline_bytes.min(evidence.usage_bytes);
        }
        self.lowest_baseline_bytes = self.lowest_baseline_bytes.min(self.baseline_bytes);

        let alone = evidence.own_in_flight == evidence.all_in_flight;
        if evidence.own_in_flight > 0 {
            let average = self.growth_bytes() as f64 / f64::from(evidence.all_in_flight);
            let elapsed = evidence.now.saturating_sub(self.last.now);
            if alone && !elapsed.is_zero() && self.is_clean() {
                let half_lives = elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64();
                self.average_bytes *= 0.5_f64.powf(half_lives);
            }
            if alone {
                self.average_bytes = self.average_bytes.max(average);
            }
        }
        // Only requests that a sample caught in flight count as seen.
        if self.last.own_in_flight > 0 && self.average_bytes > 0.0 {
            let finished = evidence.completed.saturating_sub(self.last.completed);
            self.seen += (finished as f64).min(f64::from(self.last.own_in_flight));
        }
        self.last = evidence;
    }

    fn request_bytes(&self) -> u64 {
        let learned = self.average_bytes * PEAK_OVER_AVERAGE;
        let trust = (self.seen / TRUSTED_AFTER).min(1.0);
        let blended = self.prior_bytes * (1.0 - trust) + learned * trust;
        (blended.max(learned) as u64).max(LEAST_BYTES.min(self.prior_bytes as u64))
    }

    fn low_bytes(&self) -> u64 {
        if self.seen < TRUSTED_AFTER {
            return 0;
        }
        (self.average_bytes / 2.0) as u64
    }

    fn realised_bytes(&self, reserved_bytes: u64) -> u64 {
        self.growth_bytes().min(reserved_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    struct Run {
        estimate: UsageEstimate,
        now: Duration,
        completed: u64,
    }

    impl Run {
        fn new() -> Self {
            let mut run = Self {
                estimate: UsageEstimate::new(200 * MIB),
                now: Duration::ZERO,
                completed: 0,
            };
            run.sample(20 * MIB, 0);
            run
        }

        fn sample(&mut self, usage_bytes: u64, in_flight: u32) {
            self.now += Duration::from_millis(100);
            self.estimate.observe(Evidence {
                now: self.now,
                usage_bytes,
                own_in_flight: in_flight,
                all_in_flight: in_flight,
                completed: self.completed,
            });
        }

        fn requests(&mut self, count: u32, each_bytes: u64) {
            self.sample(20 * MIB + each_bytes * u64::from(count), count);
            self.completed += u64::from(count);
            self.sample(20 * MIB, 0);
        }
    }

    #[test]
    fn the_configured_estimate_holds_until_requests_have_been_seen() {
        let mut run = Run::new();
        assert_eq!(run.estimate.request_bytes(), 200 * MIB);
        assert_eq!(run.estimate.low_bytes(), 0);
        run.requests(4, 10 * MIB);
        assert_eq!(run.estimate.request_bytes() / MIB, (200 + 15) / 2);
        run.requests(4, 10 * MIB);
        assert!(run.estimate.request_bytes().abs_diff(15 * MIB) < MIB / 2);
    }

    #[test]
    fn larger_requests_count_at_once_and_smaller_ones_after_a_while() {
        let mut run = Run::new();
        run.requests(8, 10 * MIB);
        run.sample(20 * MIB + 80 * MIB, 2);
        assert!(run.estimate.request_bytes() >= 60 * MIB);
        run.sample(20 * MIB, 0);
        for _ in 0..2_000 {
            run.requests(1, 10 * MIB);
        }
        assert!(run.estimate.request_bytes() < 16 * MIB);
    }

    #[test]
    fn memory_that_is_kept_and_reused_does_not_make_requests_look_small() {
        let mut run = Run::new();
        run.requests(8, 40 * MIB);
        let before = run.estimate.request_bytes();
        // The allocator keeps 320 MiB, and later requests live in them.
        for _ in 0..2_000 {
            run.sample(340 * MIB, 0);
            run.sample(340 * MIB, 8);
            run.completed += 8;
        }
        assert_eq!(run.estimate.request_bytes(), before);
    }

    #[test]
    fn what_usage_shows_is_not_counted_twice() {
        let mut run = Run::new();
        run.sample(120 * MIB, 4);
        assert_eq!(run.estimate.realised_bytes(800 * MIB), 100 * MIB);
        // More growth than reservations: the rest is not theirs.
        assert_eq!(run.estimate.realised_bytes(60 * MIB), 60 * MIB);
    }

    #[test]
    fn requests_that_no_sample_saw_teach_nothing() {
        let mut run = Run::new();
        run.completed += 1_000;
        run.sample(20 * MIB, 0);
        assert_eq!(run.estimate.request_bytes(), 200 * MIB);
    }
}
