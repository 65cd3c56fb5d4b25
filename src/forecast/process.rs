//! What the process will use: requests, and what there is beside them.

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;

mod hidden;
mod kept;
mod outlook;
mod outstanding;
mod pausing;
#[cfg(test)]
mod polls_tests;
mod saved;
mod unexplained;

use std::time::Duration;

use super::Evidence;
use super::book::Book;
use super::kinds::Kind;
use super::need::{Moments, Sum};
use super::retained::Retained;
use super::usage::UsageEstimate;
use crate::class::tag::ClassKey;
use crate::running::brake::STEPS;
use hidden::Hidden;
use kept::Told;
use pausing::Pausing;

/// Without accounting, an estimate that rises counts for requests in flight up to
/// so many times what was reserved for them: their need may have been declared.
const MOST_OUTDATED: f64 = 1.5;
/// What the process holds besides requests is averaged with this half-life: it
/// seems less for a while when requests have allocated and not touched yet.
const BESIDE_HALF_LIFE: Duration = Duration::from_secs(2);

/// One guard's part of what its ledger's guards forecast.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Portion {
    reserved_kib: u64,
    held_bytes: f64,
    outstanding_bytes: i64,
}

impl Portion {
    pub(crate) fn and(self, other: Portion) -> Portion {
        Portion {
            reserved_kib: self.reserved_kib + other.reserved_kib,
            held_bytes: self.held_bytes + other.held_bytes,
            outstanding_bytes: (self.outstanding_bytes).saturating_add(other.outstanding_bytes),
        }
    }
}

/// The forecast of one guard.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    /// With accounting.
    pub(super) book: Option<Box<Book>>,
    /// Without: what polls of requests are seen to add while the brake is on. Where the
    /// allocator tells nothing, that is what they are the first to touch: less than they
    /// hold, where they live in what earlier ones left behind.
    /// Made with the first such request, from the configured estimate and target.
    touched: Option<Box<Book>>,
    configured: (u64, f64),
    pub(crate) usage: UsageEstimate,
    pub(crate) retained: Retained,
    usage_bytes: f64,
    /// What the allocator says that it keeps.
    kept_bytes: f64,
    /// What the process holds besides requests.
    beside_bytes: f64,
    in_flight: f64,
    /// What the policy leaves free below the limit.
    slack_bytes: f64,
    pub(super) limit_bytes: f64,
    /// The parts of the ledger's other guards, together.
    pub(crate) others: Portion,
    now: Duration,
    /// Requests can be paused: an error of the forecast costs a pause.
    pub(crate) brakes: bool,
    pub(crate) pausing: Pausing,
    /// What must stay free so that those in flight can end, one after the other.
    pub(crate) safe_bytes: f64,
    /// Without accounting: polls show what they allocate, and not only what they touch.
    polls_tell: bool,
    /// What requests hold, for each byte that they are seen to touch.
    reuse: f64,
    /// With accounting: the share of requests that hold nothing, as far as their accounts show.
    quiet: f64,
    /// And what each in flight holds on average, as far as they show.
    held_each_bytes: f64,
    /// What is allocated beside requests.
    beside_allocated: f64,
    /// When that was known last.
    allocated_at_ms: u32,
    /// Without accounting: what requests hold that polls do not show.
    hidden: Hidden,
    /// What requests are expected to have grown by, by what they touch.
    touched_growth: [f64; STEPS],
    /// What share of those that the last look found has not ended since.
    left: f64,
    /// When it was known last what is allocated.
    told: Option<Told>,
    /// What polls have added so far.
    grown_bytes: i64,
    /// What another process has learned is known to be within the limit.
    pub(super) is_bounded: bool,
}

impl Forecast {
    /// `accounted`: what each request allocates is known.
    pub(crate) fn new(prior_bytes: u64, target: f64, accounted: bool) -> Self {
        Self {
            book: accounted.then(|| Box::new(Book::new(prior_bytes, target))),
            configured: (prior_bytes, target),
            usage: if accounted {
                UsageEstimate::beside_accounts()
            } else {
                UsageEstimate::new(prior_bytes)
            },
            reuse: 1.0,
            beside_allocated: f64::MAX,
            is_bounded: true,
            ..Self::default()
        }
    }

    /// The configured estimate is another.
    pub(crate) fn set_prior(&mut self, bytes: u64) {
        for book in self.book.iter_mut().chain(&mut self.touched) {
            book.kinds.set_prior(bytes);
        }
        self.configured.0 = bytes;
        self.usage.set_prior(bytes);
    }

