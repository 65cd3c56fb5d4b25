//! What is known of each kind of requests.
//!
//! A kind is a class of requests with a cost hint, or without. Those with one are kept
//! as if their hint were the unit: what is learned is how much they need for each byte
//! of it.

use super::need::Moments;
use super::profile::Profile;
use crate::class::tag::{CRITICAL_KIB, ClassKey, HINT_UNIT_KIB};
use crate::running::Running;
use crate::running::bins::{self, BINS};

/// The mix of kinds is that of about so many requests.
const MIXED_OVER: f64 = 512.0;
/// Peaks are averaged over about so many requests.
const PEAKS: f64 = 256.0;

#[derive(Debug, Default)]
pub(super) struct Kinds {
    /// What a request is expected to need while nothing is known of its kind.
    pub(super) prior_bytes: u64,
    /// By key, as far as they have been seen; `None`: no such request has.
    kinds: Vec<Option<Box<Kind>>>,
    /// The mean peak of requests that ended, and from how many it is known.
    pub(super) peak_bytes: f64,
    peaks: f64,
    /// By how much peaks were mispredicted on average, as a share of them, and of how many.
    pub(super) error_ratio: f64,
    errors: f64,
}

#[derive(Debug)]
pub(super) struct Kind {
    pub(super) profile: Profile,
    /// What such a request is expected to need while nothing is known of them.
    prior_bytes: u64,
    /// And a critical one.
    critical_prior_bytes: u64,
    /// All were critical, as far as any has been seen; `None`: none has.
    all_are_critical: Option<bool>,
    /// Some of it nobody holds back: critical work, and closures without checkpoints.
    pub(super) is_unheld: bool,
    /// What the next request was said to need after the look before.
    pub(super) next: Moments,
    /// Of the requests seen lately, and how large they were beside the unit, on average.
    recent: f64,
    pub(super) scale: f64,
    /// Requests that ended between two looks, as counted at the last look.
    ended_between_looks: Box<[u32; BINS]>,
    /// And their hints together.
    their_hints_kib: u64,
}

impl Kind {
    /// A critical one has come, or another. While there are critical ones alone it is they that
    /// forecasts are about.
    fn comes(&mut self, is_critical: bool) {
        let before = self.all_are_critical.unwrap_or(true);
        self.all_are_critical = Some(before && is_critical);
        self.fear();
    }

    fn fear(&mut self) {
        self.profile.set_prior(match self.all_are_critical {
            Some(true) => self.critical_prior_bytes,
            _ => self.prior_bytes,
        });
    }

    /// The configured estimate is another.
    fn set_prior(&mut self, bytes: u64) {
        self.prior_bytes = bytes;
        self.critical_prior_bytes = bytes.min(CRITICAL_KIB * 1024);
        self.fear();
    }

    /// What the next is to need, if it is not critical, and if it is: what nobody has seen is
    /// feared of each by itself.
    pub(super) fn next_by_priority(&self) -> [Moments; 2] {
        let priors = [self.prior_bytes, self.critical_prior_bytes];
        priors.map(|prior_bytes| self.profile.next_fearing(prior_bytes as f64))
    }

    /// So many ended between two looks, and all that ever did had so much for their hints.
    fn scale_of_unseen(&mut self, count: f64, hints_kib: u64) -> f64 {
        let before_kib = std::mem::replace(&mut self.their_hints_kib, hints_kib);
        match hints_kib.wrapping_sub(before_kib) {
            // They have none.
            0 => self.scale,
            more_kib => more_kib as f64 / HINT_UNIT_KIB as f64 / count,
        }
    }

    /// So many requests have come.
    pub(super) fn saw(&mut self, count: f64, scale: f64) {
        self.recent += count;
        self.scale += (scale - self.scale) * (count / self.recent).min(1.0);
    }
}

impl Kinds {
    pub(super) fn new(prior_bytes: u64) -> Self {
        Self {
            prior_bytes,
            ..Self::default()
        }
    }

    /// The configured estimate is another, for those without a hint.
    pub(super) fn set_prior(&mut self, bytes: u64) {
        self.prior_bytes = bytes;
        self.without_hint().for_each(|kind| kind.set_prior(bytes));
    }

    pub(super) fn kind(&mut self, key: ClassKey) -> &mut Kind {
        let prior_bytes = self.prior_bytes;
        let unit_bytes = HINT_UNIT_KIB * 1024;
        let (prior_bytes, critical_prior_bytes) = match key.is_hinted() {
            true => (unit_bytes, unit_bytes),
            false => (prior_bytes, prior_bytes.min(CRITICAL_KIB * 1024)),
        };
        if key.index() >= self.kinds.len() {
            self.kinds.resize_with(key.index() + 1, || None);
        }
        self.kinds[key.index()].get_or_insert_with(|| {
            let profile = Profile::new(prior_bytes);
            Box::new(Kind {
                prior_bytes,
                critical_prior_bytes,
                all_are_critical: None,
                is_unheld: false,
                next: profile.next(),
                profile,
                recent: 0.0,
                scale: 1.0,
                ended_between_looks: Box::new([0; BINS]),
                their_hints_kib: 0,
            })
        })
    }

