//! Who is paused, in which order they go on, and what several guards make of one brake.

use std::task::Waker;
use std::time::Duration;

use super::brake::{Bound, Brake, Runner, Running as InFlight, STEPS, Trust};
use super::test_support::{Woken, bound};
use super::{Running, Slot};
use crate::class::tag::Tag;

pub(super) const MIB: i64 = 1 << 20;
pub(super) const GUARD: usize = 1;
pub(super) const OTHER: usize = 2;

pub(super) fn brake() -> &'static Brake {
    Box::leak(Box::default())
}

pub(super) fn slot(mib: u64) -> &'static Slot {
    let running: &Running = Box::leak(Box::default());
    let taken = running.take(mib << 10, Tag::NONE, Duration::ZERO);
    taken.expect("a free slot")
}

/// Needs so much more to end.
pub(super) fn needy(need_mib: f32) -> InFlight {
    in_flight(slot(1), need_mib)
}

pub(super) fn in_flight(slot: &'static Slot, need_mib: f32) -> InFlight {
    let need_bytes = need_mib * MIB as f32;
    InFlight {
        request: slot.request(),
        place: slot.place(),
        runner: Runner {
            held_bytes: MIB as f32,
            growth: [need_bytes; STEPS],
            need_bytes,
            worst_bytes: need_bytes,
            jump_bytes: need_bytes,
            settled: false,
            moves: true,
            paused: false,
            idle: false,
            outgrown_bytes: 0.0,
        },
    }
}

pub(super) fn park(brake: &Brake, slot: &'static Slot, guard: usize) -> usize {
    brake.park(None, slot, guard, Waker::noop(), Duration::ZERO)
}

#[test]
fn who_is_not_known_goes_before_all_others_in_the_end() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 5 * MIB));
    brake.tell(GUARD, vec![needy(15.0)]);
    brake.sweep(5 * MIB, None, false, Duration::ZERO);
    let unknown = slot(4);
    assert!(brake.take(unknown, GUARD, 4 << 20).is_none());
    park(brake, unknown, GUARD);
    let longest = Duration::from_secs(5);
    brake.bring_forward(GUARD, longest, Duration::from_secs(4));
    assert!(brake.take(unknown, GUARD, 4 << 20).is_none());
    brake.bring_forward(OTHER, longest, Duration::from_secs(6));
    assert!(brake.take(unknown, GUARD, 4 << 20).is_none());
    brake.bring_forward(GUARD, longest, Duration::from_secs(6));
    assert!(brake.take(unknown, GUARD, 4 << 20).is_some());
    // But into nothing that is not there.
    assert!(brake.take(unknown, GUARD, 6 << 20).is_none());
}

#[test]
fn who_is_in_no_plan_any_more_is_not_known() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 5 * MIB));
    let slot = slot(4);
    brake.tell(GUARD, vec![needy(15.0), in_flight(slot, 15.0)]);
    brake.sweep(5 * MIB, None, false, Duration::ZERO);
    park(brake, slot, GUARD);
    let longest = Duration::from_secs(5);
    let forward = || {
        brake.bring_forward(GUARD, longest, 2 * longest);
        slot.place().is_front()
    };
    assert!(!forward(), "the plan says when it goes on");
    slot.set_idle(true);
    slot.unplan();
    assert!(forward() && !slot.is_idle());
}

#[test]
fn a_guard_lets_only_its_own_go() {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let places = [GUARD, OTHER].map(|guard| park(brake, slot(4), guard));
    brake.sweep(-MIB, Some(GUARD), false, Duration::ZERO);
    assert_eq!(places.map(|place| brake.is_forced(place)), [true, false]);
}

#[test]
fn it_is_on_while_one_guard_wants_it() {
    let brake = brake();
    brake.set_on(GUARD, Some(Duration::ZERO));
    brake.set_on(OTHER, None);
    assert!(brake.is_on());
    brake.set_on(OTHER, Some(Duration::ZERO));
    brake.set_on(GUARD, None);
    assert!(brake.is_on());
    brake.set_on(OTHER, None);
    assert!(!brake.is_on());
}

#[test]
fn one_that_observes_binds_only_where_nobody_else_does() {
    let brake = brake();
    let observed = Bound {
        observes: true,
        ..bound(0, -MIB)
    };
    brake.publish(OTHER, observed);
    brake.publish(GUARD, bound(0, 10 * MIB));
    brake.set_on(OTHER, Some(Duration::ZERO));
    // So that it can say who would be paused.
    assert_eq!((brake.is_enforced(), brake.headroom_bytes()), (false, -MIB));
    brake.set_on(GUARD, Some(Duration::ZERO));
    assert_eq!(
        (brake.is_enforced(), brake.headroom_bytes()),
        (true, 10 * MIB)
    );
}

#[test]
fn what_is_counted_ahead_is_not_free_until_a_sample() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 10 * MIB));
    let one = slot(6);
    let taken = brake.take(one, GUARD, 6 << 20).expect("room");
    taken.begin_part(Duration::ZERO);
    assert!(brake.take(one, GUARD, 6 << 20).is_none());
    // The sample shows what was added: nothing.
    brake.publish(GUARD, bound(brake.grown_bytes(), 10 * MIB));
    assert!(brake.take(one, GUARD, 6 << 20).is_some());
}

