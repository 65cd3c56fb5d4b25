//! What requests will need, and what the process will.
//!
//! Nothing here opens a file or reads a clock. With accounting, [`Book`] knows
//! what each request holds and what requests like it went on to need;
//! [`UsageEstimate`] then sees what accounting does not explain. Without, it is
//! all there is.

pub(crate) mod bins;
mod book;
mod calibration;
mod class;
mod histogram;
#[cfg(feature = "serde")]
mod record;
#[cfg(test)]
mod simulation_tests;
mod trajectory;
mod usage;

use std::time::Duration;

use book::Book;
#[cfg(feature = "serde")]
pub use record::Estimates;
use usage::UsageEstimate;

use crate::running::Running;

/// No request is taken to need less.
const LEAST_BYTES: u64 = 64 << 10;
/// What accounting does not explain counts above this many bytes for each
/// request, and above this share of what it does.
const UNEXPLAINED_BYTES: f64 = (1u64 << 20) as f64;
const UNEXPLAINED_SHARE: f64 = 0.25;
/// What the process held besides requests is forgotten by half in this time
/// once it holds less: it may have been allocated and not touched yet.
const BESIDE_HALF_LIFE: Duration = Duration::from_secs(2);

/// A mean and a variance, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    bytes: f64,
    variance: f64,
}

impl Need {
    /// Of one thing with probability `share`, else of the other.
    fn mixed_with(self, other: Need, share: f64) -> Need {
        let bytes = self.bytes * (1.0 - share) + other.bytes * share;
        let spread = |need: Need| need.variance + (need.bytes - bytes) * (need.bytes - bytes);
        Need {
            bytes,
            variance: spread(self) * (1.0 - share) + spread(other) * share,
        }
    }

    /// With this probability it is so large instead, if that is larger.
    fn or_else(self, bytes: f64, probability: f64) -> Need {
        if bytes <= self.bytes {
            return self;
        }
        let large = Need {
            bytes,
            variance: 0.0,
        };
        self.mixed_with(large, probability)
    }
}

/// What estimates learn from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// Time since the sampler began.
    pub(crate) now: Duration,
    /// Bytes in use at the own level.
    pub(crate) usage_bytes: u64,
    /// Requests in flight, this guard's and all guards'.
    pub(crate) own_in_flight: u32,
    pub(crate) all_in_flight: u32,
    /// Requests of this guard that have finished since it began.
    pub(crate) completed: u64,
}

/// The forecast of one guard.
#[derive(Debug)]
pub(crate) struct Forecast {
    /// With accounting.
    book: Option<Book>,
    usage: UsageEstimate,
    usage_bytes: f64,
    /// What the process holds besides requests.
    beside_bytes: f64,
    in_flight: f64,
    now: Duration,
}

impl Forecast {
    /// `accounted`: what each request allocates is known.
    pub(crate) fn new(prior_bytes: u64, target: f64, accounted: bool) -> Self {
        // What accounting does not explain is nothing until it is seen.
        let usage_prior_bytes = if accounted { 0 } else { prior_bytes };
        Self {
            book: accounted.then(|| Book::new(prior_bytes, target)),
            usage: UsageEstimate::new(usage_prior_bytes),
            usage_bytes: 0.0,
            beside_bytes: 0.0,
            in_flight: 0.0,
            now: Duration::ZERO,
        }
    }

    /// Looks at what requests hold: before a full sample, so that the sample
    /// shows at least as much.
    pub(crate) fn look(&mut self, running: &Running, now: Duration) {
        if let Some(book) = &mut self.book {
            book.look(running, now);
        }
    }

