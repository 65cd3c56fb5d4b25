//! How long requests have waited, for a histogram.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// From one bucket to the next waits grow by a fourth root of two.
const PER_OCTAVE: f64 = 4.0;
/// Below 1 ms, and then up to 2^25 ms, which is over nine hours.
const BUCKETS: usize = 1 + 25 * PER_OCTAVE as usize;

/// Waits counted by length: each is known to a tenth of it.
///
/// Made when somebody first has waited.
#[derive(Debug, Default)]
pub(crate) struct WaitTimes(OnceLock<Box<[AtomicU64]>>);

impl WaitTimes {
    pub(crate) fn add(&self, wait: Duration) {
        let octaves = (wait.as_secs_f64() * 1e3).log2();
        // Below 1 ms the logarithm is negative or minus infinity: the first bucket.
        let bucket = (octaves * PER_OCTAVE).floor() + 1.0;
        let bucket = (bucket.max(0.0) as usize).min(BUCKETS - 1);
        let made = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        self.0.get_or_init(made)[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// As if nobody had waited so far.
    pub(crate) fn forget(&self) {
        let counts = self.0.get().into_iter().flatten();
        counts.for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// For each length in seconds, how many waits there were since the last call.
    #[cfg(feature = "metrics")]
    pub(crate) fn take(&self) -> impl Iterator<Item = (f64, u64)> {
        let counts = self.0.get().into_iter().flatten();
        let counts = counts.map(|count| count.swap(0, Ordering::Relaxed));
        counts.enumerate().map(|(bucket, count)| {
            let middle_ms = match bucket {
                0 => 0.5,
                _ => 2.0_f64.powf((bucket as f64 - 0.5) / PER_OCTAVE),
            };
            (middle_ms / 1e3, count)
        })
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_known_to_a_tenth() {
        for ms in [1, 2, 3, 7, 50, 999, 10_000, 100_000, 10_000_000] {
            let waits = WaitTimes::default();
            waits.add(Duration::from_millis(ms));
            let (seconds, _) = waits.take().find(|&(_, count)| count == 1).unwrap();
            let error = (seconds * 1e3 / ms as f64 - 1.0).abs();
            assert!(error < 0.1, "{ms} ms as {seconds} s");
        }
        let waits = WaitTimes::default();
        waits.add(Duration::ZERO);
        waits.add(Duration::MAX);
        let counted: u64 = waits.take().map(|(_, count)| count).sum();
        assert_eq!(counted, 2);
    }
}
