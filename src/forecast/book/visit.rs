//! One request in flight, as a look finds it: what is learned from it, and what it adds to
//! the forecast.

use std::time::Duration;

use super::{Book, Sums, Track};
use crate::class::tag::ClassKey;
use crate::forecast::course::alike;
use crate::forecast::kinds::Kind;
use crate::forecast::need::Moments;
use crate::forecast::profile::{SETTLED_AFTER, Seen};
use crate::forecast::trajectory::Trajectories;
use crate::running::brake::{Growth, Runner, Running};
use crate::running::{Fact, IDLE_AFTER, Jump, Look, Running as Requests};

/// Work that has not allocated anything for so long does so elsewhere.
const INVISIBLE_AFTER: Duration = Duration::from_millis(50);
/// Work that holds less than this after that may do so elsewhere: nothing, to speak of.
const QUIET_BYTES: u64 = 64 << 10;
/// The need of one request that is rarely exceeded: one in a hundred normal ones does.
const MOST_DEVIATIONS: f64 = 2.33;
/// A peak is foreseen up to so many times what is held.
const MOST_FORESEEN: f64 = 1.5;
/// Growth below this share of the peak is none.
const GROWTH: f64 = 0.01;
/// A poll has added more than any before it if it is so many times as much.
const OUTGROWN: f64 = 1.125;

/// What is expected of a request.
struct Expected {
    need: Moments,
    growth: Growth,
    settled: bool,
    /// It has been for long.
    lasts: bool,
    worst_bytes: f64,
}

impl Book {
    pub(super) fn visit(
        &mut self,
        look: &Look<'static>,
        running: &'static Requests,
        now: Duration,
        sums: &mut Sums,
    ) {
        let (shard, place) = look.key;
        let known = self
            .take_track(shard, place)
            .filter(|_| !look.life.is_new());
        if look.life.has_ended() {
            if let Some(track) = known {
                self.ended(track, look);
            }
            return;
        }
        let key = look.slot.class_key();
        let kind = self.kinds.kind_of(key, look.slot.is_critical());
        // A pause is no time in which it could have grown.
        let now_unpaused = now.saturating_sub(look.slot.paused(now));
        let mut track = known.unwrap_or_else(|| Track::begin(kind, now_unpaused));
        sums.reserved_kib += look.held.reserved_kib;
        sums.held_bytes += look.held.held_bytes as f64;
        if std::mem::replace(&mut track.staged, look.life.is(Fact::Staged)) && !track.staged {
            // Its age counts from where its work begins.
            track.first_seen = now_unpaused;
            track.grew_at = now_unpaused;
        }
        let age = now_unpaused.saturating_sub(track.first_seen);
        let in_poll = look.slot.is_polled();
        let is_quiet = !in_poll && age >= INVISIBLE_AFTER && look.held.peak_bytes < QUIET_BYTES;
        sums.in_polls += u32::from(in_poll);
        sums.quiet += u32::from(is_quiet);
        sums.quiet_kib += if is_quiet { look.held.reserved_kib } else { 0 };
        // What the polls of others add is known in part at most.
        let sees_all = |since| look.slot.was_polled() && look.slot.began_since(since);
        let is_known = self.polls_seen_since.is_none_or(sees_all);
        if !(look.is_visible() && is_known) || look.life.is(Fact::Declared) || track.staged {
            look.slot.unplan();
            sums.unknown_get_on |= !track.staged && track.gets_on(look, now_unpaused);
            sums.add_promised(look, age);
        } else {
            self.forecast_for(&mut track, look, running, now_unpaused, sums);
        }
        self.tracks[shard][place] = Some(track);
    }

    /// Of a request of which it is seen what it holds.
    fn forecast_for(
        &mut self,
        track: &mut Track,
        look: &Look<'static>,
        running: &'static Requests,
        now: Duration,
        sums: &mut Sums,
    ) {
        let key = look.slot.class_key();
        let scale = look.slot.scale();
        let is_new = track.serial.is_none();
        let seen = track.see(look, now);
        let serial = *track.serial.get_or_insert_with(|| {
            self.serial += 1;
            self.serial
        });
        let kind = self.kinds.kind(key);
        if is_new {
            kind.saw(1.0, scale);
        }
        kind.is_unheld |= look.is_unheld();
        sums.new |= kind.profile.is_new() && seen.flat < SETTLED_AFTER;
        let as_others = kind.profile.predict(&seen);
        let alike = self.alike.entry((key, alike(seen.age, seen.held_bytes)));
        let growth = *alike.or_insert_with(|| kind.profile.growth(&seen, as_others.bytes));
        let expected = expect(kind, serial, track, look, &seen, as_others, growth);
        let outgrown_bytes = match self.polls_seen_since {
            Some(_) => 0.0,
            None => outgrown_bytes(kind, look, &seen),
        };
        teach_jump(kind, look, running);
        let made = match is_new {
            true => kind.next.scaled(scale),
            false => expected.need,
        };
        self.made.in_flight += 1;
        self.made.needs.add(made);
        sums.add_expected(look, &expected);
        let mut one = runner(look, running, &expected);
        one.runner.outgrown_bytes = outgrown_bytes as f32;
        sums.outgrown_bytes = sums.outgrown_bytes.max(outgrown_bytes);
        self.runners.push(one);
    }

