//! Every interleaving of who is paused with sweeps, ends and cancellations, under loom.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use loom::thread;

use super::brake::{Brake, Runner, Running as InFlight, STEPS, Taken};
use super::test_support::{Woken, bound};
use super::{JumpOfKind, Slot, SlotRef};
use crate::class::tag::Tag;
use crate::limiter::{Ask, Attempt, Bounds, Caps, Limiter, Operation};
use crate::sync::{AtomicU32, Ordering};

pub(super) const MIB: i64 = 1 << 20;
const GUARD: usize = 1;

/// With room for so much.
fn brake(room_mib: i64) -> &'static Brake {
    let brake: &Brake = Box::leak(Box::default());
    publish(brake, room_mib);
    brake
}

fn publish(brake: &Brake, room_mib: i64) {
    brake.publish(GUARD, bound(brake.grown_bytes(), room_mib * MIB));
}

/// What a sample does at its end.
fn sweep(brake: &Brake) {
    brake.sweep(1000 * MIB, None, false, Duration::ZERO);
}

fn slot() -> &'static Slot {
    let slot: &Slot = Box::leak(Box::new(Slot::new(0, 0)));
    begin(slot);
    slot
}

fn begin(slot: &Slot) {
    slot.begin(4096, Tag::NONE, 0);
}

/// A ledger with one request on it.
fn one_in_flight() -> (Arc<Limiter>, Arc<Bounds>) {
    let limiter = Arc::<Limiter>::default();
    let bounds = limiter.join(Arc::default());
    bounds.publish(Caps::new(false, 9, 9), 9, 9);
    let ask = Ask::exactly(4, Tag::NONE);
    limiter
        .try_reserve(&bounds, ask, Operation::Newcomer, Attempt::First)
        .unwrap();
    (limiter, bounds)
}

/// One that polls for a request, as `poller::Poller` does.
struct Poller {
    brake: &'static Brake,
    slot: &'static Slot,
    place: Option<usize>,
}

impl Poller {
    fn new(brake: &'static Brake, slot: &'static Slot) -> Self {
        let place = None;
        Self { brake, slot, place }
    }

    fn ask(&self) -> Option<Taken> {
        let jump_bytes = slot_jump(self.slot);
        let forced = self.place.is_some_and(|place| self.brake.is_forced(place));
        match forced || self.slot.is_cancelled() {
            true => Some(self.brake.take_anyway(jump_bytes)),
            false => self.brake.take(self.slot, GUARD, jump_bytes),
        }
    }

    fn poll(&mut self, woken: &Arc<Woken>) -> Poll<Taken> {
        if let Some(taken) = self.ask() {
            self.leave();
            return Poll::Ready(taken);
        }
        let waker = Waker::from(Arc::clone(woken));
        let place = (self.brake).park(self.place, self.slot, GUARD, &waker, Duration::ZERO);
        self.place = Some(place);
        Poll::Pending
    }

