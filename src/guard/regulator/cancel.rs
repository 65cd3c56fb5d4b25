//! Which requests are told to stop, as a last resort, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::braking::LAST_BYTES;
use super::{Control, Regulator};
use crate::policy::wall::{Seen, Wall};
use crate::policy::{free_to_kill_bytes, worst};
use crate::running::SlotRef;
use crate::running::victims::{Victim, choose};
use crate::telemetry::recent::EventKind;

/// Where nobody may be paused, usage at which a request is cancelled, as a share of the
/// hard limit: nothing holds back what comes next.
const CANCEL_AT: f64 = 0.97;
/// Between two cancellations that no forecast asks for, so that the first can take effect.
const CANCEL_PAUSE: Duration = Duration::from_millis(30);
/// In each second at most one in so many requests, but one, unless they come too late.
const CANCEL_ONE_IN: u32 = 4;
/// From being told to stop until what it held is seen to be free: at first, and as far as
/// that is learned.
const TAKES: Duration = Duration::from_millis(30);
const TAKES_AT_LEAST: Duration = Duration::from_millis(10);
const TAKES_AT_MOST: Duration = Duration::from_millis(250);
/// Of a shorter time than was expected, so much is learned.
const TAKES_LESS: u32 = 8;

/// Who was told to stop lately, and what is known of it.
#[derive(Debug)]
pub(super) struct Cancellations {
    pub(super) wall: Wall,
    takes: Duration,
    told: Vec<Told>,
    /// The last of them was not over for long: nobody knows whether others would be.
    in_vain: bool,
    /// Those of the present second.
    second: u64,
    count: u32,
    last: Option<Duration>,
}

/// Told to stop, until all are over who were.
#[derive(Debug)]
struct Told {
    request: SlotRef,
    bytes: u64,
    at: Duration,
    is_over: bool,
}

impl Default for Cancellations {
    fn default() -> Self {
        Self {
            wall: Wall::default(),
            takes: TAKES,
            told: Vec::new(),
            in_vain: false,
            second: 0,
            count: 0,
            last: None,
        }
    }
}

impl Cancellations {
    fn may(&mut self, in_flight: u32, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.count = 0;
        }
        let rested = self.last.is_none_or(|last| now >= last + CANCEL_PAUSE);
        rested && self.count < (in_flight / CANCEL_ONE_IN).max(1)
    }

    fn tell(&mut self, victims: &[Victim], now: Duration) {
        self.count += victims.len() as u32;
        self.last = Some(now);
        self.told.extend(victims.iter().map(|victim| Told {
            request: victim.request,
            bytes: victim.bytes,
            at: now,
            is_over: false,
        }));
    }

    /// Those not told yet: another thread that samples may be about to stop who was chosen.
    fn not_told(&self, mut victims: Vec<Victim>) -> Vec<Victim> {
        let is_told = |victim: &Victim| self.told.iter().any(|told| told.request == victim.request);
        victims.retain(|victim| !is_told(victim));
        victims
    }

    /// Sees who of those told is over, and learns how long that takes. Once all are, what
    /// comes is to be seen anew: their memory may be the allocator's still.
    fn learn(&mut self, now: Duration) {
        for told in self.told.iter_mut().filter(|told| !told.is_over) {
            told.is_over = told.request.is_over();
            let took = now.saturating_sub(told.at);
            if told.is_over {
                let less = self.takes.saturating_sub(took) / TAKES_LESS;
                let takes = took.max(self.takes - less);
                self.takes = takes.clamp(TAKES_AT_LEAST, TAKES_AT_MOST);
                self.in_vain = false;
            } else if took >= TAKES_AT_MOST {
                self.in_vain = true;
            }
        }
        let is_done = |told: &Told| told.is_over || now >= told.at + TAKES_AT_MOST;
        if !self.told.is_empty() && self.told.iter().all(is_done) {
            self.told.clear();
            self.wall.look_anew();
        }
    }

    /// What is missing before the wall, beside what those told give back in time.
    fn missing_bytes(&self, now: Duration) -> Option<u64> {
        let in_time = |told: &&Told| now < told.at + self.takes * 2;
        let coming = self.told.iter().filter(in_time);
        let coming = coming.map(|told| told.bytes).sum();
        let missing = self.wall.missing_bytes(self.takes)?;
        missing.checked_sub(coming).filter(|&bytes| bytes > 0)
    }
}

impl Regulator {
    /// Before a sample.
    pub(super) fn note_let_grow(&self, now: Duration) {
        let (bytes, under_way_bytes) = self.state.brake.let_grow_bytes(now);
        self.let_grow_before[0].store(bytes, Ordering::Relaxed);
        self.let_grow_before[1].store(under_way_bytes, Ordering::Relaxed);
    }

    /// After a full sample: how near memory's end is.
    pub(super) fn watch_wall(&self, control: &mut Control, now: Duration) {
        // While the brake is off nobody knows what a pause would stop.
        let can_tell = self.state.brake.is_on() || !self.state.brakes();
        let free_bytes = free_to_kill_bytes(&control.levels);
        let free_bytes = free_bytes.filter(|_| can_tell && !control.blind);
        let wall = &mut control.cancellations.wall;
        let Some(free_bytes) = free_bytes else {
            return wall.forget();
        };
        wall.see(
            now,
            Seen {
                free_bytes: free_bytes - LAST_BYTES as i64,
                let_grow_bytes: self.let_grow_before[0].load(Ordering::Relaxed),
                under_way_bytes: self.let_grow_before[1].load(Ordering::Relaxed),
            },
        );
    }

