//! Who is told to stop, where somebody has to be.

use std::time::Duration;

use super::place::CRITICAL;
use super::slot::Fact;
use super::{Running, Slot, SlotRef};

/// Accounts are exact to so much.
const LEAST_BYTES: u64 = 64 << 10;
/// That one is stopped costs by itself as much as if it held this share of what is
/// missing: a few that free it rather than many.
const FEW: f64 = 0.25;
/// And as if it had run for so long.
const YOUNGEST_MS: f64 = 10.0;

/// A request that may be told to stop, what it gives, and what that costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    pub(crate) request: SlotRef,
    /// What is free once its future is dropped.
    pub(crate) bytes: u64,
    /// What was reserved for it. What it holds beyond that is no loss.
    pub(crate) reserved_bytes: u64,
    pub(crate) age_ms: u64,
    /// As long as others suffice: it ends soon by itself, as far as can be told, or it is in
    /// the midst of a poll and not dropped before that is over.
    pub(crate) spared: bool,
}

impl Victim {
    /// What of `missing_bytes` it gives, for each byte and time that is lost.
    fn worth(&self, missing_bytes: f64) -> f64 {
        let lost_bytes = self.bytes.min(self.reserved_bytes) as f64 + missing_bytes * FEW;
        let lost = lost_bytes * (self.age_ms as f64 + YOUNGEST_MS);
        (self.bytes as f64).min(missing_bytes) / lost
    }
}

/// Those that free what is missing, or else all: those whose end costs least for what it
/// gives, and who is spared only if the others do not suffice.
pub(crate) fn choose(missing_bytes: u64, mut from: Vec<Victim>) -> Vec<Victim> {
    let missing = missing_bytes.max(1) as f64;
    from.sort_by(|a, b| {
        let by_worth = || b.worth(missing).total_cmp(&a.worth(missing));
        a.spared.cmp(&b.spared).then_with(by_worth)
    });
    let mut freed_bytes = 0;
    from.retain(|victim| {
        let needed = freed_bytes < missing_bytes.max(1);
        freed_bytes += if needed { victim.bytes } else { 0 };
        needed
    });
    // The last of them may free what some before it were to, of those that cost most.
    for index in (0..from.len()).rev() {
        let without_bytes = freed_bytes - from[index].bytes;
        if without_bytes >= missing_bytes.max(1) {
            freed_bytes = without_bytes;
            from.remove(index);
        }
    }
    from
}

impl Running {
    /// Whose memory is free once they are told to stop: not those whose response has begun,
    /// nor critical work, nor whose memory is held by work that goes on without its future.
    /// `accounted`: what they hold is known; else as much as was reserved is taken for it.
    pub(crate) fn victims(&'static self, accounted: bool, now: Duration) -> Vec<Victim> {
        let now_ms = now.as_millis() as u64;
        let as_victim = |slot: &'static Slot| slot.as_victim(accounted, now_ms);
        self.in_flight().filter_map(as_victim).collect()
    }
}

