//! The requests in flight, one by one, and the forecast for all of them.

use std::time::Duration;

use super::Need;
use super::bins::{self, BINS};
use super::calibration::Calibration;
use super::class::{ClassEstimate, SETTLED_AFTER, Seen};
use super::trajectory::Marks;
use crate::running::{Held, Look, Running};

/// A forecast is set aside, to be checked, this often.
const CASE_EVERY: Duration = Duration::from_millis(100);
const MOST_CASES: usize = 16;
/// And checked after so long at most: some requests never end.
const CASE_LASTS: Duration = Duration::from_secs(30);
/// Growth below this share of the peak is none.
const GROWTH: f64 = 0.01;

/// What is known of each request in flight, and of those before them.
#[derive(Debug)]
pub(crate) struct Book {
    pub(super) class: ClassEstimate,
    pub(super) calibration: Calibration,
    /// By shard and place of the slot.
    tracks: Vec<Vec<Option<Track>>>,
    /// Requests seen in flight so far.
    serial: u64,
    cases: Vec<Case>,
    case_opened: Option<Duration>,
    /// Requests that ended unseen, as counted at the last look.
    unseen: Box<[u32; BINS]>,
    sums: Sums,
    /// What the next request was said to need after the look before.
    next: Need,
    /// The forecast as it was made: new requests as they were admitted, before
    /// anything was seen of them.
    made: Made,
}

/// A forecast, to be checked.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    in_flight: usize,
    need: Need,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Track {
    serial: u64,
    first_seen: Duration,
    grew_at: Duration,
    peak_bytes: u64,
    marks: Marks,
    /// What was learned so far when it began.
    predicted_bytes: Option<f64>,
    /// It has been learned from already.
    noted: bool,
}

/// What the requests in flight have and will need, together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// What they hold.
    pub(crate) held_bytes: f64,
    /// What they will add to that: Σ max(0, rᵢ − mᵢ).
    pub(crate) growth_bytes: f64,
    /// What they need at their peaks: Σ max(rᵢ, mᵢ).
    pub(crate) need_bytes: f64,
    /// The variance of either, and its third moment.
    pub(crate) variance: f64,
    pub(crate) third: f64,
    /// What is reserved for them.
    pub(crate) reserved_kib: u64,
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
    /// Somebody ended before its time: nothing can be said.
    void: bool,
}

impl Sums {
    pub(super) fn need(&self) -> Need {
        Need {
            bytes: self.need_bytes,
            variance: self.variance,
            third: self.third,
        }
    }
}

