//! What requests hold that their accounts do not show: mapped files, wasm, children, work
//! on threads that nobody counts for them.

use super::Forecast;

/// It counts above this many bytes for each request, and above this share of what accounts
/// explain: the allocator's rounding and what it keeps are of nobody's doing.
const LEAST_BYTES: f64 = (2u64 << 20) as f64;
const LEAST_SHARE: f64 = 0.5;
/// Above this share where many hold nothing by their accounts and yet are not done:
/// so many of those in flight.
const LEAST_SHARE_OF_QUIET: f64 = 0.15;
const MANY: f64 = 0.1;
/// What the newest look at these counts.
const STEP: f64 = 0.1;

impl Forecast {
    /// For each request. 0 where accounting explains enough.
    pub(super) fn unexplained_bytes(&self) -> f64 {
        let Some(book) = &self.book else {
            return 0.0;
        };
        let least_share = match self.quiet > MANY {
            true => LEAST_SHARE_OF_QUIET,
            false => LEAST_SHARE,
        };
        let unexplained = self.usage.request_bytes() as f64;
        // Where they come to need more, the last ones say so first; and among many small
        // ones, few large ones hold most of what there is.
        let kinds_bytes = book.kinds.peak_bytes.max(book.seen_bytes());
        let explained = kinds_bytes.max(self.held_each_bytes);
        if unexplained > LEAST_BYTES.max(explained * least_share) {
            unexplained
        } else {
            0.0
        }
    }

    /// Many seem to hold nothing, and usage shows that they do: elsewhere.
    pub(super) fn works_elsewhere(&self) -> bool {
        self.quiet > MANY && self.unexplained_bytes() > 0.0
    }

    /// What the allocator says that it keeps is no request's. Where many seem to hold nothing it
    /// counts all the same: it has been the margin for work elsewhere.
    pub(super) fn kept_for_nobody(&self) -> f64 {
        match self.quiet > MANY {
            true => 0.0,
            false => self.kept_bytes,
        }
    }

    /// After a look at requests.
    pub(super) fn see_held(&mut self) {
        let Some(book) = &self.book else {
            return;
        };
        let in_flight = book.made.in_flight;
        if in_flight > 0 {
            let sums = &book.sums;
            let each = |sum: f64| sum / in_flight as f64;
            let (share, held_bytes) = (each(f64::from(sums.quiet)), each(sums.held_bytes));
            self.quiet += (share - self.quiet) * STEP;
            self.held_each_bytes += (held_bytes - self.held_each_bytes) * STEP;
        }
    }
}
