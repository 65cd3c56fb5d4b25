//! An estimate from usage over the idle baseline.

use std::time::Duration;

use super::lately::Lately;
use super::profile::SETTLED_AFTER;
use super::record::MOST_REQUESTS;
use super::{Evidence, LEAST_BYTES};

/// Requests seen before the configured estimate no longer counts.
const TRUSTED_AFTER: f64 = 8.0;
/// Requests in flight are of all ages, and hold less on average than each does
/// at its peak: half, if all grow evenly. The greatest average seen stands
/// between the two, and this is the rest of the way.
const PEAK_OVER_AVERAGE: f64 = 1.5;
/// The greatest average seen is halved after this time without one like it, while anybody is
/// in flight.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// And after this time while usage does not show what requests need.
const UNCLEAR_HALF_LIFE: Duration = Duration::from_secs(300);
/// What accounts do not show is a request's if it lasts for longer.
const LASTS: Duration = Duration::from_millis(50);
/// An average that rose in this time is taken to go on rising.
const TREND: Duration = Duration::from_secs(2);
/// What a connection takes whose request waits (measured with hyper: 26 KiB).
pub(super) const WAITER_BYTES: f64 = 32.0 * 1024.0;
/// What a process grows by without any request's doing, when it begins to work.
const NOISE_BYTES: f64 = (2u64 << 20) as f64;
/// What a request leaves behind is at most so much above the average.
const MOST_OVER_AVERAGE: f64 = 1.1;
/// Kept memory above this share of the lowest baseline, and above this many
/// bytes, may be what requests live in: usage then does not show what they need.
const CLEAN: f64 = 0.10;
const CLEAN_BYTES: f64 = (4u64 << 20) as f64;
/// What requests are thought to need is contradicted if less than this share of it vanishes
/// when they end.
const CONFIRMED: f64 = 0.25;
/// Once so many such have ended for each that is left.
const MANY_FOR_EACH: u32 = 8;
/// What another process has learned fades with the requests that are seen: so many are
/// enough.
const OUTWEIGHED_BY: f64 = 32.0;

/// `max(prior·(1 − w) + 1.5·a·w, 1.5·a)`, where `a` is the decayed greatest of
/// (usage − baseline − kept − what waiters take − noise) / requests in flight, and
/// what that lately rose by; `w` rises from 0 to 1 with the first eight requests
/// seen through.
///
/// The baseline is the usage when nothing is in flight. *Kept* is what stays
/// when requests finish: those that are left hold no more than the average
/// each, so the rest is the allocator's, a cache's or a leak, and not theirs. With
/// accounts, what was freed lately and is not back at once (*spare*) is no growth
/// either, as far as it is more than it was at the baseline; and what has not vanished with
/// eight requests for each that is left is part of the baseline: `a` is halved then.
#[derive(Debug, Default)]
pub(crate) struct UsageEstimate {
    prior_bytes: f64,
    /// It is about what accounts do not show.
    beside_accounts: bool,
    average_bytes: f64,
    /// Beside accounts, the least that there was lately: who has just ended may take some time to
    /// free what it held, and longer while the allocator gives memory back.
    lately: Lately,
    baseline_bytes: f64,
    lowest_baseline_bytes: f64,
    kept_bytes: f64,
    usage_bytes: f64,
    /// What of that may be the allocator's, now and at the baseline.
    spare_bytes: f64,
    spare_at_baseline: f64,
    seen: f64,
    /// The average that another process has learned, and from how many requests; both fade.
    before: (f64, f64),
    /// By how much the average rose in the last [`TREND`], and what it was then.
    rise_bytes: f64,
    compared: (Duration, f64),
    highest_bytes: f64,
    grew_at: Duration,
    ebb: Ebb,
    last: Last,
    in_flight_before: u32,
    started: bool,
}

/// Of the sample before.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    now: Duration,
    own_in_flight: u32,
    all_in_flight: u32,
    completed: u64,
}

/// Most of those that were in flight at once have ended: did what they were thought to hold
/// vanish with them?
#[derive(Clone, Copy, Debug, Default)]
struct Ebb {
    most_in_flight: u32,
    most_bytes: f64,
    began: Option<Duration>,
    /// So many in a row had nothing of it.
    without: u32,
}

