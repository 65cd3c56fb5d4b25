//! How requests of one kind grow, hold and end: the course of their memory over time.
//!
//! Peaks of different requests do not meet. So what counts is not the sum of peaks but
//! what all hold together at each time in the next seconds. The courses of the last
//! requests are kept as they were; one that runs is expected to go on as those did that
//! held about as much at its age (Nadaraya and Watson's estimate, 1964, with a Gaussian
//! kernel over the logarithm of what is held).

use crate::running::brake::{Growth, STEPS};
use std::collections::VecDeque;
use std::time::Duration;

/// The first of them, and how far each is from now beside the one before it.
const FIRST_STEP: f32 = 0.01;
const STEP_RATIO: f32 = 1.4;

/// Ages at which a course is known: four to each doubling.
const AGES: usize = 52;
const YOUNGEST: f32 = 0.004;
const AGES_PER_DOUBLING: f32 = 4.0;
/// So many courses are kept.
const MOST: usize = 64;
/// How far apart sizes may be that look alike: as logarithms.
const KERNEL: f32 = 0.2;
/// Sizes below this are alike.
const GRAIN_BYTES: f32 = (64u32 << 10) as f32;
/// The largest scale on which a request goes on as smaller ones did.
const MOST_RATIO: f32 = 8.0;
/// And what share of its peak a course must have come to, to tell a scale by.
const LEAST_SCALED: f32 = 0.05;
/// What is expected otherwise counts as so many courses.
const OTHERWISE: f32 = 0.5;

/// Where in the table of ages an age lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: usize,
    /// The way to the next.
    share: f32,
}

impl Place {
    fn of(age: f32) -> Self {
        let at = ((age / YOUNGEST).max(1.0).log2() * AGES_PER_DOUBLING).min((AGES - 1) as f32);
        Self {
            index: at as usize,
            share: at.fract(),
        }
    }
}

fn age_at(index: usize) -> f32 {
    YOUNGEST * (index as f32 / AGES_PER_DOUBLING).exp2()
}

/// The same for requests whose growth need not be computed twice: ages and sizes to a
/// thirty-second of a doubling.
pub(super) fn alike(age: Duration, bytes: u64) -> (u16, u16) {
    let grain = |number: f32| (number.max(1.0).log2() * 32.0) as u16;
    (grain(age.as_secs_f32() * 1e3), grain(bytes as f32 / 1024.0))
}

/// When each step is, in seconds from now.
pub(crate) fn steps() -> impl Iterator<Item = f32> {
    (0..STEPS).map(|step| FIRST_STEP * STEP_RATIO.powi(step as i32))
}

/// What one request held at each age.
#[derive(Clone, Debug)]
pub(super) struct Course {
    points: [f32; AGES],
    /// Points that are known.
    known: usize,
    /// How old it was when it was seen last, in seconds.
    pub(super) last_age: f32,
    last_bytes: f32,
    peak: f32,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            points: [0.0; AGES],
            known: 0,
            last_age: 0.0,
            last_bytes: 0.0,
            peak: 0.0,
        }
    }
}

impl Course {
    /// At this age it holds so much. Called in the order of time.
    pub(super) fn see(&mut self, age: Duration, bytes: f32) {
        let age = age.as_secs_f32();
        while self.known < AGES && age_at(self.known) <= age {
            let span = (age - self.last_age).max(1e-6);
            let share = ((age_at(self.known) - self.last_age) / span).clamp(0.0, 1.0);
            self.points[self.known] = self.last_bytes + (bytes - self.last_bytes) * share;
            self.known += 1;
        }
        self.last_age = age;
        self.last_bytes = bytes;
        self.peak = self.peak.max(bytes);
    }

    fn at(&self, place: Place) -> f32 {
        if place.index >= self.known {
            return 0.0;
        }
        let from = self.points[place.index];
        // Behind the last point that is known it has ended.
        match place.index + 1 < self.known {
            true => from + (self.points[place.index + 1] - from) * place.share,
            false => from,
        }
    }
}

/// The courses of the last requests of a kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Courses {
    recent: VecDeque<Course>,
}