    /// The same of one that comes, or has come and gone.
    pub(super) fn kind_of(&mut self, key: ClassKey, is_critical: bool) -> &mut Kind {
        let kind = self.kind(key);
        kind.is_unheld |= is_critical;
        kind.comes(is_critical);
        kind
    }

    /// The kinds that have been seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClassKey, &Kind)> {
        let kinds = ClassKey::all().zip(&self.kinds);
        kinds.filter_map(|(key, kind)| Some((key, kind.as_deref()?)))
    }

    /// What is known of those without a hint.
    pub(super) fn without_hint(&mut self) -> impl Iterator<Item = &mut Kind> {
        let kinds = ClassKey::all().zip(&mut self.kinds);
        let kinds = kinds.filter(|(key, _)| !key.is_hinted());
        kinds.filter_map(|(_, kind)| Some(&mut **kind.as_mut()?))
    }

    /// The kinds of the requests seen lately, with the share of each.
    pub(super) fn mix(&self) -> impl Iterator<Item = (ClassKey, &Kind, f64)> {
        let all: f64 = self.iter().map(|(_, kind)| kind.recent).sum();
        let seen = self.iter().filter(|(_, kind)| kind.recent > 0.0);
        seen.map(move |(key, kind)| (key, kind, kind.recent / all))
    }

    pub(super) fn learn_ended_between_looks(&mut self, running: &Running) {
        let mut totals = Box::new([0; BINS]);
        for key in ClassKey::all() {
            if !running.finished(key, &mut totals) {
                continue;
            }
            let kind = self.kind_of(key, running.is_critical(key));
            let counts = totals.iter().zip(kind.ended_between_looks.iter());
            let peaks: Vec<_> = counts
                .enumerate()
                .map(|(bin, (total, before))| {
                    let more = total.wrapping_sub(*before);
                    (bins::middle_bytes(bin), f64::from(more))
                })
                .filter(|&(_, more)| more > 0.0)
                .collect();
            *kind.ended_between_looks = *totals;
            if !peaks.is_empty() {
                kind.profile.ended_between_looks(&peaks);
                let count: f64 = peaks.iter().map(|(_, more)| more).sum();
                let all_bytes: f64 = peaks.iter().map(|(bytes, more)| bytes * more).sum();
                let scale = kind.scale_of_unseen(count, running.finished_hints_kib(key));
                kind.saw(count, scale);
                self.peaked(all_bytes / count * scale, count);
            }
        }
    }

    /// So many requests ended with peaks of so many bytes, on average.
    pub(super) fn peaked(&mut self, bytes: f64, count: f64) {
        self.peaks = (self.peaks + count).min(PEAKS);
        self.peak_bytes += (bytes - self.peak_bytes) * (count / self.peaks).min(1.0);
    }

    /// A request was expected to need so much when it began, and went on to this peak.
    pub(super) fn expected(&mut self, bytes: f64, peak_bytes: f64) {
        self.errors = (self.errors + 1.0).min(PEAKS);
        let ratio = (bytes - peak_bytes).abs() / peak_bytes.max(1.0);
        self.error_ratio += (ratio - self.error_ratio) / self.errors;
    }

    /// All requests in flight have been looked at.
    pub(super) fn looked(&mut self) {
        let recent: f64 = self.iter().map(|(_, kind)| kind.recent).sum();
        let left = if recent > MIXED_OVER { 0.5 } else { 1.0 };
        for kind in self.kinds.iter_mut().flatten() {
            kind.recent *= left;
            kind.profile.cohort.compare();
            kind.next = kind.profile.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use crate::class::tag::{ClassKey, Tag};
    use crate::forecast::Forecast;
    use crate::running::{Running, Slot};

    const KIB: i64 = 1 << 10;
    const MIB: i64 = 1 << 20;

    fn forecast() -> Forecast {
        let mut forecast = Forecast::new(1 << 20, 0.001, true);
        // So much that it is about means, and not about the margin.
        forecast.set_slack(256 << 20, 1 << 30);
        forecast
    }

    fn holding(running: &'static Running, bytes: i64) -> &'static Slot {
        let slot = running.take(1024, Tag::NONE, Duration::ZERO).unwrap();
        slot.charge(bytes, 1);
        slot
    }

    fn end_unseen(running: &'static Running, bytes: i64, count: usize) {
        (0..count).for_each(|_| running.end(holding(running, bytes)));
    }

    #[test]
    fn those_of_long_ago_do_not_come_back_as_the_newest() {
        let mut forecast = forecast();
        let running: &'static Running = Box::leak(Box::default());
        let streams: Vec<_> = (0..64).map(|_| holding(running, 100 * KIB)).collect();
        forecast.look(running, Duration::ZERO);
        end_unseen(running, 8 * MIB, 100);
        forecast.look(running, Duration::from_millis(100));
        let next_bytes = forecast.mixed().0 as i64;
        assert!(next_bytes >= 6 * MIB, "{next_bytes}");
        // Nor when they end.
        streams.into_iter().for_each(|slot| running.end(slot));
        forecast.look(running, Duration::from_millis(200));
        let next_bytes = forecast.mixed().0 as i64;
        assert!(next_bytes >= 6 * MIB, "{next_bytes}");
    }

    #[test]
    fn of_those_that_no_look_finds_the_large_ones_are_not_the_newest() {
        for (small, large) in [(900, 100), (40, 10)] {
            let mut forecast = forecast();
            let running: &'static Running = Box::leak(Box::default());
            end_unseen(running, 64 * KIB, small);
            end_unseen(running, 10 * MIB, large);
            forecast.look(running, Duration::ZERO);
            let (bytes, low_bytes) = forecast.mixed();
            assert!((bytes as i64) < 3 * MIB, "{small} {large}: {bytes}");
            assert!(low_bytes as i64 <= 128 * KIB, "{low_bytes}");
        }
    }

    #[test]
    fn of_those_that_no_look_finds_the_small_ones_are_not_the_oldest() {
        let mut forecast = forecast();
        let running: &'static Running = Box::leak(Box::default());
        for bytes in [64 * KIB, MIB, 8 * MIB] {
            end_unseen(running, bytes, 1000);
        }
        forecast.look(running, Duration::ZERO);
        let (bytes, low_bytes) = forecast.mixed();
        assert!((2 * MIB..5 * MIB).contains(&(bytes as i64)), "{bytes}");
        assert!(low_bytes as i64 <= 128 * KIB, "{low_bytes}");
    }

    /// What was learned of four requests of 8 MiB that stood still for so long, added so much and
    /// ended, beside twelve of 1 MiB.
    fn learned_mib(still: Duration, last_bytes: i64) -> f64 {
        let mut forecast = forecast();
        let running: &'static Running = Box::leak(Box::default());
        let four = [(); 4].map(|()| holding(running, 8 * MIB));
        forecast.look(running, Duration::ZERO);
        forecast.look(running, still);
        end_unseen(running, MIB, 12);
        for slot in four {
            slot.charge(last_bytes, 1);
            running.end(slot);
        }
        forecast.look(running, still + Duration::from_millis(50));
        let book = forecast.book.as_ref().unwrap();
        book.seen_bytes() / MIB as f64
    }

    #[test]
    fn who_stood_still_and_ends_is_counted_once() {
        let [short, long] = [1, 10].map(|second| learned_mib(Duration::from_secs(second), 0));
        assert!((2.5..3.2).contains(&short), "{short}");
        assert!((long / short - 1.0).abs() < 0.05, "{long} {short}");
    }

    #[test]
    fn who_grew_after_it_stood_still_is_known_to_have() {
        let grew = learned_mib(Duration::from_secs(10), 40 * MIB);
        assert!(grew > 9.0, "{grew}");
    }

    #[test]
    fn who_grows_after_it_stood_still_is_known_to_before_it_ends() {
        let mut forecast = forecast();
        let running: &'static Running = Box::leak(Box::default());
        let four = [(); 4].map(|()| holding(running, 8 * MIB));
        let mut seen_mib = |second| {
            forecast.look(running, Duration::from_secs(second));
            forecast.book.as_ref().unwrap().seen_bytes() / MIB as f64
        };
        let _ = [0, 10].map(&mut seen_mib);
        end_unseen(running, MIB, 12);
        let stood = seen_mib(11);
        assert!((2.0..4.0).contains(&stood), "{stood}");
        four.iter().for_each(|slot| slot.charge(40 * MIB, 1));
        let grew = seen_mib(12);
        assert!(grew > stood * 2.0, "{grew} after {stood}");
    }

    #[test]
    fn requests_with_a_hint_that_no_look_finds_are_as_large_as_their_hints() {
        let mut forecast = Forecast::new(200 << 20, 0.001, true);
        let running: &'static Running = Box::leak(Box::default());
        let mut ends = |hint_kib: u32, count: usize| {
            let tag = Tag {
                key: ClassKey::new(1, true),
                hint_kib: NonZeroU32::new(hint_kib),
                ..Tag::NONE
            };
            for _ in 0..count {
                let slot = running.take(hint_kib.into(), tag, Duration::ZERO).unwrap();
                slot.charge(i64::from(hint_kib) << 10, 1);
                running.end(slot);
            }
            forecast.look(running, Duration::ZERO);
            forecast.mixed().0 >> 10
        };
        let small = ends(64, 64);
        assert!((60..80).contains(&small), "{small}");
        // As many of three times that: on average it is twice.
        let mixed = ends(192, 64);
        assert!((120..160).contains(&mixed), "{mixed}");
    }
}
