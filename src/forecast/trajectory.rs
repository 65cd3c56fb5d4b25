//! What requests that looked like this one at this age went on to need.

use std::time::Duration;

use super::need::Moments;
use crate::running::bins;

/// Ages are told apart by doublings of this one.
const YOUNGEST: Duration = Duration::from_millis(8);
/// Up to 16 s; older ones are alike.
pub(super) const AGES: usize = 12;
/// Sizes are told apart as the histogram's are, two bins together.
const SEEN: usize = bins::BINS / 2;
/// A cell remembers about so many.
const WINDOW: f64 = 400.0;

/// No request is further above the mean of its like.
const MOST_DEVIATIONS: f64 = 6.0;

/// At which size a request was seen at which age; 0: it was not.
pub(super) type Marks = [u16; AGES];

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    weight: f32,
    mean: f32,
    variance: f32,
    third: f32,
}

/// The table of (age, seen) → final peak.
#[derive(Clone, Debug)]
pub(super) struct Trajectories {
    cells: Box<[Cell]>,
}

pub(super) fn age_index(age: Duration) -> usize {
    let doublings = (age.as_millis() / YOUNGEST.as_millis()).max(1).ilog2();
    (doublings as usize).min(AGES - 1)
}

fn seen_index(bytes: u64) -> usize {
    bins::of(bytes) / 2
}

impl Default for Trajectories {
    fn default() -> Self {
        Self {
            cells: vec![Cell::default(); AGES * SEEN].into(),
        }
    }
}

impl Trajectories {
    /// Notes what a running request has reached.
    pub(super) fn mark(marks: &mut Marks, age: Duration, peak_bytes: u64) {
        let mark = &mut marks[age_index(age)];
        if *mark == 0 {
            *mark = seen_index(peak_bytes) as u16 + 1;
        }
    }

    /// A request with these marks ended with this peak.
    pub(super) fn learn(&mut self, marks: &Marks, peak_bytes: u64) {
        for (age, &mark) in marks.iter().enumerate() {
            if mark > 0 {
                self.cells[age * SEEN + usize::from(mark) - 1].add(peak_bytes as f32);
            }
        }
    }

    /// What it will need, and from how many that is known.
    pub(super) fn predict(&self, age: Duration, peak_bytes: u64) -> Option<(Moments, f64)> {
        let cell = &self.cells[age_index(age) * SEEN + seen_index(peak_bytes)];
        if cell.weight < 1.5 {
            return None;
        }
        // Few of them may all have been alike by chance.
        let doubt = 1.0 + 2.0 / f64::from(cell.weight);
        let mean = f64::from(cell.mean).max(peak_bytes as f64);
        // Sizes in one cell are not quite the same.
        let least = mean * 0.02;
        let variance = f64::from(cell.variance) * doubt + least * least;
        let need = Moments {
            bytes: mean,
            variance,
            room: variance.sqrt() * MOST_DEVIATIONS,
            third: f64::from(cell.third) * doubt,
        };
        Some((need, f64::from(cell.weight)))
    }

    /// Ages everything at once.
    pub(super) fn forget(&mut self, share_left: f64) {
        for cell in &mut self.cells {
            cell.weight *= share_left as f32;
        }
    }
}

impl Cell {
    fn add(&mut self, bytes: f32) {
        self.weight = self.weight.min(WINDOW as f32 - 1.0) + 1.0;
        let step = 1.0 / self.weight;
        let distance = bytes - self.mean;
        self.mean += distance * step;
        self.variance += (distance * (bytes - self.mean) - self.variance) * step;
        let left = bytes - self.mean;
        let third = self.third + (left * left * left - self.third) * step;
        // Of the largest sizes there are it is more than can be told.
        self.third = if third.is_finite() { third } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_ones_are_told_from_large_ones_once_they_stay_small() {
        let mut table = Trajectories::default();
        let mut small = Marks::default();
        Trajectories::mark(&mut small, Duration::from_millis(10), MIB);
        Trajectories::mark(&mut small, Duration::from_millis(300), 2 * MIB);
        let mut large = Marks::default();
        Trajectories::mark(&mut large, Duration::from_millis(10), MIB);
        Trajectories::mark(&mut large, Duration::from_millis(300), 60 * MIB);
        for _ in 0..9 {
            table.learn(&small, 2 * MIB);
        }
        table.learn(&large, 120 * MIB);
        let young = table.predict(Duration::from_millis(12), MIB).unwrap().0;
        assert!(young.bytes > 10.0 * MIB as f64 && young.variance.sqrt() > 30.0 * MIB as f64);
        let old = table
            .predict(Duration::from_millis(400), 2 * MIB)
            .unwrap()
            .0;
        assert!(
            old.bytes < 2.1 * MIB as f64 && old.variance.sqrt() < MIB as f64,
            "{old:?}"
        );
        assert!(table.predict(Duration::from_millis(400), 9 * MIB).is_none());
    }

    #[test]
    fn ages_have_an_end() {
        assert_eq!(age_index(Duration::ZERO), 0);
        assert_eq!(age_index(Duration::from_secs(86_400)), AGES - 1);
    }
}