    /// It goes on, or is gone.
    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.brake.unpark(place, Duration::ZERO);
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What the next poll may add: all that is reserved.
fn slot_jump(slot: &Slot) -> u64 {
    slot.jump_bytes(&JumpOfKind::default())
}

#[test]
fn who_pauses_just_behind_a_sweep_is_woken_by_the_next() {
    loom::model(|| {
        let brake = brake(0);
        let slot = slot();
        let other = thread::spawn(move || {
            publish(brake, 10);
            sweep(brake);
        });
        let woken = Woken::new();
        let mut poller = Poller::new(brake, slot);
        let polled = poller.poll(&woken);
        other.join().unwrap();
        if polled.is_pending() {
            sweep(brake);
            assert_eq!(woken.count(), 1);
            assert!(poller.poll(&woken).is_ready());
        }
        assert_eq!(brake.paused(), 0);
    });
}

#[test]
fn who_finds_no_room_after_it_was_woken_is_woken_again() {
    loom::model(|| {
        let brake = brake(0);
        let mut poller = Poller::new(brake, slot());
        let before = Woken::new();
        assert!(poller.poll(&before).is_pending());
        publish(brake, 10);
        sweep(brake);
        assert_eq!(before.count(), 1);
        // But somebody else takes it.
        publish(brake, 0);
        let other = thread::spawn(move || {
            publish(brake, 10);
            sweep(brake);
        });
        // By another task.
        let woken = Woken::new();
        let polled = poller.poll(&woken);
        other.join().unwrap();
        if polled.is_pending() {
            sweep(brake);
            assert_eq!(woken.count(), 1);
            assert!(poller.poll(&woken).is_ready());
        }
    });
}

#[test]
fn what_a_poll_has_added_is_counted_throughout() {
    loom::model(|| {
        let brake = brake(6);
        let first = brake.take(slot(), GUARD, 4 << 20).expect("room");
        let other = thread::spawn(move || first.charge(4 * MIB));
        assert!(brake.take(slot(), GUARD, 4 << 20).is_none());
        other.join().unwrap();
        assert_eq!(brake.headroom_bytes(), 2 * MIB);
    });
}

#[test]
fn of_two_who_take_the_last_at_once_one_at_most_goes_on() {
    loom::model(|| {
        let brake = brake(6);
        let other = thread::spawn(move || brake.take(slot(), GUARD, 4 << 20));
        let here = brake.take(slot(), GUARD, 4 << 20);
        let there = other.join().unwrap();
        assert!(here.is_none() || there.is_none());
    });
}

#[test]
fn who_pauses_while_it_is_told_to_stop_is_polled() {
    loom::model(|| {
        let brake = brake(0);
        let slot = slot();
        let other = thread::spawn(move || {
            assert!(slot.request().cancel());
            brake.force(slot.request());
        });
        let woken = Woken::new();
        let mut poller = Poller::new(brake, slot);
        let polled = poller.poll(&woken);
        other.join().unwrap();
        assert!(polled.is_ready() || woken.count() > 0);
        assert!(polled.is_ready() || poller.poll(&woken).is_ready());
    });
}

#[test]
fn who_pauses_while_its_caller_goes_is_told() {
    loom::model(|| {
        let brake = brake(0);
        let slot = slot();
        let gone = Arc::new(AtomicU32::new(0));
        let other = {
            let gone = Arc::clone(&gone);
            thread::spawn(move || {
                gone.store(1, Ordering::Relaxed);
                brake.is_gone(slot);
            })
        };
        let woken = Woken::new();
        let mut poller = Poller::new(brake, slot);
        assert!(poller.poll(&woken).is_pending());
        let seen = gone.load(Ordering::Relaxed) == 1;
        other.join().unwrap();
        assert!(seen || woken.count() == 1);
    });
}

#[test]
fn who_ends_sees_who_pauses_or_is_seen_by_it() {
    loom::model(|| {
        let brake = brake(0);
        let (limiter, bounds) = one_in_flight();
        let room = Arc::new(AtomicU32::new(0));
        let other = {
            let (room, limiter) = (Arc::clone(&room), Arc::clone(&limiter));
            thread::spawn(move || {
                room.store(1, Ordering::Relaxed);
                limiter.complete(&bounds, 4, Tag::NONE);
                brake.paused() > 0
            })
        };
        let woken = Woken::new();
        let mut poller = Poller::new(brake, slot());
        assert!(poller.poll(&woken).is_pending());
        limiter.meet_ends();
        let seen = room.load(Ordering::Relaxed) == 1;
        assert!(seen || other.join().unwrap());
    });
}

#[test]
fn who_ends_while_it_is_woken_leaves_its_room_to_the_next() {
    loom::model(|| {
        let brake = brake(0);
        let [mut first, mut second] = [(); 2].map(|()| Poller::new(brake, slot()));
        let [one, two] = [(); 2].map(|()| Woken::new());
        assert!(first.poll(&one).is_pending());
        assert!(second.poll(&two).is_pending());
        // For one of them.
        publish(brake, 6);
        let other = thread::spawn(move || sweep(brake));
        drop(first);
        other.join().unwrap();
        sweep(brake);
        assert_eq!(two.count(), 1);
        assert!(second.poll(&two).is_ready());
    });
}

/// A request ends and another one has its slot, while something is done to the first.
fn is_not_done_to_the_next(act: impl Fn(&'static Brake, SlotRef) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let brake = brake(0);
        let slot = slot();
        let request = slot.request();
        brake.tell(GUARD, vec![needs_nothing(slot)]);
        let woken = Woken::new();
        let mut first = Poller::new(brake, slot);
        assert!(first.poll(&woken).is_pending());
        let other = thread::spawn(move || act(brake, request));
        drop(first);
        slot.end().expect("no look came by");
        begin(slot);
        let woken = Woken::new();
        let mut next = Poller::new(brake, slot);
        let polled = next.poll(&woken);
        other.join().unwrap();
        assert!(polled.is_pending());
        assert!(next.poll(&woken).is_pending());
        assert_eq!((slot.is_cancelled(), woken.count()), (false, 0));
    });
}

/// It goes on whatever the room is.
fn needs_nothing(slot: &'static Slot) -> InFlight {
    InFlight {
        request: slot.request(),
        place: slot.place(),
        runner: Runner {
            held_bytes: MIB as f32,
            growth: [0.0; STEPS],
            need_bytes: 0.0,
            worst_bytes: 0.0,
            jump_bytes: 0.0,
            settled: true,
            moves: true,
            paused: true,
            idle: false,
            outgrown_bytes: 0.0,
        },
    }
}

#[test]
fn a_cancellation_that_comes_too_late_is_not_the_next_ones() {
    is_not_done_to_the_next(|brake, request| {
        if request.cancel() {
            brake.force(request);
        }
    });
}

#[test]
fn a_turn_that_comes_too_late_is_not_the_next_ones() {
    is_not_done_to_the_next(|brake, _| sweep(brake));
}

#[test]
fn a_pause_is_counted_once_while_one_poller_goes_and_another_comes() {
    loom::model(|| {
        let brake = brake(0);
        let slot = slot();
        let now = Duration::from_millis(10);
        let place = brake.park(None, slot, GUARD, Waker::noop(), Duration::ZERO);
        let other = thread::spawn(move || brake.unpark(place, now));
        let reader = thread::spawn(move || assert_eq!(slot.paused(now), now));
        let place = brake.park(None, slot, GUARD, Waker::noop(), now);
        other.join().unwrap();
        reader.join().unwrap();
        let later = 2 * now;
        brake.unpark(place, later);
        assert_eq!(slot.paused(later), later);
        assert_eq!(brake.paused(), 0);
    });
}

#[test]
fn a_poller_that_stays_behind_its_request_does_not_resume_the_next() {
    loom::model(|| {
        let brake = brake(0);
        let slot = slot();
        let now = Duration::from_millis(10);
        let place = brake.park(None, slot, GUARD, Waker::noop(), Duration::ZERO);
        let other = thread::spawn(move || brake.unpark(place, now));
        slot.end().expect("no look came by");
        begin(slot);
        let place = brake.park(None, slot, GUARD, Waker::noop(), now);
        other.join().unwrap();
        let later = 2 * now;
        assert!(slot.is_paused());
        assert_eq!(slot.paused(later), now);
        brake.unpark(place, later);
        assert_eq!((brake.paused(), slot.is_paused()), (0, false));
    });
}
