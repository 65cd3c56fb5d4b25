//! What another process has learned, and how it is outweighed by what comes.

use super::growth::LEAST_BEYOND;
use super::{LEAST_BYTES, Profile, SURPRISE, TRUSTED_AFTER};
use crate::forecast::record::{ClassRecord, MOST_REQUESTS};

/// Peaks of which this many requests would have been expected by now, and none came, are
/// no longer believed: by chance that happens to one class in 150.
const CONTRADICTED_BY: f64 = 5.0;
/// What is feared of a request fades with those that are seen: so many are enough.
const OUTWEIGHED_BY: f64 = 32.0;

/// What was taken from another process.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    /// Peaks that are believed still, and of which share of requests.
    peaks: Vec<(f64, f64)>,
    /// One may need so much, although the configured estimate is less.
    expected_bytes: f64,
}

impl Before {
    /// What others needed, as far as this process has not seen so many that do not.
    pub(super) fn feared_bytes(&self, own: f64) -> f64 {
        self.expected_bytes * (1.0 - own / OUTWEIGHED_BY).max(0.0)
    }
}

impl Profile {
    /// Takes back what was saved; it has been [checked](crate::Estimates::check).
    pub(in crate::forecast) fn load(&mut self, record: &ClassRecord) {
        self.histogram.restore(&record.peaks);
        if self.histogram.weight() > 0.0 {
            self.seen = record.seen.min(MOST_REQUESTS);
        }
        let largest = record.peaks.iter().map(|&(bytes, _)| bytes);
        let largest = largest.fold(0.0, f64::max);
        self.expect(largest);
        if largest > self.greatest_bytes {
            // One of many: no record.
            self.greatest_bytes = largest;
            self.beyond = LEAST_BEYOND;
        }
        self.note_loaded();
    }

    /// A request held so much when its process was killed, and might have gone on.
    pub(in crate::forecast) fn at_least(&mut self, bytes: f64) {
        // Less than is expected anyway says nothing.
        if bytes <= self.next().bytes {
            return;
        }
        if !self.is_surprised(bytes as u64) {
            let like = self.histogram.above(bytes as u64);
            let bytes_like = like.map_or(bytes, |need| need.bytes);
            self.note_greatest(bytes_like, 1.0);
            self.remember(&[(bytes_like, 1.0)]);
            self.expect(bytes);
        }
        self.note_loaded();
    }

    fn note_loaded(&mut self) {
        let all = self.histogram.weight();
        let points = self.histogram.points().into_iter();
        self.before.peaks = points
            .map(|(bytes, weight)| (bytes, weight / all))
            .collect();
    }

    /// Until requests have been seen to need less, they are expected to need so much: a
    /// configured estimate that proved too small must not have the process killed again.
    fn expect(&mut self, bytes: f64) {
        if self.seen < TRUSTED_AFTER {
            self.before.expected_bytes = self.before.expected_bytes.max(bytes);
        }
    }

    /// What a request may need that nobody has seen: as configured, or as others did.
    pub(super) fn feared_bytes(&self) -> f64 {
        self.prior_bytes.max(self.before.feared_bytes(self.own))
    }

    /// Memory ends here: nothing that was learned elsewhere can be more.
    pub(in crate::forecast) fn bound_loaded(&mut self, limit_bytes: f64) {
        let before = &mut self.before;
        before.expected_bytes = before.expected_bytes.min(limit_bytes);
        if self.own == 0.0 && before.peaks.iter().any(|&(bytes, _)| bytes > limit_bytes) {
            let weight = self.histogram.cut_above(limit_bytes);
            self.histogram.restore(&[(limit_bytes, weight)]);
            self.greatest_bytes = self.greatest_bytes.min(limit_bytes);
            self.note_loaded();
        }
    }

    /// What comes contradicts what was taken from another process, or not.
    pub(super) fn outweigh(&mut self) {
        if self.before.peaks.is_empty() {
            return;
        }
        let known_bytes = self.own_greatest_bytes * SURPRISE + LEAST_BYTES as f64;
        let peaks = &mut self.before.peaks;
        let above = peaks.iter().filter(|(bytes, _)| *bytes > known_bytes);
        let share: f64 = above.map(|(_, share)| share).sum();
        if share * self.own < CONTRADICTED_BY {
            return;
        }
        peaks.retain(|(bytes, _)| *bytes <= known_bytes);
        self.histogram.cut_above(known_bytes);
        // From so many the rest is known.
        self.seen -= (self.seen - self.own).max(0.0) * share.min(1.0);
    }
}
