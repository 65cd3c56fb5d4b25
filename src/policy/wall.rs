//! How near memory's end is, by growth that no pause stops.

use std::collections::VecDeque;
use std::time::Duration;

/// What came in so long, or since a look before that, is taken to come again.
const WINDOW: Duration = Duration::from_millis(30);
/// The next look comes when a quarter of the time to the wall is over: what takes more of
/// the rest has to begin now.
const LOOKS: f64 = 4.0 / 3.0;

/// What a look shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Below where something is killed.
    pub(crate) free_bytes: i64,
    /// What polls and parts of work have added, ever, that could have been held back.
    pub(crate) let_grow_bytes: i64,
    /// What such that are under way may add still: there was room for it.
    pub(crate) under_way_bytes: i64,
}

impl Seen {
    /// What is in use but for what was let grow, from wherever one counts.
    fn stray_bytes(&self) -> i64 {
        -self.free_bytes - self.let_grow_bytes
    }
}

/// Where memory ends, as it comes nearer.
#[derive(Debug, Default)]
pub(crate) struct Wall {
    /// The last of them is the latest.
    seen: VecDeque<(Duration, Seen)>,
}

impl Wall {
    /// After each full sample.
    pub(crate) fn see(&mut self, now: Duration, seen: Seen) {
        // One that is older than the window stays.
        while matches!(self.seen.get(1), Some((at, _)) if now >= *at + WINDOW) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, seen));
    }

    /// What was seen says nothing of what comes.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }

    /// Something was done about it: what comes is to be seen anew.
    pub(crate) fn look_anew(&mut self) {
        let before = self.seen.len().saturating_sub(1);
        self.seen.drain(..before);
    }

    /// Bytes in each second that come whoever is paused.
    fn rate(&self) -> f64 {
        let Some((now, latest)) = self.seen.back() else {
            return 0.0;
        };
        let stray_bytes = latest.stray_bytes() - latest.under_way_bytes;
        let rates = self.seen.iter().map(|(at, seen)| {
            let elapsed = now.saturating_sub(*at).max(WINDOW).as_secs_f64();
            (stray_bytes - seen.stray_bytes()) as f64 / elapsed
        });
        rates.fold(0.0, f64::max)
    }

    /// How many bytes will be missing if nothing is done that takes so long: `None` if it
    /// can wait until the next look.
    pub(crate) fn missing_bytes(&self, takes: Duration) -> Option<u64> {
        let (_, latest) = self.seen.back()?;
        let coming_bytes = self.rate() * takes.as_secs_f64() * LOOKS;
        let missing_bytes = coming_bytes - latest.free_bytes as f64;
        (coming_bytes > 0.0 && missing_bytes > 0.0).then_some(missing_bytes as u64)
    }

    /// It is reached before what takes so long is done.
    pub(crate) fn is_within(&self, takes: Duration) -> bool {
        let free_bytes = self.seen.back().map_or(0, |(_, seen)| seen.free_bytes);
        self.rate() * takes.as_secs_f64() >= free_bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;
    const TAKES: Duration = Duration::from_millis(30);

    /// A look each 5 ms: MiB that are free, let grow, and may come of polls under way.
    fn wall(looks: &[(i64, i64, i64)]) -> Wall {
        let mut wall = Wall::default();
        for (index, &(free, let_grow, under_way)) in looks.iter().enumerate() {
            let seen = Seen {
                free_bytes: free * MIB,
                let_grow_bytes: let_grow * MIB,
                under_way_bytes: under_way * MIB,
            };
            wall.see(Duration::from_millis(5 * index as u64), seen);
        }
        wall
    }

    fn missing_mib(looks: &[(i64, i64, i64)]) -> Option<u64> {
        let bytes = wall(looks).missing_bytes(TAKES)?;
        Some(bytes.div_ceil(MIB as u64))
    }

    #[test]
    fn what_comes_faster_than_memory_can_be_freed_is_missing() {
        let even: Vec<_> = (0..10).map(|look| (200 - look * 10, 0, 0)).collect();
        // 60 MiB in 30 ms, and 80 until the look after the next is too late.
        assert_eq!(missing_mib(&even), None);
        let even: Vec<_> = (0..10).map(|look| (160 - look * 10, 0, 0)).collect();
        assert_eq!(missing_mib(&even), Some(10));
        assert!(!wall(&even).is_within(TAKES));
        let even: Vec<_> = (0..10).map(|look| (140 - look * 10, 0, 0)).collect();
        assert_eq!(missing_mib(&even), Some(30));
        assert!(wall(&even).is_within(TAKES));
    }

    #[test]
    fn what_stands_still_needs_nothing() {
        assert_eq!(missing_mib(&[(2, 0, 0); 10]), None);
        assert_eq!(missing_mib(&[(2, 0, 0)]), None);
        assert_eq!(missing_mib(&[]), None);
        assert_eq!(missing_mib(&[(9, 0, 0), (20, 0, 0)]), None);
    }

    #[test]
    fn what_pauses_can_stop_does_not_count() {
        let let_grow: Vec<_> = (0..10)
            .map(|look| (100 - look * 10, look * 10, 0))
            .collect();
        assert_eq!(missing_mib(&let_grow), None);
        let half: Vec<_> = (0..10).map(|look| (100 - look * 10, look * 5, 0)).collect();
        assert_eq!(missing_mib(&half), Some(30));
    }

    #[test]
    fn what_a_poll_under_way_adds_was_let_grow() {
        let poll = |added: i64| [(100, 0, 0), (100, 0, 50), (100 - added, 0, 50)];
        assert_eq!(missing_mib(&poll(50)), None);
        assert_eq!(missing_mib(&poll(98)), Some(62));
        // And when it is over, it is known.
        assert_eq!(missing_mib(&[(100, 0, 50), (55, 0, 50), (50, 50, 0)]), None);
    }

    #[test]
    fn what_came_long_ago_does_not_come_again() {
        let mut looks = vec![(100, 0, 0)];
        looks.extend([(10, 0, 0); 6]);
        assert_eq!(missing_mib(&looks), Some(110));
        let mut anew = wall(&looks);
        anew.look_anew();
        assert_eq!((anew.seen.len(), anew.missing_bytes(TAKES)), (1, None));
        looks.extend([(10, 0, 0); 2]);
        assert_eq!(missing_mib(&looks), None);
    }

    #[test]
    fn looks_that_are_far_apart_show_what_came_between() {
        let mut wall = Wall::default();
        for (ms, free) in [(0, 500), (1000, 200), (2000, 30)] {
            let seen = Seen {
                free_bytes: free * MIB,
                let_grow_bytes: 0,
                under_way_bytes: 0,
            };
            wall.see(Duration::from_millis(ms), seen);
        }
        // 170 MiB in a second.
        assert_eq!(wall.missing_bytes(TAKES), None);
    }
}
