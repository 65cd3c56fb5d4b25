//! Finding out whether memory that looks full really is.
//!
//! Allocators keep what was freed and caches grow, so usage may stay high with
//! little running. Once it has been flat for a while and new work is still
//! kept out, a probe is admitted past the bounds. If it was used and usage stays
//! flat, more follow, doubling; if usage moves, the wait starts again, and longer.

use std::time::Duration;

use super::{Observation, are_within, free_bytes, limit_bytes};

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
    /// `None`: no look at a known time has found new work kept out since.
    since: Option<Duration>,
    flat_for: Duration,
    width: u32,
    probing: bool,
}

impl Default for Latch {
    fn default() -> Self {
        Self {
            lowest_bytes: u64::MAX,
            highest_bytes: 0,
            since: None,
            flat_for: FLAT_FOR,
            width: 1,
            probing: false,
        }
    }
}

impl Latch {
    /// How many probes may start now; `None`: no change. `blocked`: memory keeps new work
    /// out. `room`: so many requests base concurrency still allows.
    pub(super) fn probes(&mut self, o: &Observation<'_>, blocked: bool, room: u32) -> Option<u32> {
        // What others do says nothing of what probes bring.
        let usage_bytes = o.own_usage_bytes;
        if !blocked {
            let was = std::mem::take(self);
            return was.probing.then_some(0);
        }
        self.lowest_bytes = self.lowest_bytes.min(usage_bytes);
        self.highest_bytes = self.highest_bytes.max(usage_bytes);
        let band = limit_bytes(o.levels).unwrap_or(u64::MAX) as f64 * BAND;
        if o.pauses && o.unused_probes > 0 {
            // Taken back: what comes is not their doing.
            self.width = 1;
            self.probing = false;
        }
        if (self.highest_bytes - self.lowest_bytes) as f64 > band {
            // Moved: what was granted is taken back.
            if self.probing {
                self.wait_longer();
            }
            self.width = 1;
            self.probing = false;
            self.restart(o.now, usage_bytes);
            return Some(0);
        }
        if o.unused_probes > 0 || o.pauses {
            // Nobody has tried yet, so nothing was found out.
            self.since = o.now;
            return None;
        }
        let now = o.now?;
        if now.saturating_sub(*self.since.get_or_insert(now)) < self.flat_for {
            return None;
        }
        self.since = o.now;
        let probes = self.width.min(fitting(o)).min(room);
        if probes == 0 {
            // Latched: not even the least would fit.
            self.wait_longer();
            return Some(0);
        }
        self.probing = true;
        self.width = (probes * 2).min(WIDEST);
        Some(probes)
    }

    fn wait_longer(&mut self) {
        self.flat_for = (self.flat_for * 2).min(FLAT_FOR_AT_MOST);
    }

    fn restart(&mut self, now: Option<Duration>, usage_bytes: u64) {
        self.since = now;
        self.lowest_bytes = usage_bytes;
        self.highest_bytes = usage_bytes;
    }
}

