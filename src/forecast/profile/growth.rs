//! How requests of a kind grow: their courses, what one poll adds, the greatest of them.

use super::{Profile, Seen};
use crate::forecast::course::Course;
use crate::running::brake::Growth;
use crate::running::{Jump, KnownJumps};

/// The longest time between two polls that add something is forgotten by this with each
/// request whose polls add as much as any.
const GAP_LEFT: f64 = 0.95;
/// The greatest peak is forgotten by this with each request.
const GREATEST_LEFT: f64 = 0.995;
/// Until so many requests were seen one may need what was configured, and from then on
/// less and less of it.
const UNKNOWN_UNTIL: f64 = 25.0;
/// And one poll may add that until so many were.
const ONE_POLL_UNTIL: f64 = 12.0;
/// One in ten of another kind is among so many, nearly always.
const NEW_UNTIL: f64 = 64.0;
/// One may need so many times the greatest: until some were seen, and when many were
/// without a record; and by how much of the difference that falls with each.
pub(super) const MOST_BEYOND: f64 = 2.0;
pub(super) const LEAST_BEYOND: f64 = 1.1;
const BEYOND_LEFT: f64 = 0.95;

impl Profile {
    /// How a request went that has ended, and what its polls added. And how long it was at
    /// most between two polls of it that added something, if anybody saw them.
    pub(in crate::forecast) fn went(&mut self, course: Course, jump: Jump, gap_ms: Option<u32>) {
        self.courses.learn(course);
        self.jumps.ended(jump);
        let Some(gap_ms) = gap_ms else {
            return;
        };
        // Many small ones say nothing of how large ones grow.
        let largest = self.jumps.known().map_or(0.0, |known| known.largest);
        let like = (jump.largest / largest.max(1.0)).min(1.0);
        self.gap_ms = f64::from(gap_ms).max(self.gap_ms * GAP_LEFT.powf(like));
    }

    /// What one poll may add; `None`: it has not been seen.
    pub(in crate::forecast) fn jumps(&self) -> Option<KnownJumps> {
        self.jumps.known().map(|known| KnownJumps {
            // Of what another process has learned no poll is known.
            first: match self.own < ONE_POLL_UNTIL {
                true => known.largest.max(self.feared_bytes()),
                false => known.largest,
            },
            ..known
        })
    }

    /// Few have been seen by this process: others may be quite unlike them.
    pub(in crate::forecast) fn is_new(&self) -> bool {
        self.own < NEW_UNTIL
    }

    /// How long it is at most between two polls that add something; `None`: it has not
    /// been seen.
    pub(in crate::forecast) fn gap_ms(&self) -> Option<u32> {
        (self.gap_ms > 0.0).then_some(self.gap_ms as u32)
    }

    /// More than a request has needed lately, so that whoever is first in the order can
    /// end: the greatest peak and some.
    pub(in crate::forecast) fn worst_bytes(&self) -> f64 {
        (self.still_feared_bytes()).max(self.greatest_bytes * self.beyond)
    }

    /// The same, if it is known of requests and not only feared.
    pub(in crate::forecast) fn known_worst_bytes(&self) -> Option<f64> {
        let known = self.greatest_bytes * self.beyond;
        (known >= self.still_feared_bytes()).then_some(known)
    }

    /// What is left of what was configured.
    fn still_feared_bytes(&self) -> f64 {
        let fading = 1.0 - (self.seen - UNKNOWN_UNTIL) / UNKNOWN_UNTIL;
        self.feared_bytes() * fading.clamp(0.0, 1.0)
    }

    /// A request that runs looks as if it will need so much. That is no record: looks
    /// deceive.
    pub(in crate::forecast) fn foreseen(&mut self, bytes: f64) {
        self.greatest_bytes = self.greatest_bytes.max(bytes);
    }

    /// A peak was seen, or of `weight` 0 that of one that still runs. A record says that
    /// there may be another one.
    pub(super) fn note_greatest(&mut self, bytes: f64, weight: f64) {
        let record = bytes / self.greatest_bytes.max(1.0);
        if record > 1.0 && self.greatest_bytes > 0.0 {
            self.beyond = self.beyond.max((record * record).min(MOST_BEYOND));
        }
        let left = BEYOND_LEFT.powf(weight);
        self.beyond = LEAST_BEYOND + (self.beyond - LEAST_BEYOND) * left;
        self.greatest_bytes = bytes.max(self.greatest_bytes * GREATEST_LEFT.powf(weight));
    }

    /// What a request that runs, and is expected to need so much at its peak, is expected
    /// to have grown by at each step.
    pub(in crate::forecast) fn growth(&self, seen: &Seen, need_bytes: f64) -> Growth {
        let held_bytes = seen.held_bytes as f32;
        let rest_bytes = (need_bytes as f32 - held_bytes).max(0.0);
        self.courses.growth(seen.age, held_bytes, rest_bytes)
    }
}
