//! What requests of one kind need.

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;

mod before;
mod growth;
mod jumps;

use std::time::Duration;

use super::LEAST_BYTES;
use super::cohort::Cohort;
use super::course::Courses;
use super::histogram::Histogram;
use super::need::Moments;
use super::record::MOST_REQUESTS;
use super::trajectory::{Marks, Trajectories};
use before::Before;
use growth::MOST_BEYOND;
use jumps::Jumps;

/// Requests seen before the configured estimate is only a doubt.
const TRUSTED_AFTER: f64 = 8.0;
const TRUSTED_SOON: f64 = 2.0;
/// A request above the 99th percentile by more than this is a surprise.
const SURPRISE: f64 = 1.1;
/// And after each of them so much of what is remembered counts.
const LEFT_AFTER_SURPRISE: f64 = 0.7;
/// Errors of prediction are averaged over about so many requests.
const ERRORS: f64 = 16.0;
/// What all requests went on to need counts as so many of those that looked like
/// this one.
const ALL_COUNT_AS: f64 = 0.5;
/// The age of requests at their peak is averaged over about so many.
const AGES_AVERAGED: f64 = 16.0;
/// Nine in ten need more than this, and hardly any so much less.
const TOO_LITTLE: f64 = 0.5;
/// Memory that has not grown for so long is taken to be all that is needed;
/// after it, the rest of the estimate is halved in each such time.
const FLAT_FOR: Duration = Duration::from_secs(1);
/// Flat for so long, a request that still runs counts as if it had ended.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The peaks of a kind of requests, learned from those that ended and those
/// that run.
///
/// A new one needs the mean of the histogram, corrected by what predictions
/// lately missed if that is significant. Until it has been seen not to happen,
/// with a probability of 1/(2n + 2) after n requests, and more after the first
/// few, it needs the configured estimate instead (the mean for an event that has
/// not occurred in n trials, starting from Jeffreys's prior).
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    prior_bytes: f64,
    histogram: Histogram,
    trajectories: Trajectories,
    /// Requests ever seen.
    seen: f64,
    /// Seconds, on average, and of how many requests.
    age_at_peak: f64,
    ages: f64,
    /// What requests need beside what their accounts show: as much less do their accounts have to
    /// show.
    pub(super) hidden_bytes: f64,
    error: Errors,
    pub(super) courses: Courses,
    pub(super) cohort: Cohort,
    /// The longest time between two polls that added something, lately.
    gap_ms: f64,
    pub(super) jumps: Jumps,
    /// The greatest peak lately.
    greatest_bytes: f64,
    beyond: f64,
    /// Requests that this process has seen, and the greatest peak of them.
    own: f64,
    own_greatest_bytes: f64,
    before: Before,
}

/// What predictions miss, on average.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    mean: f64,
    variance: f64,
    /// What is added to predictions.
    correction: f64,
}

/// How a request that runs looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) age: Duration,
    pub(super) peak_bytes: u64,
    pub(super) held_bytes: u64,
    /// Since its memory grew last.
    pub(super) flat: Duration,
}

impl Profile {
    pub(super) fn new(prior_bytes: u64) -> Self {
        Self {
            prior_bytes: prior_bytes as f64,
            beyond: MOST_BEYOND,
            ..Self::default()
        }
    }

    /// A request ended. `predicted_bytes`: what [`learned`](Self::learned) said
    /// when it began. `has_counted`: with this peak, when it stood [still](Self::add).
    pub(super) fn ended(
        &mut self,
        marks: &Marks,
        peak_bytes: u64,
        age_at_peak: Duration,
        predicted_bytes: Option<f64>,
        has_counted: bool,
    ) {
        self.trajectories.learn(marks, peak_bytes);
        self.ages = (self.ages + 1.0).min(AGES_AVERAGED);
        self.age_at_peak += (age_at_peak.as_secs_f64() - self.age_at_peak) / self.ages;
        if let Some(predicted) = predicted_bytes {
            self.error
                .learn(peak_bytes as f64 - predicted, self.histogram.above(0));
        }
        match has_counted {
            true => self.note_greatest(peak_bytes as f64, 0.0),
            false => self.add(peak_bytes as f64),
        }
    }

