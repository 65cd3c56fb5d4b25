//! The largest requests in flight, for whoever comes after a kill.

use super::Running;
use super::slot::Slot;
use crate::class::tag::ClassKey;

impl Running {
    /// Kinds and peaks of those in flight, the largest first and so many at most. Peaks
    /// are as if each request's hint were the unit.
    ///
    /// Not those whose need was declared or whose work has not begun: they say nothing
    /// about others.
    pub(crate) fn peaks(&self, most: usize) -> Vec<(ClassKey, u64)> {
        let mut peaks: Vec<_> = self.in_flight().filter_map(Slot::peak).collect();
        peaks.sort_unstable_by_key(|&(peak_bytes, _)| std::cmp::Reverse(peak_bytes));
        peaks.truncate(most);
        peaks.into_iter().map(|(_, unscaled)| unscaled).collect()
    }
}

impl Slot {
    /// The request's peak; and its kind, with the peak for the unit.
    fn peak(&self) -> Option<(u64, (ClassKey, u64))> {
        let life = self.life.get();
        let (key, scale, peak_bytes) = (self.class_key(), self.scale(), self.peak_bytes());
        let counts = life.is_in_flight() && !life.says_nothing();
        // Otherwise another one has come meanwhile, and it would be told wrong.
        let same = life.generation() == self.generation();
        let unscaled = (peak_bytes as f64 / scale) as u64;
        (counts && same && unscaled > 0).then_some((peak_bytes, (key, unscaled)))
    }
}