impl Ebb {
    /// Many have ended, one after the other, and of what each is thought to hold next to
    /// nothing has vanished: it is that of those that are left, or nobody's.
    fn contradicts(&mut self, now: Duration, in_flight: u32, bytes: f64, each: f64) -> bool {
        if in_flight > self.most_in_flight / 2 || self.most_in_flight == 0 {
            let before = if self.most_in_flight == 0 {
                bytes
            } else {
                self.most_bytes
            };
            self.most_in_flight = self.most_in_flight.max(in_flight);
            self.most_bytes = before.max(bytes);
            self.began = None;
            return false;
        }
        // They may still be freeing what they held.
        let began = *self.began.get_or_insert(now);
        if now < began + LASTS * 2 {
            return false;
        }
        let ended = self.most_in_flight - in_flight;
        let vanished_bytes = (self.most_bytes - bytes).max(0.0) / f64::from(ended);
        let without = match vanished_bytes < each * CONFIRMED {
            true => self.without + ended,
            false => 0,
        };
        let contradicts = without >= MANY_FOR_EACH * (in_flight + 1);
        *self = Self {
            most_in_flight: in_flight,
            most_bytes: bytes,
            began: None,
            without: if contradicts { 0 } else { without },
        };
        contradicts
    }
}

impl UsageEstimate {
    /// The configured estimate is another. Beside accounts there is none.
    pub(crate) fn set_prior(&mut self, bytes: u64) {
        if self.prior_bytes > 0.0 {
            self.prior_bytes = bytes as f64;
        }
    }

    pub(crate) fn new(prior_bytes: u64) -> Self {
        Self {
            prior_bytes: prior_bytes as f64,
            lowest_baseline_bytes: f64::MAX,
            ..Self::default()
        }
    }

    /// For what accounts do not show: nothing, until it is seen.
    pub(super) fn beside_accounts() -> Self {
        Self {
            beside_accounts: true,
            ..Self::new(0)
        }
    }

    /// Learns from one full sample. Called in the order of time.
    pub(super) fn observe(&mut self, evidence: Evidence) {
        self.usage_bytes = evidence.usage_bytes as f64;
        let in_flight = f64::from(evidence.all_in_flight);
        if evidence.all_in_flight == 0 || !self.started {
            self.started = true;
            self.rest_at_usage();
            self.kept_bytes = 0.0;
        } else if self.usage_bytes < self.baseline_bytes {
            self.rest_at_usage();
        }
        self.lowest_baseline_bytes = self.lowest_baseline_bytes.min(self.baseline_bytes);
        self.forget(&evidence);
        if evidence.all_in_flight > 0 {
            let finished = evidence.completed.saturating_sub(self.last.completed);
            let fewer = self
                .last
                .all_in_flight
                .saturating_sub(evidence.all_in_flight);
            self.keep(in_flight, (finished as f64).max(f64::from(fewer)));
            self.kept_bytes = self.kept_bytes.min(self.growth_bytes());
            let waiting = f64::from(evidence.waiting) * WAITER_BYTES;
            let theirs = self.growth_bytes() - self.kept_bytes - waiting - NOISE_BYTES;
            let average = theirs.max(0.0) / in_flight;
            let average = match self.beside_accounts {
                true => self.lately.see(evidence.now, LASTS, average, f64::min),
                false => average,
            };
            self.average_bytes = self.average_bytes.max(average);
        }
        if evidence.now >= self.compared.0 + TREND {
            // While it is first learned, it rises anyway.
            let known = self.seen >= TRUSTED_AFTER && self.compared.1 > 0.0;
            let rise = (self.average_bytes - self.compared.1).clamp(0.0, self.compared.1);
            self.rise_bytes = if known { rise } else { 0.0 };
            self.compared = (evidence.now, self.average_bytes);
        }
        // Requests that run on without growing have shown what they need.
        if self.usage_bytes > self.highest_bytes * 1.01 || evidence.all_in_flight == 0 {
            self.highest_bytes = self.usage_bytes;
            self.grew_at = evidence.now;
        } else if evidence.now >= self.grew_at + SETTLED_AFTER {
            self.seen = self.seen.max(f64::from(evidence.own_in_flight));
        }
        // Only requests that samples caught in flight count as seen; two of them, if
        // they showed nothing: one may have come before the memory did.
        let caught = match self.average_bytes > 0.0 {
            true => self.last.own_in_flight,
            false => self.last.own_in_flight.min(self.in_flight_before),
        };
        let finished = evidence.completed.saturating_sub(self.last.completed);
        self.seen += (finished as f64).min(f64::from(caught));
        self.in_flight_before = self.last.own_in_flight;
        self.last = Last {
            now: evidence.now,
            own_in_flight: evidence.own_in_flight,
            all_in_flight: evidence.all_in_flight,
            completed: evidence.completed,
        };
    }

    /// What is forgotten with time, and what is no need of requests after all.
    fn forget(&mut self, evidence: &Evidence) {
        let idle = evidence.all_in_flight == 0;
        // While nobody is there nothing is seen of requests, unless what was blamed on them stays.
        if !(idle && self.is_clean()) || self.beside_accounts {
            self.decay(evidence.now.saturating_sub(self.last.now), idle);
        }
        if self.beside_accounts {
            self.confirm(evidence.now, evidence.all_in_flight);
        }
    }