    /// Learns from one full sample. Called in the order of time.
    pub(crate) fn observe(&mut self, evidence: Evidence) {
        self.usage_bytes = evidence.usage_bytes as f64;
        self.in_flight = f64::from(evidence.all_in_flight);
        let beside_bytes = (self.usage_bytes - self.held_bytes()).max(0.0);
        let elapsed = evidence.now.saturating_sub(self.now).as_secs_f64();
        self.now = evidence.now;
        let left = 0.5_f64.powf(elapsed / BESIDE_HALF_LIFE.as_secs_f64());
        self.beside_bytes =
            beside_bytes.max(beside_bytes + (self.beside_bytes - beside_bytes) * left);
        self.usage.observe(Evidence {
            usage_bytes: beside_bytes as u64,
            ..evidence
        });
    }

    /// A fresher figure of the usage alone. It may contain page cache that the
    /// next full sample takes off, so nothing is learned from it.
    pub(crate) fn see_usage(&mut self, usage_bytes: u64) {
        self.usage_bytes = usage_bytes as f64;
        let beside_bytes = (self.usage_bytes - self.held_bytes()).max(0.0);
        self.usage.see_usage(beside_bytes as u64);
    }

    fn held_bytes(&self) -> f64 {
        self.book
            .as_ref()
            .map_or(0.0, |book| book.sums().held_bytes)
    }

    /// Memory was given back: what the process held besides requests is not
    /// allocated any more.
    pub(crate) fn released(&mut self) {
        self.beside_bytes = 0.0;
    }

    /// By how much usage may still rise without another request: F − U.
    pub(crate) fn outstanding_bytes(&self, reserved_bytes: u64) -> u64 {
        let Some(book) = &self.book else {
            return reserved_bytes - self.usage.realised_bytes(reserved_bytes);
        };
        let sums = book.sums();
        // Admitted, and no look has found it yet.
        let unseen_bytes = reserved_bytes.saturating_sub(sums.reserved_kib * 1024);
        // What is allocated may not be touched yet: the second term covers it.
        let touched = sums.growth_bytes;
        let allocated = self.beside_bytes + sums.need_bytes - self.usage_bytes;
        let growth = touched.max(allocated) + book.margin_bytes(sums.variance);
        let unexplained = (self.unexplained_bytes() * self.in_flight) as u64;
        let unexplained = unexplained - self.usage.realised_bytes(unexplained);
        (growth.max(0.0) as u64)
            .saturating_add(unseen_bytes)
            .saturating_add(unexplained)
    }

    /// What each request holds that its account does not show: mapped files, wasm,
    /// children. 0 where accounting explains enough.
    fn unexplained_bytes(&self) -> f64 {
        let Some(book) = &self.book else {
            return 0.0;
        };
        let unexplained = self.usage.request_bytes() as f64;
        let explained = book.class.learned().map_or(0.0, |need| need.bytes);
        if unexplained > UNEXPLAINED_BYTES.max(explained * UNEXPLAINED_SHARE) {
            unexplained
        } else {
            0.0
        }
    }

    /// What the next request is to reserve: its mean, and by how much it widens
    /// the margin.
    pub(crate) fn request_bytes(&self) -> u64 {
        let Some(book) = &self.book else {
            return self.usage.request_bytes();
        };
        let next = book.class.next();
        let variance = book.sums().variance;
        let margin = book.margin_bytes(variance + next.variance) - book.margin_bytes(variance);
        (next.bytes + margin + self.unexplained_bytes()) as u64
    }

    /// What a request is known to need at least; 0 until requests have been seen.
    pub(crate) fn low_bytes(&self) -> u64 {
        let Some(book) = &self.book else {
            return self.usage.low_bytes();
        };
        let unexplained = self.unexplained_bytes();
        let hidden = if unexplained > 0.0 {
            self.usage.low_bytes()
        } else {
            0
        };
        book.class.low_bytes() + hidden
    }

    /// Forecasts checked, and how many were exceeded.
    pub(crate) fn checked(&self) -> (u64, u64) {
        self.book
            .as_ref()
            .map_or((0, 0), |book| book.calibration.counts())
    }

    /// The margin, in standard deviations of the forecast.
    pub(crate) fn margin_deviations(&self) -> f64 {
        self.book
            .as_ref()
            .map_or(0.0, |book| book.calibration.deviations())
    }
}
