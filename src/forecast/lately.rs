//! [`Lately`]: the greatest or the least of what was seen lately.

use std::time::Duration;

/// The greatest, or the least, of the last one to two times so long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lately {
    began: Duration,
    bytes: f64,
    before: f64,
}

impl Lately {
    /// `of`: [`f64::max`] or [`f64::min`].
    pub(super) fn see(
        &mut self,
        now: Duration,
        lasts: Duration,
        bytes: f64,
        of: fn(f64, f64) -> f64,
    ) -> f64 {
        if now >= self.began + lasts {
            // Without a look in between nothing is known.
            let gap = now >= self.began + lasts * 3;
            self.before = if gap { 0.0 } else { self.bytes };
            (self.began, self.bytes) = (now, bytes);
        }
        self.bytes = of(self.bytes, bytes);
        of(self.bytes, self.before)
    }
}
