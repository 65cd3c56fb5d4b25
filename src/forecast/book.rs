//! The requests in flight, one by one, and the forecast for all of them.

mod cases;
mod sums;

use std::collections::HashMap;
use std::time::Duration;

use super::calibration::Calibration;
use super::class::{ClassEstimate, SETTLED_AFTER, Seen};
use super::course::{Course, alike};
use super::kinds::{Kind, Kinds};
use super::need::Sum;
use super::trajectory::Marks;
use crate::running::brake::Running;
use crate::running::order::{Growth, Runner};
use crate::running::{Held, Look, Running as Requests};
pub(crate) use sums::Sums;

/// Work that has not allocated anything for so long does so elsewhere.
const INVISIBLE_AFTER: Duration = Duration::from_millis(50);
/// The need of one request that is rarely exceeded: one in a hundred normal ones does.
const MOST_DEVIATIONS: f64 = 2.33;
/// A request that ended before its time tells something of its kind after so long.
const TELLS_AFTER: f32 = 0.3;
/// A peak is foreseen up to so many times what is held.
const MOST_FORESEEN: f64 = 1.5;
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
    runners: Vec<Running>,
    /// Only what polls show is known of requests.
    polled_alone: bool,
    /// What was computed in this look for requests that look alike.
    alike: HashMap<(u8, (u16, u16)), Growth>,
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
            serial: 0,
            expected_bytes: 0.0,
            first_seen: now,
            grew_at: now,
            peak_bytes: 0,
            marks: Marks::default(),
            predicted_bytes: kind.class.learned().map(|need| need.bytes),
            noted: false,
            staged: false,
            course: Course::new(),
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
            runners: Vec::new(),
            polled_alone: false,
            alike: HashMap::new(),
        }
    }

    /// Of requests that nobody polls nothing is known.
    pub(super) fn of_polls(mut self) -> Self {
        self.polled_alone = true;
        self
    }

    /// Enough requests have been seen to go by them.
    pub(super) fn knows(&self) -> bool {
        let mut mix = self.kinds.mix();
        mix.any(|(_, kind, _)| kind.class.is_trusted())
    }

    /// What the next request needs, on average over the kinds that came lately.
    pub(super) fn next_bytes(&self) -> f64 {
        let next = |kind: &Kind| kind.class.next().bytes;
        self.mean(next)
    }

    /// The same, as far as it was seen.
    pub(super) fn seen_bytes(&self) -> f64 {
        let seen = |kind: &Kind| kind.class.learned().map_or(0.0, |need| need.bytes);
        self.mean(seen)
    }

    fn mean(&self, of: impl Fn(&Kind) -> f64) -> f64 {
        let mix = self.kinds.mix();
        mix.map(|(_, kind, share)| of(kind) * kind.scale() * share)
            .sum()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.made.in_flight
    }

    /// The requests in flight that can be paused, as the last look found them.
    pub(super) fn take_runners(&mut self) -> Vec<Running> {
        std::mem::take(&mut self.runners)
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
    pub(super) fn look(&mut self, running: &'static Requests, now: Duration) {
        self.kinds.learn_unseen(running);
        self.runners.clear();
        self.alike.clear();
        self.made = Made::default();
        let mut sums = Sums::default();
        running.look(|look| self.visit(&look, running, now, &mut sums));
        self.sums = sums;
        self.close_cases(now);
        self.open_case(now);
        self.kinds.looked();
    }

    fn visit(
        &mut self,
        look: &Look<'static>,
        running: &'static Requests,
        now: Duration,
        sums: &mut Sums,
    ) {
        let (shard, place) = look.key;
        let known = self.take_track(shard, place).filter(|_| !look.is_new);
        let Held {
            reserved_kib,
            held_bytes,
            peak_bytes,
        } = look.held;
        if look.ended {
            if let Some(track) = known {
                self.ended(track, look);
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
        // A pause is no time in which it could have grown.
        let now_unpaused = now.saturating_sub(look.slot.paused(now));
        let age = now_unpaused.saturating_sub(track.first_seen);
        let is_known = !self.polled_alone || look.slot.was_polled();
        if !(look.is_visible() && is_known) || look.is_declared() || track.staged {
            // Nothing is known but what was reserved for it.
            let rest = (reserved_bytes - held).max(0.0);
            if age < INVISIBLE_AFTER {
                sums.growth_bytes += rest;
                sums.other_growth_bytes += rest;
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
        let kind_scale = kind.scale();
        let class = &mut kind.class;
        if peak_bytes as f64 > track.peak_bytes as f64 * (1.0 + GROWTH) {
            track.peak_bytes = peak_bytes;
            track.grew_at = now_unpaused;
        }
        let seen = Seen {
            age,
            flat: now_unpaused.saturating_sub(track.grew_at),
            peak_bytes: (peak_bytes as f64 / scale) as u64,
            held_bytes: (held_bytes as f64 / scale) as u64,
        };
        ClassEstimate::mark(&mut track.marks, &seen);
        track.course.see(age, seen.held_bytes as f32);
        let mut need = class.predict(&seen);
        let alike = self.alike.entry((number, alike(age, seen.held_bytes)));
        let growth = *alike.or_insert_with(|| class.growth(&seen, need.bytes));
        // What it looks like it will hold.
        let most = growth.iter().copied().fold(0.0, f32::max);
        let looks = seen.held_bytes as f64 + f64::from(most);
        if looks > need.bytes {
            need.room = (need.bytes + need.room - looks).max(looks - need.bytes);
            need.bytes = looks;
        }
        if !track.noted {
            track.noted = class.surprise(seen.peak_bytes);
        }
        class.looks(track.serial, looks.max(peak_bytes as f64 / scale));
        if look.slot.has_shown() {
            class.foreseen(looks.min(peak_bytes as f64 / scale * MOST_FORESEEN));
        }
        if !track.noted && seen.flat >= SETTLED_AFTER {
            track.noted = true;
            class.settled(seen.peak_bytes);
        }
        let mut need = need.scaled(scale);
        if look.has_grown() {
            // It asked for so much, and was promised it.
            need.bytes = need.bytes.max(reserved_bytes);
        }
        track.expected_bytes = need.bytes;
        let most_bytes = (need.bytes + need.margin_bytes(MOST_DEVIATIONS)).max(held);
        sums.most_growth_bytes += most_bytes - held;
        sums.pausable_kib += reserved_kib;
        sums.pausable_held_bytes += held;
        look.slot.expect(most_bytes);
        let growth = growth.map(|bytes| bytes * scale as f32);
        for (sum, &bytes) in sums.growth.iter_mut().zip(&growth) {
            *sum += f64::from(bytes);
        }
        class.saw_jump(look.slot.jump().scaled(1.0 / scale));
        if let Some(jump_bytes) = class.jump_bytes() {
            let later_bytes = class.later_jump_bytes().map(|bytes| bytes * kind_scale);
            running.set_jump(usize::from(number), jump_bytes * kind_scale, later_bytes);
        }
        self.runners.push(Running {
            slot: look.slot,
            generation: look.slot.generation(),
            place: look.slot.place(),
            runner: Runner {
                held_bytes: held as f32,
                growth,
                need_bytes: (most_bytes - held) as f32,
                worst_bytes: ((class.worst_bytes() * scale).max(most_bytes) - held) as f32,
                jump_bytes: running.jump_bytes(look.slot) as f32,
                settled: seen.flat >= look.slot.settles_after(class.gap_ms()),
                moves: true,
                paused: look.slot.is_paused(),
                idle: false,
            },
        });
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

    /// What is known of the request in a slot; there is room for it from now on.
    fn take_track(&mut self, shard: usize, place: usize) -> Option<Track> {
        if self.tracks.len() <= shard {
            self.tracks.resize_with(shard + 1, Vec::new);
        }
        let tracks = &mut self.tracks[shard];
        if tracks.len() <= place {
            tracks.resize(place + 1, None);
        }
        tracks[place].take()
    }

    fn ended(&mut self, track: Track, look: &Look<'_>) {
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
        if cut_short {
            let age = track.course.age();
            if age >= TELLS_AFTER {
                let unscaled = peak_bytes as f64 / look.slot.scale();
                let kind = self.kinds.kind(usize::from(look.slot.kind()), false);
                kind.class.cut_off(unscaled);
            }
        } else {
            let predicted = track.predicted_bytes.filter(|_| !track.noted);
            let age_at_peak = track.grew_at.saturating_sub(track.first_seen);
            let unscaled_bytes = (peak_bytes as f64 / look.slot.scale()) as u64;
            let kind = self.kinds.kind(usize::from(look.slot.kind()), false);
            kind.class
                .ended(&track.marks, unscaled_bytes, age_at_peak, predicted);
            let jump = look.slot.jump().scaled(1.0 / look.slot.scale());
            let gap_ms = look.slot.growth_gap_ms();
            kind.class.looks(track.serial, unscaled_bytes as f64);
            kind.class.went(track.course, jump, gap_ms);
            self.kinds.peaked(peak_bytes as f64, 1.0);
            if let Some(expected) = track.predicted_bytes {
                self.kinds.expected(expected, unscaled_bytes as f64);
            }
        }
    }
}