impl Book {
    pub(super) fn new(prior_bytes: u64, target: f64) -> Self {
        Self {
            class: ClassEstimate::new(prior_bytes),
            calibration: Calibration::new(target),
            tracks: Vec::new(),
            serial: 0,
            cases: Vec::new(),
            case_opened: None,
            unseen: Box::new([0; BINS]),
            sums: Sums::default(),
            next: Need::default(),
            made: Made::default(),
        }
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Looks at all requests in flight, learns from those that ended, and adds up.
    pub(super) fn look(&mut self, running: &Running, now: Duration) {
        self.learn_unseen(running);
        self.made = Made::default();
        let mut sums = Sums::default();
        running.look(|look| self.visit(&look, now, &mut sums));
        self.sums = sums;
        self.close_cases(now);
        self.open_case(now);
        self.next = self.class.next();
    }

    fn learn_unseen(&mut self, running: &Running) {
        let mut totals = Box::new([0; BINS]);
        running.finished(&mut totals);
        for (bin, (total, before)) in totals.iter().zip(self.unseen.iter()).enumerate() {
            let more = total.wrapping_sub(*before);
            if more > 0 {
                let middle_bytes = bins::middle_bytes(bin);
                self.class.ended_unseen(middle_bytes, f64::from(more));
            }
        }
        self.unseen = totals;
    }

    fn visit(&mut self, look: &Look<'_>, now: Duration, sums: &mut Sums) {
        let (shard, place) = look.key;
        if self.tracks.len() <= shard {
            self.tracks.resize_with(shard + 1, Vec::new);
        }
        if self.tracks[shard].len() <= place {
            self.tracks[shard].resize(place + 1, None);
        }
        let known = self.tracks[shard][place].take();
        let known = known.filter(|_| !look.is_new);
        let Held {
            reserved_kib,
            held_bytes,
            peak_bytes,
        } = look.held;
        if look.ended {
            if let Some(track) = known {
                self.ended(&track, look);
            }
            return;
        }
        let mut track = known.unwrap_or_else(|| self.begin(now));
        let reserved_bytes = (reserved_kib * 1024) as f64;
        let held = held_bytes as f64;
        sums.reserved_kib += reserved_kib;
        sums.held_bytes += held;
        let invisible = peak_bytes == 0;
        if invisible || look.is_declared() {
            // Nothing is known but what was reserved for it.
            let need = reserved_bytes.max(peak_bytes as f64);
            sums.growth_bytes += (need - held).max(0.0);
            sums.need_bytes += need.max(held);
            self.tracks[shard][place] = Some(track);
            return;
        }
        if peak_bytes as f64 > track.peak_bytes as f64 * (1.0 + GROWTH) {
            track.peak_bytes = peak_bytes;
            track.grew_at = now;
        }
        let seen = Seen {
            age: now.saturating_sub(track.first_seen),
            flat: now.saturating_sub(track.grew_at),
            peak_bytes,
            held_bytes,
        };
        ClassEstimate::mark(&mut track.marks, &seen);
        if !track.noted {
            track.noted = self.class.surprise(peak_bytes);
        }
        if !track.noted && seen.flat >= SETTLED_AFTER {
            track.noted = true;
            self.class.settled(peak_bytes);
        }
        let need = self.class.predict(&seen);
        sums.growth_bytes += (need.bytes - held).max(0.0);
        sums.need_bytes += need.bytes.max(held);
        sums.variance += need.variance;
        sums.third += need.third;
        let made = if look.is_new { self.next } else { need };
        self.made.in_flight += 1;
        self.made.need = self.made.need.and(made);
        self.tracks[shard][place] = Some(track);
    }

    fn begin(&mut self, now: Duration) -> Track {
        self.serial += 1;
        Track {
            serial: self.serial,
            first_seen: now,
            grew_at: now,
            peak_bytes: 0,
            marks: Marks::default(),
            predicted_bytes: self.class.learned().map(|need| need.bytes),
            noted: false,
        }
    }

    fn ended(&mut self, track: &Track, look: &Look<'_>) {
        let peak_bytes = look.held.peak_bytes;
        let unclear = look.was_cut_short() || peak_bytes == 0 || look.is_declared();
        for case in &mut self.cases {
            if track.serial <= case.serial {
                case.made.in_flight = case.made.in_flight.saturating_sub(1);
                case.peaks += peak_bytes as f64;
                case.void |= unclear;
            }
        }
        if !unclear {
            let predicted = track.predicted_bytes.filter(|_| !track.noted);
            let age_at_peak = track.grew_at.saturating_sub(track.first_seen);
            self.class
                .ended(&track.marks, peak_bytes, age_at_peak, predicted);
        }
    }

    /// Sets the present forecast aside.
    fn open_case(&mut self, now: Duration) {
        let due = self.case_opened.is_none_or(|at| now >= at + CASE_EVERY);
        let made = self.made;
        if made.need.variance <= 0.0 || !due || self.cases.len() >= MOST_CASES {
            return;
        }
        self.case_opened = Some(now);
        self.cases.push(Case {
            opened: now,
            serial: self.serial,
            made,
            peaks: 0.0,
            void: false,
        });
    }

    /// Checks forecasts whose requests have all ended, or will not.
    fn close_cases(&mut self, now: Duration) {
        let mut cases = std::mem::take(&mut self.cases);
        cases.retain(|case| {
            let over = case.made.in_flight == 0;
            if !over && now < case.opened + CASE_LASTS {
                return true;
            }
            let running = self.tracks.iter().flatten().flatten();
            let members = running.filter(|track| track.serial <= case.serial);
            let peaks = case.peaks + members.map(|track| track.peak_bytes as f64).sum::<f64>();
            if !case.void {
                let need = case.made.need;
                let margin_bytes = need.margin_bytes(self.calibration.deviations());
                self.calibration.learn(peaks > need.bytes + margin_bytes);
            }
            false
        });
        self.cases = cases;
    }
}