    /// The share of forecasts that may be exceeded is another.
    pub(crate) fn set_target(&mut self, fraction: f64) {
        if let Some(book) = &mut self.book {
            book.calibration.target = fraction;
        }
    }

    /// What the policy leaves free below the limit.
    pub(crate) fn set_slack(&mut self, bytes: u64, limit_bytes: u64) {
        self.slack_bytes = bytes as f64;
        self.limit_bytes = limit_bytes as f64;
        self.bound_loaded();
    }

    /// Learns from one full sample. Called in the order of time.
    pub(crate) fn observe(&mut self, evidence: Evidence) {
        self.usage_bytes = evidence.usage_bytes as f64;
        self.kept_bytes = evidence.kept_bytes as f64;
        self.in_flight = f64::from(evidence.all_in_flight);
        if let Some(allocated_bytes) = evidence.allocated_bytes {
            // What others in the group use is not kept by this process's allocator.
            let process_bytes = evidence.process_bytes as f64;
            let retained = &mut self.retained;
            retained.observe(evidence.now, process_bytes, allocated_bytes as f64);
            self.told = Some(Told {
                at: evidence.now,
                grown_bytes: evidence.grown_bytes,
                usage_bytes: self.usage_bytes,
            });
        }
        self.grown_bytes = evidence.grown_bytes;
        self.see_reuse(&evidence);
        let beside_bytes = self.beside_now();
        let elapsed = evidence.now.saturating_sub(self.now).as_secs_f64();
        self.now = evidence.now;
        let left = 0.5_f64.powf(elapsed / BESIDE_HALF_LIFE.as_secs_f64());
        self.beside_bytes = beside_bytes + (self.beside_bytes - beside_bytes) * left;
        self.see_beside(beside_bytes);
        self.usage.observe(Evidence {
            usage_bytes: (beside_bytes as u64).saturating_sub(evidence.body_bytes),
            ..evidence
        });
        // What is reserved for the bodies counts, so they do as well.
        self.see_beside(beside_bytes);
    }

    /// A fresher figure of the usage alone. It may contain page cache that the
    /// next full sample takes off, so nothing is learned from it.
    pub(crate) fn see_usage(&mut self, usage_bytes: u64) {
        self.usage_bytes = usage_bytes as f64;
        self.see_beside(self.beside_now());
    }

    /// So much was reserved for those that the last look found, and that have ended since: what
    /// is in use is that of newcomers, who have most of their growth before them.
    pub(crate) fn see_gone(&mut self, kib: u64) {
        for book in self.book.iter_mut().chain(&mut self.touched) {
            self.left = book.see_gone(kib);
        }
    }

    fn see_beside(&mut self, beside_bytes: f64) {
        // With accounts it is asked at each full sample what is allocated.
        let returned_bytes = (self.book.as_ref()).map_or_else(|| self.returned_bytes(), |_| 0.0);
        let spare_bytes = self.retained.most_bytes_of(self.kept_for_nobody());
        let spare_bytes = spare_bytes - self.counted_on_bytes();
        let spare_bytes = (spare_bytes - returned_bytes).max(0.0);
        self.usage.see_usage(beside_bytes as u64, spare_bytes);
    }

    /// In use beside what requests hold and what the allocator would give back.
    fn beside_now(&self) -> f64 {
        let held_bytes = self.book.as_ref().map_or(0.0, |book| book.sums.held_bytes);
        let held_bytes = held_bytes + self.others.held_bytes;
        (self.usage_bytes - self.counted_on_bytes() - held_bytes).max(0.0)
    }

    /// This guard's part, for the others on its ledger.
    pub(crate) fn portion(&self) -> Portion {
        let Some(book) = &self.book else {
            return Portion::default();
        };
        let sums = &book.sums;
        let margin_bytes = self.margin_bytes(&sums.needs);
        Portion {
            reserved_kib: sums.reserved_kib,
            held_bytes: sums.held_bytes,
            outstanding_bytes: (sums.growth_bytes + margin_bytes + sums.invisible_bytes) as i64,
        }
    }

    /// The margin over the mean that the slack below the limit does not cover: the
    /// two are independent, so their squares add up.
    fn margin_bytes(&self, needs: &Sum) -> f64 {
        let margin_bytes =
            needs.margin_bytes(self.margin_deviations().unwrap_or(0.0)) * self.trusted();
        margin_bytes.hypot(self.slack_bytes) - self.slack_bytes
    }