/// Requests of the least known size that still fit below the hard limit.
fn fitting(o: &Observation<'_>) -> u32 {
    let free_bytes = free_bytes(o.levels);
    // Below a first idea of the least, one at a time finds out.
    let fitting = match o.low_bytes {
        0 if are_within(o.request_bytes, free_bytes) => 1,
        0 => u64::from(o.active == 0 && free_bytes != Some(0)),
        low => free_bytes.map_or(u64::MAX, |free_bytes| free_bytes / low),
    };
    u32::try_from(fitting).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryLevel;

    /// Nobody has used so many probes, one of so many bytes would fit, for so many there is
    /// room.
    fn observed(
        latch: &mut Latch,
        (second, usage_bytes): (u64, u64),
        (unused_probes, low_bytes, room): (u32, u64, u32),
        pauses: bool,
    ) -> Option<u32> {
        let levels = [MemoryLevel::new(usage_bytes, Some(1000))];
        let observation = Observation {
            now: Some(Duration::from_secs(second)),
            unused_probes,
            pauses,
            low_bytes,
            ..Observation::of(&levels)
        };
        latch.probes(&observation, usage_bytes > 500, room)
    }

    fn probes_of(latch: &mut Latch, at: (u64, u64), of: (u32, u64, u32)) -> Option<u32> {
        observed(latch, at, of, false)
    }

    /// So many were not used while somebody is paused.
    fn takes_back(latch: &mut Latch, second: u64, usage_bytes: u64, unused: u32) {
        let granted = observed(latch, (second, usage_bytes), (unused, 1, 99), true);
        assert!(matches!(granted, None | Some(0)), "{granted:?}");
    }

    fn probes(latch: &mut Latch, second: u64, usage_bytes: u64) -> Option<u32> {
        probes_of(latch, (second, usage_bytes), (0, 1, 99))
    }

    #[test]
    fn flat_usage_lets_probes_in_and_harmless_ones_widen_the_window() {
        let mut latch = Latch::default();
        assert_eq!(probes(&mut latch, 0, 900), None);
        assert_eq!(probes(&mut latch, 2, 910), None);
        assert_eq!(probes(&mut latch, 3, 900), Some(1));
        assert_eq!(probes(&mut latch, 4, 903), None);
        assert_eq!(probes(&mut latch, 6, 903), Some(2));
        assert_eq!(probes(&mut latch, 9, 903), Some(4));
    }

    #[test]
    fn probes_that_nobody_used_do_not_add_up() {
        let mut latch = Latch::default();
        probes(&mut latch, 0, 900);
        assert_eq!(probes(&mut latch, 3, 900), Some(1));
        for second in 4..100 {
            assert_eq!(probes_of(&mut latch, (second, 900), (1, 1, 99)), None);
        }
        // It was used at last; its effect is awaited.
        assert_eq!(probes(&mut latch, 100, 900), None);
        assert_eq!(probes(&mut latch, 102, 900), Some(2));
    }

    #[test]
    fn probes_that_are_taken_back_while_somebody_is_paused_find_nothing_out() {
        let mut latch = Latch::default();
        probes(&mut latch, 0, 900);
        for second in 3..10 {
            takes_back(&mut latch, second, 900, 0);
        }
        assert_eq!(probes(&mut latch, 11, 900), None);
        assert_eq!(probes(&mut latch, 12, 900), Some(1));
        takes_back(&mut latch, 13, 900, 1);
        assert_eq!(probes(&mut latch, 16, 900), Some(1));
        // Nor is it their doing if usage moves.
        takes_back(&mut latch, 17, 950, 1);
        assert_eq!(probes(&mut latch, 20, 950), Some(1));
    }

    #[test]
    fn a_probe_that_moves_usage_makes_the_next_one_wait_longer() {
        let mut latch = Latch::default();
        probes(&mut latch, 0, 900);
        assert_eq!(probes(&mut latch, 3, 900), Some(1));
        assert_eq!(probes(&mut latch, 4, 950), Some(0));
        assert_eq!(probes(&mut latch, 7, 950), None);
        assert_eq!(probes(&mut latch, 10, 950), Some(1));
    }

    #[test]
    fn moving_usage_or_free_room_grants_no_probe() {
        let mut latch = Latch::default();
        for second in 0..10 {
            let probes = probes(&mut latch, second, 900 + 20 * (second % 2));
            assert!(matches!(probes, None | Some(0)), "{probes:?}");
        }
        assert_eq!(probes(&mut latch, 30, 100), None);
    }

    #[test]
    fn what_others_do_who_share_the_limit_keeps_no_probe_back() {
        let mut latch = Latch::default();
        let mut at = |second: u64| {
            let group = MemoryLevel::new(5000 + 1000 * (second % 2), Some(10_000));
            let levels = [group, MemoryLevel::new(900, Some(1000))];
            let observation = Observation {
                now: Some(Duration::from_secs(second)),
                own_usage_bytes: 900,
                low_bytes: 1,
                ..Observation::of(&levels)
            };
            latch.probes(&observation, true, 99)
        };
        assert_eq!((at(0), at(1), at(2)), (None, None, None));
        assert_eq!(at(3), Some(1));
    }

    #[test]
    fn what_does_not_fit_even_then_stays_out() {
        for full in [(0, 1001, 99), (0, 1, 0)] {
            let mut latch = Latch::default();
            probes_of(&mut latch, (0, 999), full);
            assert_eq!(probes_of(&mut latch, (3, 999), full), Some(0));
            assert_eq!(probes(&mut latch, 6, 999), None);
            assert_eq!(probes(&mut latch, 9, 999), Some(1));
        }
    }
}
