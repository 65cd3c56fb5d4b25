//! Finding out whether memory that looks full really is.
//!
//! Allocators keep what was freed and caches grow, so usage may stay high with
//! little running. Once it has been flat for a while and new work is still
//! kept out, a probe is admitted past the bounds. If usage stays flat with it,
//! more follow, doubling; if it moves, the wait starts again, and longer.

use std::time::Duration;

/// Flat: within this share of the limit.
const BAND: f64 = 0.01;
/// For this long, at first.
const FLAT_FOR: Duration = Duration::from_secs(3);
/// And at most for this long, after probes that did harm.
const FLAT_FOR_AT_MOST: Duration = Duration::from_secs(30);
/// Most probes between two looks.
const WIDEST: u32 = 64;

#[derive(Debug)]
pub(super) struct Latch {
    lowest_bytes: u64,
    highest_bytes: u64,
    since: Duration,
    flat_for: Duration,
    width: u32,
    probing: bool,
}

impl Latch {
    pub(super) fn new() -> Self {
        Self {
            lowest_bytes: u64::MAX,
            highest_bytes: 0,
            since: Duration::ZERO,
            flat_for: FLAT_FOR,
            width: 1,
            probing: false,
        }
    }

    /// How many probes may start now; `None`: no change.
    ///
    /// `fitting` is how many requests of the least known size still fit below
    /// the hard limit.
    pub(super) fn probes(
        &mut self,
        now: Duration,
        usage_bytes: u64,
        limit_bytes: u64,
        blocked: bool,
        fitting: u64,
    ) -> Option<u32> {
        if !blocked {
            let was_probing = self.probing;
            *self = Self::new();
            self.restart(now, usage_bytes);
            return was_probing.then_some(0);
        }
        self.lowest_bytes = self.lowest_bytes.min(usage_bytes);
        self.highest_bytes = self.highest_bytes.max(usage_bytes);
        let moved = (self.highest_bytes - self.lowest_bytes) as f64 > limit_bytes as f64 * BAND;
        if moved {
            if self.probing {
                self.flat_for = (self.flat_for * 2).min(FLAT_FOR_AT_MOST);
            }
            self.width = 1;
            self.probing = false;
            self.restart(now, usage_bytes);
            return Some(0);
        }
        if now.saturating_sub(self.since) < self.flat_for {
            return None;
        }
        self.since = now;
        let probes = u64::from(self.width).min(fitting) as u32;
        if probes == 0 {
            // Latched: not even the least would fit.
            self.flat_for = (self.flat_for * 2).min(FLAT_FOR_AT_MOST);
            return Some(0);
        }
        self.probing = true;
        self.width = (self.width * 2).min(WIDEST);
        Some(probes)
    }

    fn restart(&mut self, now: Duration, usage_bytes: u64) {
        self.since = now;
        self.lowest_bytes = usage_bytes;
        self.highest_bytes = usage_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn flat_usage_lets_probes_in_and_harmless_ones_widen_the_window() {
        let mut latch = Latch::new();
        assert_eq!(latch.probes(secs(0), 900, 1000, true, 99), None);
        assert_eq!(latch.probes(secs(2), 905, 1000, true, 99), None);
        assert_eq!(latch.probes(secs(3), 903, 1000, true, 99), Some(1));
        assert_eq!(latch.probes(secs(4), 903, 1000, true, 99), None);
        assert_eq!(latch.probes(secs(6), 903, 1000, true, 99), Some(2));
        assert_eq!(latch.probes(secs(9), 903, 1000, true, 99), Some(4));
    }

    #[test]
    fn a_probe_that_moves_usage_makes_the_next_one_wait_longer() {
        let mut latch = Latch::new();
        latch.probes(secs(0), 900, 1000, true, 99);
        assert_eq!(latch.probes(secs(3), 900, 1000, true, 99), Some(1));
        assert_eq!(latch.probes(secs(4), 950, 1000, true, 99), Some(0));
        assert_eq!(latch.probes(secs(7), 950, 1000, true, 99), None);
        assert_eq!(latch.probes(secs(10), 950, 1000, true, 99), Some(1));
    }

    #[test]
    fn moving_usage_or_free_room_grants_no_probe() {
        let mut latch = Latch::new();
        for second in 0..10 {
            let usage = 900 + 20 * (second % 2);
            let probes = latch.probes(secs(second), usage, 1000, true, 99);
            assert!(matches!(probes, None | Some(0)), "{probes:?}");
        }
        assert_eq!(latch.probes(secs(30), 100, 1000, false, 99), None);
    }

    #[test]
    fn what_does_not_fit_even_then_stays_out() {
        let mut latch = Latch::new();
        latch.probes(secs(0), 999, 1000, true, 0);
        assert_eq!(latch.probes(secs(3), 999, 1000, true, 0), Some(0));
        assert_eq!(latch.probes(secs(6), 999, 1000, true, 1), None);
        assert_eq!(latch.probes(secs(9), 999, 1000, true, 1), Some(1));
    }
}