    /// Polls have added more than any of their kinds was known to.
    pub(super) fn teach_records(&mut self, running: &Requests) {
        for (key, largest) in running.records() {
            let kind = self.kinds.kind(key);
            kind.profile.jumps.saw(Jump {
                largest,
                ..Jump::default()
            });
            tell_jump(kind, key, running);
        }
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
}

impl Track {
    fn peaks(&mut self, bytes: u64, now: Duration) {
        if bytes as f64 > self.peak_bytes as f64 * (1.0 + GROWTH) {
            self.peak_bytes = bytes;
            self.grew_at = now;
        }
    }

    /// Whether one of whose growth nothing is known gets on: somebody polls it, and it has begun
    /// or come to hold more not long ago. That it is polled says nothing, nor what its polls add
    /// does: so is a stream that lasts for hours, and whoever sends it frees its frames.
    fn gets_on(&mut self, look: &Look<'_>, now: Duration) -> bool {
        self.peaks(look.held.peak_bytes, now);
        let is_late = now >= self.grew_at + IDLE_AFTER;
        look.slot.was_polled() && !look.slot.is_paused() && !is_late
    }

    /// What is seen of it now; pauses do not count.
    fn see(&mut self, look: &Look<'_>, now: Duration) -> Seen {
        let scale = look.slot.scale();
        let peak_bytes = look.held.peak_bytes;
        self.peaks(peak_bytes, now);
        let seen = Seen {
            age: now.saturating_sub(self.first_seen),
            flat: now.saturating_sub(self.grew_at),
            peak_bytes: (peak_bytes as f64 / scale) as u64,
            held_bytes: (look.held.held_bytes as f64 / scale) as u64,
        };
        Trajectories::mark(&mut self.marks, seen.age, seen.peak_bytes);
        self.course.see(seen.age, seen.held_bytes as f32);
        seen
    }