#[test]
fn a_poller_that_stays_behind_its_request_does_not_resume_the_next() {
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let take = || running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    let first = take();
    let left_behind = park(brake, first, GUARD);
    running.end(first);
    let next = take();
    assert!(std::ptr::eq(first, next), "the same slot");
    assert!(!next.is_paused(), "by what the first left behind");
    let second = Duration::from_secs(1);
    brake.park(None, next, GUARD, Waker::noop(), second);
    brake.unpark(left_behind, 2 * second);
    assert!(next.is_paused());
    assert_eq!(next.paused(4 * second), 3 * second);
}

#[test]
fn who_was_paused_before_a_fork_takes_nobodys_place_after_it() {
    let brake = brake();
    let [before, after] = [slot(4), slot(4)];
    let left_behind = park(brake, before, GUARD);
    let second = Duration::from_secs(1);
    brake.leave_behind(second);
    assert_eq!((brake.paused(), before.is_paused()), (0, false));
    assert_eq!(before.paused(2 * second), second);
    let place = park(brake, after, GUARD);
    // It is dropped here as well.
    assert!(!brake.is_forced(left_behind));
    brake.unpark(left_behind, second);
    // Once is enough.
    brake.leave_behind(second);
    assert!(after.is_paused());
    assert_eq!(brake.paused(), 1);
    brake.unpark(place, second);
    assert_eq!((brake.paused(), after.is_paused()), (0, false));
}

#[test]
fn a_plan_goes_by_the_shares_of_tenants() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 20 * MIB));
    let running: &Running = Box::leak(Box::default());
    let slots = [1, 1, 1, 2].map(|tenant| {
        running
            .take(16 << 10, Tag::of_tenant(tenant), Duration::ZERO)
            .unwrap()
    });
    running.rank(Duration::MAX, Duration::ZERO, |_| 1);
    brake.tell(GUARD, slots.map(|slot| in_flight(slot, 15.0)).into());
    brake.sweep(20 * MIB, None, false, Duration::ZERO);
    assert_eq!(
        slots.map(|slot| brake.is_held(slot, GUARD)),
        [true, true, true, false]
    );
}

#[test]
fn what_has_been_added_since_is_not_left() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 10 * MIB));
    let before = brake.grown_bytes();
    let taken = brake.take_anyway(6 << 20);
    assert_eq!(brake.added_since(before), 6 << 20);
    taken.charge(4 * MIB);
    assert_eq!(brake.added_since(before), 4 << 20);
    assert_eq!(brake.added_since(brake.grown_bytes()), 0);
}

#[test]
fn who_is_woken_and_not_polled_holds_up_nobody() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 20 * MIB));
    let running: &Running = Box::leak(Box::default());
    let slots = [(); 2].map(|()| {
        let slot = running.take(16 << 10, Tag::NONE, Duration::ZERO).unwrap();
        running.jump_bytes(slot);
        slot
    });
    let woken = [Woken::new(), Woken::new()];
    let wakers: Vec<Waker> = woken.iter().cloned().map(Waker::from).collect();
    let park = |place, index: usize| {
        brake.park(place, slots[index], GUARD, &wakers[index], Duration::ZERO)
    };
    let first = park(None, 0);
    park(None, 1);
    let sweep = |ms| brake.sweep(20 * MIB, None, false, Duration::from_millis(ms));
    assert_eq!(sweep(0).paused, 2);
    let counts = || [woken[0].count(), woken[1].count()];
    assert_eq!(counts(), [1, 0]);
    // The process stood still.
    (0..8).for_each(|_| {
        sweep(60_000);
    });
    // However many guards look, and however often.
    park(Some(first), 0);
    sweep(60_000);
    assert_eq!(counts(), [2, 0]);
    (0..100).for_each(|_| {
        sweep(60_249);
    });
    assert_eq!(counts(), [2, 0]);
    assert_eq!(sweep(60_250).paused, 1, "who is woken has found room");
    assert_eq!(counts(), [2, 1]);
    // It comes back, and is waited for again.
    park(Some(first), 0);
    sweep(60_251);
    assert_eq!(counts(), [3, 1]);
    assert!(brake.wants_room());
}

#[test]
fn of_several_guards_the_tightest_says_how_far_growth_may_come() {
    let brake = brake();
    let wide = bound(0, 100 * MIB);
    let tight = Bound {
        left_bytes: 2 << 20,
        ..bound(0, MIB)
    };
    brake.set_on(GUARD, Some(Duration::ZERO));
    brake.publish(GUARD, tight);
    brake.publish(OTHER, wide);
    assert_eq!(brake.headroom_bytes(), MIB);
    // It is far from its own limit, and does not ask for the brake.
    brake.publish(OTHER, bound(0, 0));
    assert_eq!(brake.headroom_bytes(), MIB);
    brake.set_on(OTHER, Some(Duration::ZERO));
    assert_eq!(brake.headroom_bytes(), 0);
    brake.publish(OTHER, wide);
    // Nor is anybody let go by what is left of the other's.
    let slot = slot(4);
    Running::default().jump_bytes(slot);
    park(brake, slot, GUARD);
    assert!(!brake.force_first(50 << 20, Trust::default(), Duration::ZERO));
    brake.leave(GUARD);
    assert_eq!(brake.headroom_bytes(), 100 * MIB);
    assert!(brake.force_first(50 << 20, Trust::default(), Duration::ZERO));
}

#[test]
fn what_one_guard_has_told_to_stop_another_counts_on() {
    let ms = Duration::from_millis;
    let brake = brake();
    brake.told(GUARD, 60 << 20, ms(70));
    assert_eq!(brake.told_by_others(GUARD, ms(10)), 0);
    assert_eq!(brake.told_by_others(OTHER, ms(69)), 60 << 20);
    assert_eq!(brake.told_by_others(OTHER, ms(70)), 0);
}