    pub(super) fn must_cancel(&'static self, control: &mut Control, now: Duration) -> Vec<Victim> {
        let cancellations = &mut control.cancellations;
        cancellations.learn(now);
        if !self.state.live.may_cancel() || control.blind {
            return Vec::new();
        }
        // Other guards on the ledger see the same shortfall.
        let (brake, own) = (self.state.brake, self.state.board_key());
        let others_bytes = brake.told_by_others(own, now);
        let missing_bytes = cancellations.missing_bytes(now);
        let missing_bytes = missing_bytes.and_then(|bytes| bytes.checked_sub(others_bytes));
        let missing_bytes = missing_bytes.filter(|&bytes| bytes > 0);
        let used = || worst(&control.levels, |level| level.limit_bytes);
        let is_full = || !self.state.brakes() && used() >= CANCEL_AT;
        let may_be_one = || Self::is_stuck(control, now) || is_full();
        if missing_bytes.is_none() && (others_bytes > 0 || !may_be_one()) {
            return Vec::new();
        }
        let from = self.state.running.victims(self.state.is_accounted(), now);
        let from = control.cancellations.not_told(from);
        let mut victims = choose(missing_bytes.unwrap_or(control.request_bytes), from);
        let in_flight = self.state.in_flight();
        let cancellations = &mut control.cancellations;
        let takes = cancellations.takes;
        let too_late = !cancellations.in_vain
            && missing_bytes.is_some()
            && (victims.len() > 1 || cancellations.wall.is_within(takes));
        if !too_late {
            let most = usize::from(cancellations.may(in_flight, now));
            victims.truncate(most);
        }
        if !victims.is_empty() {
            cancellations.tell(&victims, now);
            let bytes = victims.iter().map(|victim| victim.bytes).sum();
            brake.told(own, bytes, now + cancellations.takes * 2);
        }
        victims
    }

    pub(super) fn cancel(&self, victim: Victim) {
        // It may have ended meanwhile.
        if victim.request.cancel() {
            self.state.brake.force(victim.request);
            let cancelled = &self.state.counters.cancelled;
            cancelled.fetch_add(1, Ordering::Relaxed);
            let text = "a request was told to stop".into();
            self.state.note(EventKind::Cancelled, text, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::tag::Tag;
    use crate::running::Running;

    const MIB: u64 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn few_are_cancelled_at_a_time() {
        let mut cancellations = Cancellations::default();
        let mut count = |in_flight, from: u64| {
            let mut told = 0;
            for now in (from..from + 1000).map(ms) {
                if cancellations.may(in_flight, now) {
                    cancellations.count += 1;
                    cancellations.last = Some(now);
                    told += 1;
                }
            }
            told
        };
        assert_eq!(count(3, 0), 1);
        assert_eq!(count(20, 1000), 5);
        assert!(count(4000, 2000) <= 34);
    }

    fn told(running: &'static Running, bytes: u64) -> Victim {
        let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
        Victim {
            request: slot.request(),
            bytes,
            reserved_bytes: bytes,
            age_ms: 0,
            spared: false,
        }
    }

    #[test]
    fn nobody_is_told_twice() {
        let running: &'static Running = Box::leak(Box::default());
        let mut cancellations = Cancellations::default();
        let both = vec![told(running, MIB), told(running, MIB)];
        cancellations.tell(&both[..1], ms(0));
        let left = cancellations.not_told(both.clone());
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].request, both[1].request);
    }

    #[test]
    fn what_those_told_give_back_is_counted_on_for_a_while() {
        let running: &'static Running = Box::leak(Box::default());
        let mut cancellations = Cancellations::default();
        let missing_mib = |cancellations: &mut Cancellations, at, free: u64| {
            let seen = Seen {
                free_bytes: (free * MIB) as i64,
                let_grow_bytes: 0,
                under_way_bytes: 0,
            };
            cancellations.wall.see(ms(at), seen);
            cancellations.learn(ms(at));
            let bytes = cancellations.missing_bytes(ms(at))?;
            Some(bytes / MIB)
        };
        assert_eq!(missing_mib(&mut cancellations, 0, 100), None);
        // 60 MiB in 30 ms: 80 in the next 40.
        assert_eq!(missing_mib(&mut cancellations, 30, 40), Some(40));
        let victim = told(running, 30 * MIB);
        cancellations.tell(&[victim], ms(30));
        assert_eq!(missing_mib(&mut cancellations, 30, 40), Some(10));
        // It takes longer than was expected.
        assert_eq!(missing_mib(&mut cancellations, 60, 100), None);
        assert_eq!(missing_mib(&mut cancellations, 90, 40), Some(40));
        cancellations.wall.forget();
        running.end(victim.request.slot());
        missing_mib(&mut cancellations, 100, 40);
        assert_eq!(cancellations.takes, ms(70));
        assert!(cancellations.told.is_empty() && !cancellations.in_vain);
    }

    #[test]
    fn a_shorter_time_is_learned_bit_by_bit() {
        let running: &'static Running = Box::leak(Box::default());
        let mut cancellations = Cancellations::default();
        for _ in 0..50 {
            let victim = told(running, MIB);
            cancellations.tell(&[victim], ms(0));
            running.end(victim.request.slot());
            cancellations.learn(ms(2));
        }
        assert_eq!(cancellations.takes, TAKES_AT_LEAST);
        // Whoever never stops says nothing.
        cancellations.tell(&[told(running, MIB)], ms(0));
        cancellations.learn(ms(249));
        assert_eq!(cancellations.told.len(), 1);
        cancellations.learn(ms(250));
        assert!(cancellations.in_vain);
        assert_eq!(
            (cancellations.told.len(), cancellations.takes),
            (0, TAKES_AT_LEAST)
        );
    }
}
