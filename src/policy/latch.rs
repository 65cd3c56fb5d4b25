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

/// What one look finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) now: Duration,
    pub(super) usage_bytes: u64,
    pub(super) limit_bytes: u64,
    /// Memory keeps new work out.
    pub(super) blocked: bool,
    /// Requests of the least known size that still fit below the hard limit.
    pub(super) fitting: u32,
    /// Requests that base concurrency still allows.
    pub(super) room: u32,
    /// Probes granted that nobody has used.
    pub(super) unused: u32,
}

impl Look {
    pub(super) fn new(o: &Observation<'_>, blocked: bool, room: u32) -> Self {
        let free_bytes = free_bytes(o.levels);
        // Below a first idea of the least, one at a time finds out.
        let fitting = match o.low_bytes {
            0 if are_within(o.request_bytes, free_bytes) => 1,
            0 => u64::from(o.active == 0 && free_bytes != Some(0)),
            low => free_bytes.map_or(u64::MAX, |free_bytes| free_bytes / low),
        };
        Self {
            now: o.now,
            usage_bytes: o.levels.first().map_or(0, |level| level.usage_bytes),
            limit_bytes: limit_bytes(o.levels).unwrap_or(u64::MAX),
            blocked,
            fitting: u32::try_from(fitting).unwrap_or(u32::MAX),
            room,
            unused: o.unused_probes,
        }
    }
}

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
    pub(super) fn probes(&mut self, look: &Look) -> Option<u32> {
        if !look.blocked {
            let was_probing = self.probing;
            *self = Self::new();
            self.restart(look);
            return was_probing.then_some(0);
        }
        self.lowest_bytes = self.lowest_bytes.min(look.usage_bytes);
        self.highest_bytes = self.highest_bytes.max(look.usage_bytes);
        let band = look.limit_bytes as f64 * BAND;
        if (self.highest_bytes - self.lowest_bytes) as f64 > band {
            // Moved: what was granted is taken back.
            if self.probing {
                self.flat_for = (self.flat_for * 2).min(FLAT_FOR_AT_MOST);
            }
            self.width = 1;
            self.probing = false;
            self.restart(look);
            return Some(0);
        }
        if look.unused > 0 {
            // Nobody has tried yet, so nothing was found out.
            self.since = look.now;
            return None;
        }
        if look.now.saturating_sub(self.since) < self.flat_for {
            return None;
        }
        self.since = look.now;
        let probes = self.width.min(look.fitting).min(look.room);
        if probes == 0 {
            // Latched: not even the least would fit.
            self.flat_for = (self.flat_for * 2).min(FLAT_FOR_AT_MOST);
            return Some(0);
        }
        self.probing = true;
        self.width = (probes * 2).min(WIDEST);
        Some(probes)
    }

    fn restart(&mut self, look: &Look) {
        self.since = look.now;
        self.lowest_bytes = look.usage_bytes;
        self.highest_bytes = look.usage_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: u64, usage_bytes: u64) -> Look {
        Look {
            now: Duration::from_secs(second),
            usage_bytes,
            limit_bytes: 1000,
            blocked: true,
            fitting: 99,
            room: 99,
            unused: 0,
        }
    }

    #[test]
    fn flat_usage_lets_probes_in_and_harmless_ones_widen_the_window() {
        let mut latch = Latch::new();
        assert_eq!(latch.probes(&look(0, 900)), None);
        assert_eq!(latch.probes(&look(2, 910)), None);
        assert_eq!(latch.probes(&look(3, 900)), Some(1));
        assert_eq!(latch.probes(&look(4, 903)), None);
        assert_eq!(latch.probes(&look(6, 903)), Some(2));
        assert_eq!(latch.probes(&look(9, 903)), Some(4));
    }

    #[test]
    fn probes_that_nobody_used_do_not_add_up() {
        let mut latch = Latch::new();
        latch.probes(&look(0, 900));
        assert_eq!(latch.probes(&look(3, 900)), Some(1));
        for second in 4..100 {
            let unused = Look {
                unused: 1,
                ..look(second, 900)
            };
            assert_eq!(latch.probes(&unused), None);
        }
        // It was used at last; its effect is awaited.
        assert_eq!(latch.probes(&look(100, 900)), None);
        assert_eq!(latch.probes(&look(102, 900)), Some(2));
    }

    #[test]
    fn a_probe_that_moves_usage_makes_the_next_one_wait_longer() {
        let mut latch = Latch::new();
        latch.probes(&look(0, 900));
        assert_eq!(latch.probes(&look(3, 900)), Some(1));
        assert_eq!(latch.probes(&look(4, 950)), Some(0));
        assert_eq!(latch.probes(&look(7, 950)), None);
        assert_eq!(latch.probes(&look(10, 950)), Some(1));
    }

    #[test]
    fn moving_usage_or_free_room_grants_no_probe() {
        let mut latch = Latch::new();
        for second in 0..10 {
            let probes = latch.probes(&look(second, 900 + 20 * (second % 2)));
            assert!(matches!(probes, None | Some(0)), "{probes:?}");
        }
        assert_eq!(
            latch.probes(&Look {
                blocked: false,
                ..look(30, 100)
            }),
            None
        );
    }

    #[test]
    fn what_does_not_fit_even_then_stays_out() {
        for full in [
            Look {
                fitting: 0,
                ..look(0, 999)
            },
            Look {
                room: 0,
                ..look(0, 999)
            },
        ] {
            let mut latch = Latch::new();
            latch.probes(&full);
            assert_eq!(
                latch.probes(&Look {
                    now: Duration::from_secs(3),
                    ..full
                }),
                Some(0)
            );
            assert_eq!(latch.probes(&look(6, 999)), None);
            assert_eq!(latch.probes(&look(9, 999)), Some(1));
        }
    }
}