impl Courses {
    pub(super) fn learn(&mut self, course: Course) {
        if course.known == 0 {
            return;
        }
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        self.recent.push_back(course);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// The past says less than it did: so much of it is left.
    pub(super) fn forget(&mut self, share_left: f64) {
        let left = (self.recent.len() as f64 * share_left) as usize;
        self.recent.drain(..self.recent.len() - left);
    }

    /// What a request of this age that holds so much is expected to grow by;
    /// `rest_bytes` where no course looks like it.
    ///
    /// One that is larger or smaller than all that are known of its age may be one of
    /// theirs on another scale: it is expected to go on as they did, in proportion. One
    /// that is larger, to need what others do at least.
    pub(super) fn growth(&self, age: Duration, held_bytes: f32, rest_bytes: f32) -> Growth {
        let age = age.as_secs_f32();
        let now = Place::of(age);
        let mut places = [now; STEPS];
        for (place, step) in places.iter_mut().zip(steps()) {
            *place = Place::of(age + step);
        }
        let (mut growth, mut weights) = ([0.0; STEPS], 0.0);
        let (mut scaled, mut scaled_weights, mut scaled_held) = ([0.0; STEPS], 0.0, 0.0);
        for course in self.recent.iter().filter(|course| now.index < course.known) {
            let then = course.at(now);
            let ratio = (held_bytes + GRAIN_BYTES) / (then + GRAIN_BYTES);
            let apart = ratio.ln() / KERNEL;
            let weight = match (-0.5 * apart * apart).exp() {
                weight if weight < 1e-3 => 0.0,
                weight => weight,
            };
            // The nearest count most, and none that is out of all proportion.
            // What has hardly begun says nothing of the scale.
            let scaled_weight = match then >= course.peak * LEAST_SCALED {
                true => ratio.max(1.0 / ratio).powi(-2),
                false => 0.0,
            };
            if weight + scaled_weight == 0.0 {
                continue;
            }
            weights += weight;
            scaled_weights += scaled_weight;
            scaled_held += scaled_weight * then;
            // One that holds less may as well be late.
            let part = weight * ratio.clamp(1.0, 1.25);
            let scaled_part = scaled_weight * ratio.min(MOST_RATIO);
            // Most of what a look costs: each point is computed once, and behind its end
            // a course holds nothing.
            let mut step = 0;
            while step < STEPS && places[step].index < course.known {
                let bytes = course.at(places[step]);
                growth[step] += part * bytes;
                scaled[step] += scaled_part * bytes;
                step += 1;
            }
        }
        let is_larger = held_bytes * scaled_weights > scaled_held;
        let least_bytes = if is_larger { rest_bytes } else { -held_bytes };
        let otherwise = match scaled_weights > 0.0 {
            true => scaled.map(|sum| (sum / scaled_weights - held_bytes).max(least_bytes)),
            false => [rest_bytes; STEPS],
        };
        let all = weights + OTHERWISE;
        for (sum, otherwise) in growth.iter_mut().zip(otherwise) {
            *sum = (*sum - held_bytes * weights + otherwise * OTHERWISE) / all;
        }
        growth
    }

    /// What a request that begins now is expected to hold at each step, as a share of its
    /// peak; `None`: no course is known.
    pub(super) fn mean_share(&self) -> Option<[f32; STEPS]> {
        let peaks: f32 = self.recent.iter().map(|course| course.peak).sum();
        if peaks <= 0.0 {
            return None;
        }
        let mut mean = [0.0; STEPS];
        for (sum, step) in mean.iter_mut().zip(steps()) {
            let place = Place::of(step);
            *sum = self.recent.iter().map(|course| course.at(place)).sum();
        }
        Some(mean.map(|sum| sum / peaks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f32 = 1048576.0;

    /// Grows for half of its time, and holds it for the other half.
    fn course(mib: f32, ms: u64) -> Course {
        let mut course = Course::default();
        for at in (0..ms).step_by(5) {
            let share = (at as f32 / ms as f32 * 2.0).min(1.0);
            course.see(Duration::from_millis(at), mib * MIB * share);
        }
        course
    }

    fn at(growth: &Growth, seconds: f32) -> f32 {
        let near = steps().enumerate().min_by(|a, b| {
            let off = |step: f32| (step - seconds).abs();
            off(a.1).total_cmp(&off(b.1))
        });
        growth[near.unwrap().0] / MIB
    }

    #[test]
    fn what_runs_goes_on_as_its_like_did() {
        let mut courses = Courses::default();
        for _ in 0..20 {
            courses.learn(course(48.0, 1000));
        }
        let growth = courses.growth(Duration::from_millis(250), 24.0 * MIB, 0.0);
        assert!((20.0..26.0).contains(&at(&growth, 0.3)), "{growth:?}");
        // It has ended by then, and given all back.
        assert!((-26.0..-22.0).contains(&at(&growth, 1.5)), "{growth:?}");
        let mean = courses.mean_share().unwrap().map(|share| share * MIB);
        assert!((0.2..1.0).contains(&at(&mean, 0.3)) && at(&mean, 2.0) == 0.0);
    }

    #[test]
    fn what_is_larger_or_smaller_than_all_before_goes_on_in_proportion() {
        for (of_all, of_it, grown) in [(20.0, 12.0, 40.0..56.0), (80.0, 2.0, 4.0..10.0)] {
            let mut courses = Courses::default();
            for _ in 0..20 {
                courses.learn(course(of_all, 1000));
            }
            let rest = (of_all - of_it) * MIB;
            let growth = courses.growth(Duration::from_millis(100), of_it * MIB, rest);
            assert!(grown.contains(&at(&growth, 0.5)), "{growth:?}");
        }
    }

    #[test]
    fn small_ones_are_told_from_large_ones_at_once() {
        let mut courses = Courses::default();
        for index in 0..60 {
            let large = index % 10 == 0;
            courses.learn(if large {
                course(120.0, 500)
            } else {
                course(2.0, 50)
            });
        }
        let large = courses.growth(Duration::from_millis(20), 9.6 * MIB, 0.0);
        assert!(at(&large, 0.25) > 80.0, "{large:?}");
        let small = courses.growth(Duration::from_millis(20), 1.6 * MIB, 0.0);
        assert!(small.iter().all(|&bytes| bytes < MIB), "{small:?}");
    }

    #[test]
    fn what_looks_like_nothing_known_is_expected_to_need_the_rest() {
        let growth = Courses::default().growth(Duration::from_millis(20), MIB, 7.0 * MIB);
        assert_eq!(growth, [7.0 * MIB; STEPS]);
    }
}
