//! A decayed histogram of peaks.

use std::f64::consts::LN_2;

use super::need::Moments;
use crate::running::bins::{self, BINS};

/// An observation counts half after so many more.
const HALF_LIFE: f64 = 256.0;
/// More of them would only push each other out.
const MOST_AT_ONCE: f64 = 1024.0;

/// The largest one yet is not the largest there can be.
const LEAST_ROOM: f64 = 0.25;

/// Peaks of requests, older ones counting less.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bins: Box<[Bin]>,
    /// The sum of each bin and those above it.
    sums: Box<[Bin]>,
    weight: f64,
    /// What the next observation weighs: growing it ages all others.
    unit: f64,
}

/// Exact sums, so that the width of a bin costs no precision.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    weight: f64,
    bytes: f64,
    squares: f64,
    cubes: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            bins: vec![Bin::default(); BINS].into(),
            sums: vec![Bin::default(); BINS].into(),
            weight: 0.0,
            unit: 1.0,
        }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, bytes: u64) {
        self.add_all(&[(bytes as f64, 1.0)]);
    }

    /// So many of each; none of them is older than another.
    pub(super) fn add_all(&mut self, peaks: &[(f64, f64)]) {
        let count: f64 = peaks.iter().map(|(_, count)| count).sum();
        let grown = (count.min(MOST_AT_ONCE) / HALF_LIFE).exp2();
        // Together they weigh what they would if they had come one after the other.
        let each = self.unit * (grown - 1.0) * (HALF_LIFE / LN_2) / count;
        for &(bytes, count) in peaks {
            self.put(bytes, count * each);
        }
        self.unit *= grown;
        if self.unit > 1e9 {
            self.forget(1.0 / self.unit);
            self.unit = 1.0;
        }
    }

    /// Takes back what [`points`](Self::points) said: none of them is older than another,
    /// and together they weigh no more than what can be learned, or nothing would be
    /// learned beside them.
    pub(super) fn restore(&mut self, points: &[(f64, f64)]) {
        let total: f64 = points.iter().map(|(_, weight)| weight).sum();
        let scale = (HALF_LIFE / LN_2 / total).min(1.0) * self.unit;
        for &(bytes, weight) in points {
            self.put(bytes, weight * scale);
        }
    }

    fn put(&mut self, bytes: f64, weighed: f64) {
        let index = bins::of(bytes as u64);
        let below = &mut self.sums[..=index];
        for bin in below.iter_mut().chain([&mut self.bins[index]]) {
            bin.weight += weighed;
            bin.bytes += weighed * bytes;
            bin.squares += weighed * bytes * bytes;
            bin.cubes += weighed * bytes * bytes * bytes;
        }
        self.weight += weighed;
    }

    /// Forgets all peaks above this one; how many they counted as.
    pub(super) fn cut_above(&mut self, bytes: f64) -> f64 {
        let first = bins::of(bytes as u64) + 1;
        let before = self.weight();
        self.bins[first.min(BINS)..].fill(Bin::default());
        let mut sum = Bin::default();
        for (bin, sums) in self.bins.iter().zip(&mut self.sums).rev() {
            sum.weight += bin.weight;
            sum.bytes += bin.bytes;
            sum.squares += bin.squares;
            sum.cubes += bin.cubes;
            *sums = sum;
        }
        self.weight = sum.weight;
        before - self.weight()
    }

    /// Ages everything at once: the past is no longer a guide.
    pub(super) fn forget(&mut self, share_left: f64) {
        for bin in self.bins.iter_mut().chain(&mut self.sums) {
            bin.weight *= share_left;
            bin.bytes *= share_left;
            bin.squares *= share_left;
            bin.cubes *= share_left;
        }
        self.weight *= share_left;
    }

    /// Observations that still count.
    pub(super) fn weight(&self) -> f64 {
        self.weight / self.unit
    }

    /// Mean and spread of the peaks that are at least `bytes`; `None` if none was.
    pub(super) fn above(&self, bytes: u64) -> Option<Moments> {
        let sum = &self.sums[bins::of(bytes)];
        // What is left of long ago is not a guide.
        if sum.weight <= self.weight * 1e-6 {
            return None;
        }
        let mean = sum.bytes / sum.weight;
        let square = sum.squares / sum.weight;
        let third = sum.cubes / sum.weight - 3.0 * mean * square + 2.0 * mean * mean * mean;
        let bytes = mean.max(bytes as f64);
        Some(Moments {
            bytes,
            variance: (square - mean * mean).max(0.0),
            third,
            room: (self.largest_bytes() - bytes).max(bytes * LEAST_ROOM),
        })
    }

    fn largest_bytes(&self) -> f64 {
        let some = |bin: &&Bin| bin.weight > self.weight * 1e-4;
        let largest = self.bins.iter().rfind(some);
        largest.map_or(0.0, |bin| bin.bytes / bin.weight)
    }

    /// The peak that so large a share of requests does not exceed.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.weight * share;
        let mut below = 0.0;
        for (index, bin) in self.bins.iter().enumerate() {
            below += bin.weight;
            if bin.weight > 0.0 && below >= wanted {
                return Some(bins::middle_bytes(index));
            }
        }
        None
    }

    /// Mean and weight of each bin that has any.
    pub(super) fn points(&self) -> Vec<(f64, f64)> {
        let some = self.bins.iter().filter(|bin| bin.weight > self.unit * 1e-3);
        some.map(|bin| ((bin.bytes / bin.weight).max(1.0), bin.weight / self.unit))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_a_request_has_reached_says_what_it_will_reach() {
        let mut histogram = Histogram::default();
        for _ in 0..9 {
            (0..10).for_each(|i| histogram.add(if i == 0 { 120 * MIB } else { 2 * MIB }));
        }
        let all = histogram.above(0).unwrap();
        assert!((all.bytes / MIB as f64 - 13.8).abs() < 0.5, "{all:?}");
        let large = histogram.above(10 * MIB).unwrap();
        assert_eq!(large.bytes as u64 / MIB, 120);
        assert!(large.variance.sqrt() < MIB as f64);
        assert!(histogram.above(200 * MIB).is_none());
        assert_eq!(histogram.quantile(0.5).unwrap() as u64 / MIB, 2);
    }

    #[test]
    fn old_peaks_count_less() {
        let mut histogram = Histogram::default();
        (0..1000).for_each(|_| histogram.add(10 * MIB));
        (0..1000).for_each(|_| histogram.add(40 * MIB));
        let mean = histogram.above(0).unwrap().bytes / MIB as f64;
        assert!(mean > 37.0, "{mean}");
        histogram.forget(0.1);
        (0..64).for_each(|_| histogram.add(80 * MIB));
        assert!(histogram.above(0).unwrap().bytes / MIB as f64 > 60.0);
    }

    #[test]
    fn what_is_restored_is_what_was_there() {
        let mut histogram = Histogram::default();
        (0..600).for_each(|i| histogram.add(if i % 10 == 0 { 120 * MIB } else { 2 * MIB }));
        let mut restored = Histogram::default();
        restored.restore(&histogram.points());
        let (was, is) = (histogram.above(0).unwrap(), restored.above(0).unwrap());
        assert!((is.bytes / was.bytes - 1.0).abs() < 1e-3, "{is:?} {was:?}");
        assert!((restored.weight() / histogram.weight() - 1.0).abs() < 1e-2);
        // However much is said to be known, what comes counts.
        let mut sure = Histogram::default();
        sure.restore(&[((2 * MIB) as f64, 1e9)]);
        (0..256).for_each(|_| sure.add(40 * MIB));
        assert!(sure.above(0).unwrap().bytes > (15 * MIB) as f64);
    }

    #[test]
    fn millions_of_observations_stay_finite() {
        let mut histogram = Histogram::default();
        (0..100_000).for_each(|_| histogram.add(10 * MIB));
        assert!((histogram.weight() - HALF_LIFE / LN_2).abs() < 2.0);
        assert_eq!(
            (histogram.above(0).unwrap().bytes / MIB as f64).round(),
            10.0
        );
    }
}
