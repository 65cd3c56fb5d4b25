//! The requests in flight, one by one, and the forecast for all of them.

mod cases;
mod sums;
mod visit;

use std::collections::HashMap;
use std::time::Duration;

use super::calibration::Calibration;
use super::course::Course;
use super::kinds::{Kind, Kinds};
use super::need::Sum;
use super::trajectory::Marks;
use crate::class::tag::ClassKey;
use crate::running::brake::{Growth, Running};
use crate::running::{Fact, Look, Running as Requests};
pub(super) use sums::Sums;

/// A request that ended before its time tells something of its kind after so long.
const TELLS_AFTER: f32 = 0.3;

/// What is known of each request in flight, and of those before them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// What is known of each kind of requests.
    pub(super) kinds: Kinds,
    pub(super) calibration: Calibration,
    /// By shard and place of the slot.
    tracks: Vec<Vec<Option<Track>>>,
    /// Requests seen in flight so far.
    serial: u64,
    cases: Vec<Case>,
    case_opened: Option<Duration>,
    /// Of those that the last look found, and of as many of them as have not ended since.
    found: Sums,
    pub(super) sums: Sums,
    /// The forecast as it was made: new requests as they were admitted, before
    /// anything was seen of them.
    pub(super) made: Made,
    runners: Vec<Running>,
    /// Only what polls show is known of requests, and of those alone that began since then.
    polls_seen_since: Option<Duration>,
    /// What was computed in this look for requests that look alike.
    alike: HashMap<(ClassKey, (u16, u16)), Growth>,
}

/// A forecast, to be checked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Made {
    pub(super) in_flight: usize,
    needs: Sum,
}

/// A request in flight.
#[derive(Clone, Debug, Default)]
struct Track {
    /// Counted from when its memory was first seen. `None`: it was not yet.
    serial: Option<u64>,
    /// What it was last expected to need.
    expected_bytes: f64,
    first_seen: Duration,
    grew_at: Duration,
    peak_bytes: u64,
    marks: Marks,
    /// What was learned so far when it began.
    predicted_bytes: Option<f64>,
    /// It has been learned from already.
    noted: bool,
    /// And counts with this peak since it settled.
    counted_bytes: Option<u64>,
    /// Its work had not begun when it was last seen.
    staged: bool,
    course: Course,
}

/// A forecast that waits to be checked.
#[derive(Clone, Copy, Debug)]
struct Case {
    opened: Duration,
    /// It is about the requests up to this one.
    serial: u64,
    made: Made,
    /// The peaks of those that have ended.
    peaks: f64,
}

impl Track {
    fn begin(kind: &Kind, now: Duration) -> Self {
        Self {
            first_seen: now,
            grew_at: now,
            predicted_bytes: kind.profile.learned().map(|need| need.bytes),
            ..Self::default()
        }
    }
}

impl Book {
    pub(super) fn new(prior_bytes: u64, target: f64) -> Self {
        Self {
            kinds: Kinds::new(prior_bytes),
            calibration: Calibration::new(target),
            ..Self::default()
        }
    }

    /// Of requests that nobody polls nothing is known.
    pub(super) fn of_polls(mut self) -> Self {
        self.see_polls_since(Duration::ZERO);
        self
    }

    /// All polls are seen of requests that began since then.
    pub(super) fn see_polls_since(&mut self, since: Duration) {
        self.polls_seen_since = Some(since);
    }

    /// Enough requests have been seen to go by them.
    pub(super) fn knows(&self) -> bool {
        let mut mix = self.kinds.mix();
        mix.any(|(_, kind, _)| kind.profile.is_trusted())
    }

    /// What the next request needs, on average over the kinds that came lately.
    pub(super) fn next_bytes(&self) -> f64 {
        let next = |kind: &Kind| kind.profile.next().bytes;
        self.mean(next)
    }

    /// The same, as far as it was seen.
    pub(super) fn seen_bytes(&self) -> f64 {
        let seen = |kind: &Kind| kind.profile.learned().map_or(0.0, |need| need.bytes);
        self.mean(seen)
    }

    /// More than one has needed lately, on average over the kinds.
    pub(super) fn worst_bytes(&self) -> f64 {
        self.mean(|kind| kind.profile.worst_bytes())
    }

    fn mean(&self, of: impl Fn(&Kind) -> f64) -> f64 {
        let mix = self.kinds.mix();
        mix.map(|(_, kind, share)| of(kind) * kind.scale * share)
            .sum()
    }

    /// The requests in flight that can be paused, as the last look found them.
    pub(super) fn take_runners(&mut self) -> Vec<Running> {
        std::mem::take(&mut self.runners)
    }

    /// For those that have ended since the last look so much was reserved. Which they are is not
    /// known, nor what each of them held: as much as the others. Says which share is left.
    pub(super) fn see_gone(&mut self, kib: u64) -> f64 {
        let found_kib = self.found.reserved_kib.max(1) as f64;
        let share = 1.0 - (kib as f64 / found_kib).min(1.0);
        self.sums = self.found.of_share(share);
        share
    }

    /// Looks at all requests in flight, learns from those that ended, and adds up.
    pub(super) fn look(&mut self, running: &'static Requests, now: Duration) {
        self.kinds.learn_ended_between_looks(running);
        self.teach_records(running);
        self.runners.clear();
        self.alike.clear();
        self.made = Made::default();
        let mut sums = Sums::default();
        running.look(|look| self.visit(&look, running, now, &mut sums));
        (self.found, self.sums) = (sums, sums);
        self.close_cases(now);
        self.open_case(now);
        self.kinds.looked();
    }

    fn ended(&mut self, track: Track, look: &Look<'_>) {
        let peak_bytes = look.held.peak_bytes;
        let teaches = !look.life.says_nothing();
        let Some(serial) = track.serial.filter(|_| teaches) else {
            return;
        };
        let cut_short = look.life.was_cut_short();
        let unscaled_bytes = peak_bytes as f64 / look.slot.scale();
        let kind = self.kinds.kind(look.slot.class_key());
        kind.is_unheld |= look.is_unheld();
        let untold = look.life.is(Fact::Untold) && kind.profile.is_too_little(unscaled_bytes);
        // What it would have come to, or did, is not known: as it was expected.
        let final_bytes = match cut_short || untold {
            true => (peak_bytes as f64).max(track.expected_bytes),
            false => peak_bytes as f64,
        };
        for case in &mut self.cases {
            if serial <= case.serial {
                case.made.in_flight = case.made.in_flight.saturating_sub(1);
                case.peaks += final_bytes;
            }
        }
        if cut_short {
            if track.course.last_age >= TELLS_AFTER {
                kind.profile.cut_off(unscaled_bytes);
            }
        } else if !untold {
            let predicted = track.predicted_bytes.filter(|_| !track.noted);
            let age_at_peak = track.grew_at.saturating_sub(track.first_seen);
            let unscaled = unscaled_bytes as u64;
            let has_counted = track.has_counted(unscaled);
            (kind.profile).ended(&track.marks, unscaled, age_at_peak, predicted, has_counted);
            let jump = look.slot.jump().scaled(1.0 / look.slot.scale());
            let gap_ms = look.slot.seen_gap_ms();
            kind.profile.cohort.see(serial, unscaled_bytes);
            kind.profile.went(track.course, jump, gap_ms);
            self.kinds.peaked(peak_bytes as f64, 1.0);
            if let Some(expected) = track.predicted_bytes {
                self.kinds.expected(expected, unscaled_bytes);
            }
        }
    }
}