    /// It counts with its peak already: it has not grown since it settled.
    pub(super) fn has_counted(&self, peak_bytes: u64) -> bool {
        let counted_bytes = self.counted_bytes.map(|bytes| bytes as f64);
        counted_bytes.is_some_and(|bytes| peak_bytes as f64 <= bytes * (1.0 + GROWTH))
    }
}

/// What the request will need and how it will grow, after its kind has learned from it.
fn expect(
    kind: &mut Kind,
    serial: u64,
    track: &mut Track,
    look: &Look<'_>,
    seen: &Seen,
    mut need: Moments,
    growth: Growth,
) -> Expected {
    let scale = look.slot.scale();
    let profile = &mut kind.profile;
    // What it looks like it will hold.
    let most = growth.iter().copied().fold(0.0, f32::max);
    let looks = seen.held_bytes as f64 + f64::from(most);
    if looks > need.bytes {
        need.room = (need.bytes + need.room - looks).max(looks - need.bytes);
        need.bytes = looks;
    }
    let grew_on = track.counted_bytes.is_some() && !track.has_counted(seen.peak_bytes);
    if (!track.noted || grew_on) && profile.surprise(seen.peak_bytes) {
        track.noted = true;
        // It counts anew when it ends.
        track.counted_bytes = None;
    }
    let peak_bytes = look.held.peak_bytes as f64 / scale;
    let untold = look.life.is(Fact::Untold) && profile.is_too_little(peak_bytes);
    let mut shown = looks;
    if untold {
        // That it stands still says nothing of what it holds.
        let flat = Duration::ZERO;
        shown = looks.max(profile.predict(&Seen { flat, ..*seen }).bytes);
    }
    profile.cohort.see(serial, shown.max(peak_bytes));
    if look.slot.has_shown() {
        profile.foreseen(looks.min(peak_bytes * MOST_FORESEEN));
    }
    if !(track.noted || untold) && seen.flat >= SETTLED_AFTER {
        track.noted = true;
        track.counted_bytes = Some(seen.peak_bytes);
        profile.add(seen.peak_bytes as f64);
    }
    let mut need = need.scaled(scale);
    if look.life.is(Fact::Grown) {
        // It asked for so much, and was promised it.
        need.bytes = need.bytes.max((look.held.reserved_kib * 1024) as f64);
    }
    track.expected_bytes = need.bytes;
    Expected {
        need,
        growth: growth.map(|bytes| bytes * scale as f32),
        settled: seen.flat >= look.slot.settles_after(profile.gap_ms()),
        lasts: seen.flat >= SETTLED_AFTER,
        worst_bytes: profile.worst_bytes() * scale,
    }
}

/// What its polls have added, its kind learns; and what one may add, the others.
fn teach_jump(kind: &mut Kind, look: &Look<'_>, running: &Requests) {
    let jump = look.slot.jump().scaled(1.0 / look.slot.scale());
    kind.profile.jumps.saw(jump);
    tell_jump(kind, look.slot.class_key(), running);
}

fn tell_jump(kind: &Kind, key: ClassKey, running: &Requests) {
    if let Some(known) = kind.profile.jumps() {
        let worst_bytes = kind.profile.known_worst_bytes();
        running.set_jump(key, known, kind.scale, worst_bytes);
    }
}

/// What the poll under way has added so far, if that is more than any was known to. While it
/// grows: once it stands still its kind knows that polls add so much.
fn outgrown_bytes(kind: &mut Kind, look: &Look<'_>, seen: &Seen) -> f64 {
    let (slot, scale) = (look.slot, look.slot.scale());
    let added_bytes = slot.added_in_poll() as f64;
    if added_bytes == 0.0 {
        return 0.0;
    }
    let reserved_bytes = (look.held.reserved_kib * 1024) as f64;
    let of_kind = kind.profile.jumps();
    let of_kind = of_kind.map_or(reserved_bytes, |known| {
        known.first.max(known.largest) * scale
    });
    if added_bytes <= of_kind.max(slot.jump().largest * OUTGROWN) {
        return 0.0;
    }
    if seen.flat < INVISIBLE_AFTER {
        return added_bytes;
    }
    kind.profile.jumps.saw(Jump {
        largest: added_bytes / scale,
        ..Jump::default()
    });
    0.0
}

/// The request as the brake sees it.
fn runner(look: &Look<'static>, running: &Requests, expected: &Expected) -> Running {
    let held = look.held.held_bytes as f64;
    let most_bytes = expected.most_bytes(held);
    look.slot.expect(most_bytes);
    Running {
        request: look.slot.request(),
        place: look.slot.place(),
        runner: Runner {
            held_bytes: held as f32,
            growth: expected.growth,
            need_bytes: (most_bytes - held) as f32,
            worst_bytes: (expected.worst_bytes.max(most_bytes) - held) as f32,
            jump_bytes: running.jump_bytes(look.slot) as f32,
            settled: expected.settled,
            idle: expected.lasts,
            ..Runner::default()
        },
    }
}

impl Expected {
    fn most_bytes(&self, held_bytes: f64) -> f64 {
        (self.need.bytes + self.need.margin_bytes(MOST_DEVIATIONS)).max(held_bytes)
    }
}

impl Sums {
    /// Of it nothing is known but what was reserved for it.
    fn add_promised(&mut self, look: &Look<'_>, age: Duration) {
        let held = look.held.held_bytes as f64;
        let rest = ((look.held.reserved_kib * 1024) as f64 - held).max(0.0);
        if age < INVISIBLE_AFTER {
            self.growth_bytes += rest;
            self.other_growth_bytes += rest;
            self.need_bytes += rest + held;
        } else {
            self.need_bytes += held;
            self.invisible_bytes += rest;
        }
    }

    fn add_expected(&mut self, look: &Look<'_>, expected: &Expected) {
        let held = look.held.held_bytes as f64;
        self.most_growth_bytes += expected.most_bytes(held) - held;
        self.pausable_kib += look.held.reserved_kib;
        self.pausable_held_bytes += held;
        for (sum, &bytes) in self.growth.iter_mut().zip(&expected.growth) {
            *sum += f64::from(bytes);
        }
        let to_come = (expected.need.bytes - held).max(0.0);
        self.growth_bytes += to_come;
        self.untold_bytes += if look.life.is(Fact::Untold) {
            to_come
        } else {
            0.0
        };
        self.need_bytes += expected.need.bytes.max(held);
        self.needs.add(expected.need);
    }
}