    /// Requests ended before anybody looked: so many of each size, from the smallest on.
    pub(super) fn ended_between_looks(&mut self, peaks: &[(f64, f64)]) {
        self.cohort.add_unnumbered(peaks);
        self.add_all(peaks);
    }

    /// A request that runs has reached more than nearly all before it: learn
    /// from it at once, and trust the past less. Says whether it has.
    pub(super) fn surprise(&mut self, peak_bytes: u64) -> bool {
        self.own_greatest_bytes = self.own_greatest_bytes.max(peak_bytes as f64);
        self.is_surprised(peak_bytes)
    }

    fn is_surprised(&mut self, peak_bytes: u64) -> bool {
        let known = self.seen >= TRUSTED_AFTER;
        let percentile = self.histogram.quantile(0.99).unwrap_or(0.0);
        let corrected = percentile + self.error.correction.max(0.0);
        if !known || peak_bytes as f64 <= corrected * SURPRISE + LEAST_BYTES as f64 {
            return false;
        }
        self.histogram.forget(LEFT_AFTER_SURPRISE);
        self.trajectories.forget(LEFT_AFTER_SURPRISE);
        self.courses.forget(LEFT_AFTER_SURPRISE);
        self.histogram.add(peak_bytes);
        self.note_greatest(peak_bytes as f64, 0.0);
        true
    }

    /// A request that runs ended before its time: had it gone on, it might have come to
    /// twice as much. Says less than one that came to its end, but more than nothing:
    /// where callers give up, few do.
    pub(super) fn cut_off(&mut self, peak_bytes: f64) {
        // But that was not seen of any.
        self.note_greatest(peak_bytes, 1.0);
        self.remember(&[(peak_bytes * 2.0, 1.0)]);
    }

    /// A request of which this is all that was seen, and not all was, needs more than that:
    /// hardly any needs so little.
    pub(super) fn is_too_little(&self, seen_bytes: f64) -> bool {
        let low_bytes = self.histogram.quantile(0.1).unwrap_or(0.0);
        self.seen >= TRUSTED_AFTER && seen_bytes < low_bytes * TOO_LITTLE
    }

    /// Of a request that this process has seen: one that has ended, or has long been flat and needs
    /// no more than this.
    pub(super) fn add(&mut self, bytes: f64) {
        self.add_all(&[(bytes, 1.0)]);
    }

    /// The same of so many of each size, from the smallest on.
    fn add_all(&mut self, peaks: &[(f64, f64)]) {
        let count: f64 = peaks.iter().map(|(_, count)| count).sum();
        let greatest_bytes = peaks.last().map_or(0.0, |&(bytes, _)| bytes);
        self.own = (self.own + count).min(MOST_REQUESTS);
        self.own_greatest_bytes = self.own_greatest_bytes.max(greatest_bytes);
        self.note_greatest(greatest_bytes, count);
        self.remember(peaks);
        self.outweigh();
    }

    fn remember(&mut self, peaks: &[(f64, f64)]) {
        let count: f64 = peaks.iter().map(|(_, count)| count).sum();
        self.histogram.add_all(peaks);
        self.seen = (self.seen + count).min(MOST_REQUESTS);
    }

    /// The mean peak as learned, without the configured estimate.
    pub(super) fn learned(&self) -> Option<Moments> {
        let mut need = self.histogram.above(0)?;
        need.bytes = match self.cohort.mean_peak() {
            // The last requests are the best guide to the next.
            Some(bytes) => bytes,
            None => need.bytes + self.error.correction,
        };
        need.bytes = need.bytes.max(LEAST_BYTES as f64);
        Some(need)
    }

    /// What is expected while nothing is known is another.
    pub(super) fn set_prior(&mut self, bytes: u64) {
        self.prior_bytes = bytes as f64;
    }

    fn prior_bytes(&self) -> f64 {
        (self.feared_bytes() - self.hidden_bytes).max(0.0)
    }

    /// More is known of it than was configured.
    pub(super) fn is_trusted(&self) -> bool {
        self.seen >= TRUSTED_SOON
    }

    /// How likely the next request is one as large as the configured estimate,
    /// although none was yet.
    fn doubt(&self) -> f64 {
        // Where it is seen how they grow, an error costs little.
        let trusted_after = match self.courses.is_empty() {
            true => TRUSTED_AFTER,
            false => TRUSTED_SOON,
        };
        (1.0 - self.seen / trusted_after).max(0.5 / (self.seen + 1.0))
    }

