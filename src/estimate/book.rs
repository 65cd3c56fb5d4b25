//! The requests in flight, one by one, and the forecast for all of them.

use std::time::Duration;

use super::calibration::Calibration;
use super::class::{ClassEstimate, SETTLED_AFTER, Seen};
use super::kinds::{Kind, Kinds};
use super::need::Sum;
use super::trajectory::Marks;
use crate::running::{Held, Look, Running};

/// A forecast is set aside, to be checked, this often.
const CASE_EVERY: Duration = Duration::from_millis(100);
const MOST_CASES: usize = 16;
/// And checked after so long at most: some requests never end.
const CASE_LASTS: Duration = Duration::from_secs(30);
/// Work that has not allocated anything for so long does so elsewhere.
const INVISIBLE_AFTER: Duration = Duration::from_millis(50);
/// Growth below this share of the peak is none.
const GROWTH: f64 = 0.01;

/// What is known of each request in flight, and of those before them.
#[derive(Debug)]
pub(crate) struct Book {
    kinds: Kinds,
    pub(super) calibration: Calibration,
    /// By shard and place of the slot.
    tracks: Vec<Vec<Option<Track>>>,
    /// Requests seen in flight so far.
    serial: u64,
    cases: Vec<Case>,
    case_opened: Option<Duration>,
    sums: Sums,
    /// The forecast as it was made: new requests as they were admitted, before
    /// anything was seen of them.
    made: Made,
}

/// A forecast, to be checked.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    in_flight: usize,
    needs: Sum,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Track {
    /// Counted from when its memory was first seen; 0: it was not yet.
    serial: u64,
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
    /// Its work had not begun when it was last seen.
    staged: bool,
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
    /// Of those whose needs are predicted: how far either may be exceeded.
    pub(super) needs: Sum,
    /// What is reserved for them.
    pub(crate) reserved_kib: u64,
    /// And for those among them whose memory no account shows: usage does.
    pub(crate) invisible_bytes: f64,
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
            serial: 0,
            expected_bytes: 0.0,
            first_seen: now,
            grew_at: now,
            peak_bytes: 0,
            marks: Marks::default(),
            predicted_bytes: kind.class.learned().map(|need| need.bytes),
            noted: false,
            staged: false,
        }
    }
}