    /// What a request of a kind that was never seen is to reserve, and is known to need
    /// at least.
    pub(crate) fn of_unknown_kind(&self) -> (u64, u64) {
        match &self.book {
            None => {
                let by_usage = self.usage.request_bytes();
                let touched = self.touched_if_known();
                let touched = touched.map(|book| (book.next_bytes() * self.reuse) as u64);
                let bytes = match self.all_is_seen() {
                    true => touched.unwrap_or(by_usage),
                    false => by_usage.max(touched.unwrap_or(0)),
                };
                (bytes, self.usage.low_bytes())
            }
            Some(book) => {
                let next = Moments {
                    bytes: book.kinds.prior_bytes as f64,
                    ..Moments::default()
                };
                (self.bytes_of(book, next, true), 0)
            }
        }
    }

    /// What the next request of each kind is to reserve: its mean, and by how much it
    /// widens the margin; and what it is known to need at least, 0 until such requests
    /// have been seen. Without accounting no kinds are told apart.
    #[cfg(any(feature = "dashboard", feature = "metrics", test))]
    pub(crate) fn by_kind(&self) -> impl Iterator<Item = (ClassKey, u64, u64)> {
        self.book.iter().flat_map(move |book| {
            book.kinds.iter().map(move |(key, kind)| {
                let (request_bytes, low_bytes) = self.of_kind(book, key, kind);
                (key, request_bytes, low_bytes)
            })
        })
    }

    /// The same, if it is not critical and if it is, whatever came so far.
    pub(crate) fn by_priority(&self) -> impl Iterator<Item = (ClassKey, [u64; 2], u64)> {
        self.book.iter().flat_map(move |book| {
            book.kinds.iter().map(move |(key, kind)| {
                let plain = !key.is_hinted();
                let bytes = kind.next_by_priority();
                let bytes = bytes.map(|next| self.bytes_of(book, next, plain));
                (key, bytes, self.low_bytes_of(kind, plain).min(bytes[0]))
            })
        })
    }

    fn of_kind(&self, book: &Book, key: ClassKey, kind: &Kind) -> (u64, u64) {
        let plain = !key.is_hinted();
        let request_bytes = self.bytes_of(book, kind.profile.next(), plain);
        // Sizes are known by their bins: the least is no more than what is expected.
        let low_bytes = self.low_bytes_of(kind, plain).min(request_bytes);
        (request_bytes, low_bytes)
    }

    fn low_bytes_of(&self, kind: &Kind, plain: bool) -> u64 {
        let is_hidden = plain && self.unexplained_bytes() > 0.0;
        let hidden_bytes = if is_hidden { self.usage.low_bytes() } else { 0 };
        kind.profile.low_bytes() + hidden_bytes
    }

    fn bytes_of(&self, book: &Book, next: Moments, plain: bool) -> u64 {
        let needs = &book.sums.needs;
        let margin = self.margin_bytes(&needs.with(next)) - self.margin_bytes(needs);
        let hidden = if plain { self.unexplained_bytes() } else { 0.0 };
        (next.bytes + margin.max(0.0) + hidden) as u64
    }

    /// What a request reserves on average, as requests lately were mixed; and what the
    /// smallest kind of them needs at least.
    pub(crate) fn mixed(&self) -> (u64, u64) {
        let Some(book) = &self.book else {
            return self.of_unknown_kind();
        };
        let (mut bytes, mut low_bytes) = (0.0, u64::MAX);
        for (key, kind, share) in book.kinds.mix() {
            let (request, low) = self.of_kind(book, key, kind);
            bytes += request as f64 * kind.scale * share;
            low_bytes = low_bytes.min((low as f64 * kind.scale) as u64);
        }
        if bytes > 0.0 {
            return (bytes as u64, low_bytes);
        }
        // Learned elsewhere, and none has come yet.
        let first = book.kinds.iter().next();
        first.map_or_else(
            || self.of_unknown_kind(),
            |(key, kind)| self.of_kind(book, key, kind),
        )
    }

    /// How far requests' peaks were from what was expected when they began; `None`: nobody
    /// knows.
    pub(crate) fn error_ratio(&self) -> Option<f64> {
        let book = self.book.as_ref()?;
        Some(book.kinds.error_ratio)
    }

    /// Forecasts checked, and how many were exceeded.
    pub(crate) fn checked(&self) -> (u64, u64) {
        self.book
            .as_ref()
            .map_or((0, 0), |book| book.calibration.counts)
    }

    /// The margin, in standard deviations of the forecast; `None`: there is none.
    pub(crate) fn margin_deviations(&self) -> Option<f64> {
        let book = self.book.as_ref()?;
        Some(book.calibration.deviations)
    }
}