    /// The same of a request that runs. One that is to become so large grows, and
    /// would have got further by now: to its share of the time that requests take
    /// to their peaks. The further it is behind, the less likely.
    fn doubt_of(&self, seen: &Seen) -> f64 {
        if self.ages == 0.0 {
            return self.doubt();
        }
        let full_age = self.age_at_peak.max(0.001);
        let expected = self.prior_bytes() * (seen.age.as_secs_f64() / full_age).min(1.0);
        let likely = (seen.peak_bytes as f64 / expected.max(1.0)).min(1.0);
        self.doubt() * likely * likely
    }

    /// What the next request will need.
    pub(super) fn next(&self) -> Moments {
        self.next_fearing(self.prior_bytes)
    }

    /// The same of one of which so much is expected while nothing is known.
    pub(super) fn next_fearing(&self, prior_bytes: f64) -> Moments {
        let feared_bytes = prior_bytes.max(self.before.feared_bytes(self.own));
        let feared_bytes = (feared_bytes - self.hidden_bytes).max(0.0);
        let Some(learned) = self.learned() else {
            return Moments {
                bytes: feared_bytes,
                ..Moments::default()
            };
        };
        let margin = LEAST_BYTES.min(prior_bytes as u64) as f64;
        Moments {
            // Accounts are exact to so much.
            bytes: learned.bytes + margin,
            ..learned
        }
        .or_else(feared_bytes, self.doubt())
    }

    /// What a request that runs will need at its peak.
    pub(super) fn predict(&self, seen: &Seen) -> Moments {
        let held = seen.held_bytes as f64;
        let peak = seen.peak_bytes as f64;
        let looked_like = self.trajectories.predict(seen.age, seen.peak_bytes);
        let mut above = self.histogram.above(seen.peak_bytes);
        if let Some(above) = &mut above {
            above.bytes = (above.bytes + self.error.correction).max(peak);
        }
        let learned = match (looked_like, above) {
            (Some((like, count)), Some(above)) => {
                Moments {
                    // That it might be another after all is a doubt, and no observation.
                    third: like.third,
                    ..above.mixed_with(like, count / (count + ALL_COUNT_AS))
                }
            }
            (Some((like, _)), None) => like,
            (None, Some(above)) => above,
            // Larger than all before: it may well go on.
            (None, None) => Moments {
                bytes: peak * 1.25,
                variance: (peak * 0.25) * (peak * 0.25),
                third: 0.0,
                room: peak,
            },
        };
        let mut need = learned.or_else(self.prior_bytes(), self.doubt_of(seen));
        if let Some(flat) = seen.flat.checked_sub(FLAT_FOR) {
            let left = 0.5_f64.powf(flat.as_secs_f64() / FLAT_FOR.as_secs_f64());
            need.bytes = held + (need.bytes - held).max(0.0) * left;
            need.variance *= left * left;
            need.third *= left * left * left;
            need.room *= left;
        }
        need
    }

    /// What nearly all requests need at least; 0 until enough were seen. Nobody is turned
    /// away for what only another process has seen.
    pub(super) fn low_bytes(&self) -> u64 {
        if self.seen < TRUSTED_AFTER {
            return 0;
        }
        let low_bytes = self.histogram.quantile(0.1).unwrap_or(0.0);
        low_bytes.min(self.own_greatest_bytes) as u64
    }

    pub(super) fn save(&self) -> super::record::ClassRecord {
        super::record::ClassRecord {
            seen: self.seen,
            peaks: self.histogram.points(),
        }
    }
}

impl Errors {
    fn learn(&mut self, error: f64, known: Option<Moments>) {
        let step = 1.0 / ERRORS;
        let distance = error - self.mean;
        self.mean += distance * step;
        self.variance += (distance * (error - self.mean) - self.variance) * step;
        // Two standard errors of a mean over so many: not by chance.
        if self.mean.abs() > 2.0 * (self.variance / ERRORS).sqrt() {
            self.correction += self.mean * step * 2.0;
        } else {
            self.correction -= self.correction * step / 4.0;
        }
        let mean = known.map_or(0.0, |need| need.bytes);
        self.correction = self.correction.clamp(-mean / 4.0, mean);
    }
}
