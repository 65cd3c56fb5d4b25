//! The peaks of the last requests of a kind, in the order in which they began.
//!
//! Who has ended counts with its peak, who still runs with what it looks like. Of those
//! that have ended alone the mean would be too low while sizes rise, since small ones end
//! first; and of those that run alone too high, since large ones stay.
//!
//! How far back the mean goes is not fixed: where the newest differ from those before them
//! by more than chance explains, those before are dropped (adaptive windowing, Bifet and
//! Gavaldà 2007, with Welch's test for the difference of two means).

use std::collections::VecDeque;

/// So many are remembered.
const MOST: usize = 64;
/// From so many on their mean is the guide to the next.
const LEAST: usize = 24;
/// So many of the newest are compared with those before them.
const NEWEST: [usize; 3] = [8, 16, 32];
/// And so many, to find that they are smaller: one large among many small ones may be late.
const NEWEST_SMALLER: usize = 32;
/// Standard errors beyond which a difference is not by chance.
const BEYOND_CHANCE: f64 = 4.0;
/// Means of so few are no better known than to this share.
const LEAST_ERROR: f64 = 0.1;
const GOLDEN_RATIO: f64 = 1.618_033_988_749_895;

/// The last requests of a kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohort {
    recent: VecDeque<Member>,
    /// How many of the newest are alike.
    alike: usize,
    changed: bool,
    /// The greatest number of any that was ever among them.
    newest: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// `None`: nobody has seen it run.
    serial: Option<u64>,
    bytes: f64,
}

impl Cohort {
    /// A request with this number, greater than those before, looks as if it will need so
    /// much. Called again as more of it is seen, also when newer ones have taken its place.
    pub(super) fn see(&mut self, number: u64, bytes: f64) {
        let serial = Some(number);
        let mut newest_first = self.recent.iter_mut().rev();
        if let Some(member) = newest_first.find(|member| member.serial == serial) {
            self.changed |= member.bytes != bytes;
            member.bytes = bytes;
        } else if number > self.newest {
            self.newest = number;
            self.push(Member { serial, bytes });
        }
    }

    /// So many requests that nobody saw run had such peaks, from the smallest to the largest.
    /// When which came is not known: in an order of which each part is like the whole.
    pub(super) fn add_unnumbered(&mut self, peaks: &[(f64, f64)]) {
        let count: f64 = peaks.iter().map(|(_, count)| count).sum();
        let taken = (count as usize).min(MOST);
        let mut order: Vec<_> = (0..taken).collect();
        // Multiples of the golden ratio are spread evenly, however many there are.
        let turn = |&index: &usize| (index as f64 * GOLDEN_RATIO).fract();
        order.sort_by(|one, other| turn(one).total_cmp(&turn(other)));
        for index in order {
            let mut left = (index as f64 + 0.5) / taken as f64 * count;
            let is_there = |&&(_, count): &&(f64, f64)| {
                left -= count;
                left < 0.0
            };
            let peak = peaks.iter().find(is_there);
            self.push(Member {
                serial: None,
                bytes: peak.map_or(0.0, |&(bytes, _)| bytes),
            });
        }
    }

    fn push(&mut self, member: Member) {
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        self.recent.push_back(member);
        self.alike = (self.alike + 1).min(self.recent.len());
        self.changed = true;
    }

    /// Those that are no longer like the newest are dropped. To be called when all in
    /// flight have been seen.
    pub(super) fn compare(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.alike = self.recent.len();
            while NEWEST.iter().any(|&newest| self.differ(newest)) {
                self.alike -= self.alike / 4;
            }
        }
    }

    fn differ(&self, newest: usize) -> bool {
        if self.alike < newest + NEWEST[0] {
            return false;
        }
        let peaks = || self.recent.iter().rev().map(|member| member.bytes);
        let new = Moments::of(peaks().take(newest));
        let old = Moments::of(peaks().take(self.alike).skip(newest));
        let error = (new.error_squared + old.error_squared).sqrt();
        let error = error.max(old.mean.min(new.mean) * LEAST_ERROR);
        let more = new.mean - old.mean;
        more > error * BEYOND_CHANCE || (newest >= NEWEST_SMALLER && -more > error * BEYOND_CHANCE)
    }

    /// The mean of the last peaks, if there were enough.
    pub(super) fn mean_peak(&self) -> Option<f64> {
        let newest = self.recent.iter().rev().map(|member| member.bytes);
        (self.recent.len() >= LEAST).then(|| Moments::of(newest.take(self.alike.max(1))).mean)
    }
}

/// A mean and the square of its standard error.
struct Moments {
    mean: f64,
    error_squared: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let squares = values.map(|value| (value - mean) * (value - mean));
        Self {
            mean,
            error_squared: squares.sum::<f64>() / (count - 1.0).max(1.0) / count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_after(sizes: impl Iterator<Item = f64>) -> f64 {
        let mut cohort = Cohort::default();
        for (index, bytes) in sizes.enumerate() {
            cohort.see(index as u64 + 1, bytes);
            cohort.compare();
        }
        cohort.mean_peak().unwrap()
    }

    #[test]
    fn a_mixture_is_averaged_over_all() {
        let one_in_ten = (0..200).map(|index| if index % 10 == 7 { 120.0 } else { 2.0 });
        assert!((11.0..17.0).contains(&mean_after(one_in_ten)));
    }

    #[test]
    fn larger_ones_are_believed_when_a_few_have_come() {
        let tripled = (0..74).map(|index| if index < 64 { 20.0 } else { 60.0 });
        assert!(mean_after(tripled) > 50.0);
    }

    #[test]
    fn who_still_runs_counts_with_what_it_looks_like() {
        let mut cohort = Cohort::default();
        for serial in 1..=40 {
            cohort.see(serial, 20.0);
        }
        (41..=56).for_each(|serial| cohort.see(serial, 20.0));
        // It turns out.
        (41..=56).for_each(|serial| cohort.see(serial, 60.0));
        cohort.compare();
        assert!(cohort.mean_peak().unwrap() > 50.0);
    }
}