impl Slot {
    fn as_victim(&'static self, accounted: bool, now_ms: u64) -> Option<Victim> {
        let request = self.request();
        let life = self.life.get();
        let place = self.place();
        // A checkpoint tells it to stop.
        let goes_on = self.works_elsewhere() && !life.is(Fact::Checked);
        if !life.may_be_told() || goes_on || place.rank == CRITICAL {
            return None;
        }
        let reserved_bytes = self.reserved_kib() << 10;
        let held_bytes = self.look().held_bytes;
        let bytes = match accounted {
            true => held_bytes,
            false => held_bytes.max(reserved_bytes),
        };
        (bytes >= LEAST_BYTES).then(|| Victim {
            request,
            bytes,
            reserved_bytes,
            age_ms: now_ms.saturating_sub(place.began_ms),
            spared: self.ends() || self.is_polled(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Priority;
    use crate::class::tag::Tag;
    use std::task::Waker;

    const MIB: u64 = 1 << 20;

    /// MiB that are held, for so many ms, and whether it is spared. Says which.
    fn chosen(missing: u64, requests: &[(u64, u64, bool)]) -> Vec<usize> {
        let running: &'static Running = Box::leak(Box::default());
        let from = requests.iter().map(|&(mib, age_ms, spared)| Victim {
            request: (running.take(1, Tag::NONE, Duration::ZERO).unwrap()).request(),
            bytes: mib * MIB,
            reserved_bytes: mib * MIB,
            age_ms,
            spared,
        });
        let from: Vec<Victim> = from.collect();
        let place = |victim: &Victim| {
            let same = |one: &Victim| one.request == victim.request;
            from.iter().position(same).unwrap()
        };
        let chosen = choose(missing * MIB, from.clone());
        chosen.iter().map(place).collect()
    }

    #[test]
    fn of_those_that_suffice_the_one_that_loses_least() {
        let alike = [(20, 900, false), (20, 100, false), (20, 500, false)];
        assert_eq!(chosen(10, &alike), [1]);
        assert_eq!(chosen(30, &alike), [1, 2]);
        assert_eq!(chosen(0, &alike), [1]);
        // Smaller and as old.
        assert_eq!(chosen(10, &[(90, 100, false), (12, 100, false)]), [1]);
        // Large and old, but many small ones would have to be stopped for it.
        let mut small = vec![(100, 300, false)];
        small.extend([(1, 200, false); 50]);
        assert_eq!(chosen(50, &small), [0]);
    }

    #[test]
    fn who_is_spared_goes_on_if_another_will_do() {
        let one_spared = [(20, 10, true), (20, 900, false)];
        assert_eq!(chosen(10, &one_spared), [1]);
        assert_eq!(chosen(30, &one_spared), [1, 0]);
        assert_eq!(chosen(10, &one_spared[..1]), [0]);
    }

    #[test]
    fn nobody_is_stopped_whom_another_one_makes_up_for() {
        assert_eq!(chosen(40, &[(12, 10, false), (80, 400, false)]), [1]);
        assert_eq!(chosen(500, &[(12, 10, false), (80, 400, false)]), [0, 1]);
        assert_eq!(chosen(10, &[]), [0; 0]);
    }

    #[test]
    fn only_those_are_stopped_whose_memory_that_frees() {
        let running: &'static Running = Box::leak(Box::default());
        let begin = |tag| {
            let slot = running.take(1024, tag, Duration::ZERO).unwrap();
            slot.register(Waker::noop());
            slot.charge(MIB as i64, 1);
            slot
        };
        let victims = |accounted| running.victims(accounted, Duration::ZERO).len();
        let one = begin(Tag::NONE);
        assert_eq!(victims(true), 1);
        let critical = Tag {
            priority: Priority::Critical,
            ..Tag::NONE
        };
        begin(critical);
        begin(Tag::NONE).say(Fact::Answered);
        running.take(1024, Tag::NONE, Duration::ZERO);
        assert_eq!(victims(true), 1);
        let elsewhere = one.begin_elsewhere();
        assert_eq!(victims(true), 0);
        one.say(Fact::Checked);
        assert_eq!(victims(true), 1);
        drop(elsewhere);
        let spared = || running.victims(true, Duration::ZERO)[0].spared;
        one.begin_poll();
        assert!(spared());
        one.end_poll();
        assert!(!spared());
        one.charge(-(MIB as i64), 0);
        assert_eq!((victims(true), victims(false)), (0, 1));
        assert!(one.request().cancel());
        assert_eq!(victims(false), 0);
    }

    #[test]
    fn who_has_run_for_more_than_seven_weeks_is_no_younger_for_that() {
        let running: &'static Running = Box::leak(Box::default());
        let slot = running.take(1024, Tag::NONE, Duration::from_secs(1));
        slot.unwrap().register(Waker::noop());
        let now = Duration::from_millis(1 << 32);
        assert_eq!(running.victims(false, now)[0].age_ms, (1 << 32) - 1000);
    }
}