impl Book {
    pub(super) fn new(prior_bytes: u64, target: f64) -> Self {
        Self {
            kinds: Kinds::new(prior_bytes),
            calibration: Calibration::new(target),
            tracks: Vec::new(),
            serial: 0,
            cases: Vec::new(),
            case_opened: None,
            sums: Sums::default(),
            made: Made::default(),
        }
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// What is known of each kind of requests.
    pub(super) fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    pub(super) fn kinds_mut(&mut self) -> &mut Kinds {
        &mut self.kinds
    }

    pub(super) fn set_target(&mut self, fraction: f64) {
        self.calibration.set_target(fraction);
    }

    /// Looks at all requests in flight, learns from those that ended, and adds up.
    pub(super) fn look(&mut self, running: &Running, now: Duration) {
        self.kinds.learn_unseen(running);
        self.made = Made::default();
        let mut sums = Sums::default();
        running.look(|look| self.visit(&look, running, now, &mut sums));
        self.sums = sums;
        self.close_cases(now);
        self.open_case(now);
        self.kinds.looked();
    }

    fn visit(&mut self, look: &Look<'_>, running: &Running, now: Duration, sums: &mut Sums) {
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
        let number = look.slot.kind();
        let critical = running.is_critical(number);
        let kind = self.kinds.kind(usize::from(number), critical);
        let scale = look.slot.scale();
        let mut track = known.unwrap_or_else(|| Track::begin(kind, now));
        let reserved_bytes = (reserved_kib * 1024) as f64;
        let held = held_bytes as f64;
        sums.reserved_kib += reserved_kib;
        sums.held_bytes += held;
        if std::mem::replace(&mut track.staged, look.is_staged()) && !track.staged {
            // Its age counts from where its work begins.
            track.first_seen = now;
            track.grew_at = now;
        }
        let age = now.saturating_sub(track.first_seen);
        if !look.is_visible() || look.is_declared() || track.staged {
            // Nothing is known but what was reserved for it.
            let rest = (reserved_bytes - held).max(0.0);
            if age < INVISIBLE_AFTER {
                sums.growth_bytes += rest;
                sums.need_bytes += rest + held;
            } else {
                sums.need_bytes += held;
                sums.invisible_bytes += rest;
            }
            self.tracks[shard][place] = Some(track);
            return;
        }
        let is_new = track.serial == 0;
        if is_new {
            self.serial += 1;
            track.serial = self.serial;
            kind.saw(1.0, scale);
        }
        let class = &mut kind.class;
        if peak_bytes as f64 > track.peak_bytes as f64 * (1.0 + GROWTH) {
            track.peak_bytes = peak_bytes;
            track.grew_at = now;
        }
        let seen = Seen {
            age,
            flat: now.saturating_sub(track.grew_at),
            peak_bytes: (peak_bytes as f64 / scale) as u64,
            held_bytes: (held_bytes as f64 / scale) as u64,
        };
        ClassEstimate::mark(&mut track.marks, &seen);
        if !track.noted {
            track.noted = class.surprise(seen.peak_bytes);
        }
        if !track.noted && seen.flat >= SETTLED_AFTER {
            track.noted = true;
            class.settled(seen.peak_bytes);
        }
        let mut need = class.predict(&seen).scaled(scale);
        if look.has_grown() {
            // It asked for so much, and was promised it.
            need.bytes = need.bytes.max(reserved_bytes);
        }
        track.expected_bytes = need.bytes;
        sums.growth_bytes += (need.bytes - held).max(0.0);
        sums.need_bytes += need.bytes.max(held);
        sums.needs.add(need);
        let made = if is_new {
            kind.next.scaled(scale)
        } else {
            need
        };
        self.made.in_flight += 1;
        self.made.needs.add(made);
        self.tracks[shard][place] = Some(track);
    }

    fn ended(&mut self, track: &Track, look: &Look<'_>) {
        let peak_bytes = look.held.peak_bytes;
        if track.serial == 0 || look.is_declared() || look.is_staged() {
            return;
        }
        let cut_short = look.was_cut_short();
        // What it would have come to is not known: as it was expected.
        let final_bytes = match cut_short {
            true => (peak_bytes as f64).max(track.expected_bytes),
            false => peak_bytes as f64,
        };
        for case in &mut self.cases {
            if track.serial <= case.serial {
                case.made.in_flight = case.made.in_flight.saturating_sub(1);
                case.peaks += final_bytes;
            }
        }
        if !cut_short {
            let predicted = track.predicted_bytes.filter(|_| !track.noted);
            let age_at_peak = track.grew_at.saturating_sub(track.first_seen);
            let unscaled_bytes = (peak_bytes as f64 / look.slot.scale()) as u64;
            let kind = self.kinds.kind(usize::from(look.slot.kind()), false);
            kind.class
                .ended(&track.marks, unscaled_bytes, age_at_peak, predicted);
            self.kinds.peaked(peak_bytes as f64, 1.0);
            if let Some(expected) = track.predicted_bytes {
                self.kinds.expected(expected, unscaled_bytes as f64);
            }
        }
    }

    /// Sets the present forecast aside.
    fn open_case(&mut self, now: Duration) {
        let due = self.case_opened.is_none_or(|at| now >= at + CASE_EVERY);
        let made = self.made;
        if made.needs.variance() <= 0.0 || !due || self.cases.len() >= MOST_CASES {
            return;
        }
        self.case_opened = Some(now);
        self.cases.push(Case {
            opened: now,
            serial: self.serial,
            made,
            peaks: 0.0,
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
            let members = running.filter(|track| track.serial > 0 && track.serial <= case.serial);
            let peaks = case.peaks + members.map(|track| track.peak_bytes as f64).sum::<f64>();
            let needs = &case.made.needs;
            let margin_bytes = needs.margin_bytes(self.calibration.deviations());
            self.calibration.learn(peaks > needs.bytes() + margin_bytes);
            false
        });
        self.cases = cases;
    }
}