    /// What grew beside requests, and stays when they end, is no need of theirs.
    fn confirm(&mut self, now: Duration, in_flight: u32) {
        let shown_bytes = self.usage_bytes - self.spare_bytes;
        let each_bytes = self.average_bytes;
        if (self.ebb).contradicts(now, in_flight, shown_bytes, each_bytes) {
            self.average_bytes /= 2.0;
            self.rest_at_usage();
            self.kept_bytes = 0.0;
        }
    }

    fn rest_at_usage(&mut self) {
        self.baseline_bytes = self.usage_bytes;
        self.spare_at_baseline = self.spare_bytes;
    }

    /// A fresher figure of the usage alone, and of what of it may be the allocator's,
    /// freed lately: no request is to blame for that.
    pub(super) fn see_usage(&mut self, usage_bytes: u64, spare_bytes: f64) {
        self.usage_bytes = usage_bytes as f64;
        self.spare_bytes = spare_bytes;
    }

    /// What a request is expected to need at its peak.
    pub(super) fn request_bytes(&self) -> u64 {
        let learned = (self.average_bytes() + self.rise_bytes) * PEAK_OVER_AVERAGE;
        let trust = ((self.seen + self.before.1) / TRUSTED_AFTER).min(1.0);
        let blended = self.prior_bytes * (1.0 - trust) + learned * trust;
        (blended.max(learned) as u64).max(LEAST_BYTES.min(self.prior_bytes as u64))
    }

    /// The greatest average, and what is left of that of another process: it may have been
    /// of other work.
    fn average_bytes(&self) -> f64 {
        let left = (1.0 - self.seen / OUTWEIGHED_BY).max(0.0);
        self.average_bytes.max(self.before.0 * left)
    }

    /// What a request is known to need at least; 0 until requests have been seen here.
    pub(super) fn low_bytes(&self) -> u64 {
        if self.seen < TRUSTED_AFTER {
            return 0;
        }
        (self.average_bytes / 2.0) as u64
    }

    /// How much of `reserved_bytes` usage shows already: a lower bound.
    pub(super) fn realised_bytes(&self, reserved_bytes: u64) -> u64 {
        // Requests may live in what was kept, but nobody knows how many of them.
        let shown = (self.growth_bytes() - self.kept_bytes).max(0.0);
        (shown as u64).min(reserved_bytes)
    }

    /// What is in use beyond the baseline, whoever holds it.
    pub(crate) fn above_baseline_bytes(&self) -> u64 {
        (self.usage_bytes - self.baseline_bytes).max(0.0) as u64
    }

    /// The average and from how many requests it is known. From none: those that were
    /// in flight need at least so much.
    pub(super) fn save(&self) -> Option<(f64, f64)> {
        let (bytes, seen) = (self.average_bytes(), self.seen + self.before.1);
        (bytes >= 1.0).then_some((bytes, seen.min(MOST_REQUESTS)))
    }

    pub(super) fn load(&mut self, average_bytes: f64, seen: f64) {
        // As their average fades, so does what it is trusted, from the first.
        self.before = (average_bytes, seen.min(TRUSTED_AFTER));
    }

    fn growth_bytes(&self) -> f64 {
        let spare = (self.spare_bytes - self.spare_at_baseline).max(0.0);
        (self.usage_bytes - self.baseline_bytes - spare).max(0.0)
    }

    /// Usage shows what requests need: nothing is kept from earlier ones.
    fn is_clean(&self) -> bool {
        let kept = self.baseline_bytes - self.lowest_baseline_bytes + self.kept_bytes;
        kept <= (self.lowest_baseline_bytes * CLEAN).max(CLEAN_BYTES)
    }

    fn decay(&mut self, elapsed: Duration, idle: bool) {
        if elapsed.is_zero() {
            return;
        }
        let half_life = if self.is_clean() {
            HALF_LIFE
        } else {
            UNCLEAR_HALF_LIFE
        };
        let left = 0.5_f64.powf(elapsed.as_secs_f64() / half_life.as_secs_f64());
        self.average_bytes *= left;
        self.before = (self.before.0 * left, self.before.1 * left);
        if idle {
            // Nobody has shown that they need less.
            self.seen *= left;
        }
    }

    /// What is left of the growth when requests finish is not of the others.
    fn keep(&mut self, in_flight: f64, finished: f64) {
        if finished == 0.0 {
            return;
        }
        let theirs = self.average_bytes * in_flight;
        // But no more than those had that finished: if requests have come to need
        // more, the rest is theirs. What accounts show may have been freed, too.
        let most = if self.beside_accounts {
            f64::MAX
        } else {
            self.kept_bytes + self.average_bytes * finished * MOST_OVER_AVERAGE
        };
        let left = self.growth_bytes() - theirs;
        self.kept_bytes = self.kept_bytes.max(left.min(most));
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
