//! By how much usage may still rise without another request.

use super::{Forecast, MOST_OUTDATED};

/// F − U, but for what is reserved: that changes from request to request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outstanding {
    /// Without accounting: what those in flight need by what is estimated now, and how much
    /// of what they need usage shows.
    Estimated { now_bytes: f64, shown_bytes: u64 },
    /// What is reserved for those that a look has found, and how much is to come of all but
    /// those that none has.
    Accounted { seen_bytes: u64, found_bytes: i64 },
}

impl Outstanding {
    /// Of so many reserved bytes. Negative if the allocator keeps more than that, which it
    /// would give back.
    pub(crate) fn bytes(self, reserved_bytes: u64) -> i64 {
        match self {
            Outstanding::Estimated {
                now_bytes,
                shown_bytes,
            } => {
                // Those that run were admitted by an older estimate.
                let most_bytes = reserved_bytes as f64 * MOST_OUTDATED;
                let needed_bytes = reserved_bytes.max(now_bytes.min(most_bytes) as u64);
                needed_bytes.saturating_sub(shown_bytes) as i64
            }
            Outstanding::Accounted {
                seen_bytes,
                found_bytes,
            } => found_bytes.saturating_add_unsigned(reserved_bytes.saturating_sub(seen_bytes)),
        }
    }
}

impl Forecast {
    /// By how much usage may still rise without another request.
    pub(crate) fn outstanding(&self) -> Outstanding {
        let Some(book) = &self.book else {
            return Outstanding::Estimated {
                now_bytes: self.usage.request_bytes() as f64 * self.in_flight,
                shown_bytes: self.usage.realised_bytes(u64::MAX),
            };
        };
        let sums = &book.sums;
        let seen_kib = sums.reserved_kib + self.others.reserved_kib;
        let retained_bytes = self.retained.bytes();
        // What is allocated may not be touched yet: the second term covers it.
        let touched = sums.growth_bytes - retained_bytes;
        let allocated =
            self.beside_bytes + sums.need_bytes + self.others.held_bytes - self.usage_bytes;
        let growth = touched.max(allocated) + self.margin_bytes(&sums.needs);
        // What no account shows: as much as was reserved, or as usage tells; which shows what
        // such requests hold while they grow, and not what each will hold in the end.
        let by_usage = self.unexplained_bytes() * self.in_flight;
        let quiet_kib = if by_usage > 0.0 { sums.quiet_kib } else { 0 };
        let quiet_bytes = (quiet_kib * 1024) as f64;
        let elsewhere = by_usage.max(sums.invisible_bytes).max(quiet_bytes) as u64;
        let elsewhere = elsewhere - self.usage.realised_bytes(elsewhere);
        let others = self.others.outstanding_bytes;
        let more = others.saturating_add_unsigned(elsewhere);
        Outstanding::Accounted {
            seen_bytes: seen_kib * 1024,
            found_bytes: (growth as i64).saturating_add(more),
        }
    }

    /// What is in use beyond what was while nobody was in flight.
    pub(crate) fn growth_bytes(&self) -> u64 {
        self.usage.above_baseline_bytes()
    }

    /// The same of so many reserved bytes.
    pub(crate) fn outstanding_bytes(&self, reserved_bytes: u64) -> i64 {
        self.outstanding().bytes(reserved_bytes)
    }
}
