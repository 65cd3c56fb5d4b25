use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::brake::{Bound, Brake, Runner, Running as InFlight, STEPS, Stuck, Trust};
use super::test_support::{Woken, bound};
use super::{KnownJumps, Running, Slot};
use crate::class::tag::{ClassKey, Tag};

const MIB: i64 = 1 << 20;
const GUARD: usize = 1;
const OTHER: usize = 2;

fn brake() -> &'static Brake {
    Box::leak(Box::default())
}

fn slot(mib: u64) -> &'static Slot {
    let running: &Running = Box::leak(Box::default());
    let taken = running.take(mib << 10, Tag::NONE, Duration::ZERO);
    taken.expect("a free slot")
}

/// Needs so much more to end.
fn needy(need_mib: f32) -> InFlight {
    in_flight(slot(1), need_mib)
}

fn in_flight(slot: &'static Slot, need_mib: f32) -> InFlight {
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

fn park(brake: &Brake, slot: &'static Slot, guard: usize) -> usize {
    brake.park(None, slot, guard, Waker::noop(), Duration::ZERO)
}

#[test]
fn who_is_not_known_goes_before_all_others_in_the_end() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 5 * MIB));
    brake.tell(GUARD, vec![needy(15.0)]);
    brake.sweep(5 * MIB, None, false);
    let unknown = slot(4);
    assert!(brake.take(unknown, 4 << 20).is_none());
    park(brake, unknown, GUARD);
    let longest = Duration::from_secs(5);
    brake.bring_forward(GUARD, longest, Duration::from_secs(4));
    assert!(brake.take(unknown, 4 << 20).is_none());
    brake.bring_forward(OTHER, longest, Duration::from_secs(6));
    assert!(brake.take(unknown, 4 << 20).is_none());
    brake.bring_forward(GUARD, longest, Duration::from_secs(6));
    assert!(brake.take(unknown, 4 << 20).is_some());
    // But into nothing that is not there.
    assert!(brake.take(unknown, 6 << 20).is_none());
}

#[test]
fn what_is_only_guessed_holds_nobody_for_ever() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let places = [64, 32].map(|mib| {
        let slot = running.take(mib << 10, Tag::NONE, Duration::ZERO).unwrap();
        running.jump_bytes(slot);
        park(brake, slot, GUARD)
    });
    let forced = || places.map(|place| brake.is_forced(place));
    brake.sweep(MIB, None, false);
    assert!(!brake.force_first(16 << 20, Trust::default()));
    // In the end the guess is not believed, unless there is nothing at all.
    let guesses = Trust {
        guesses: true,
        ..Trust::default()
    };
    assert!(!brake.force_first(0, guesses));
    assert_eq!(forced(), [false, false]);
    // One that fits by its guess goes first all the same.
    assert!(brake.force_first(32 << 20, guesses));
    assert_eq!(forced(), [false, true]);
    assert!(brake.force_first(16 << 20, guesses));
    assert_eq!(forced(), [true, true]);
}

const NEEDS: Trust = Trust {
    guesses: false,
    expected: false,
    endings: false,
    anybody: false,
    needs: true,
};

/// Who goes on of four, if so much is left, and then if so much is.
fn forced_of_four(left_mib: [u64; 2], trust: Trust) -> [[bool; 4]; 2] {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    // What each holds and is expected to hold, and what its polls have added.
    let places = [(2, 50, 3), (50, 51, 8), (100, 400, 12), (2, 50, 3)];
    let places = places.map(|(held, need, jump)| {
        let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
        slot.charge(held * MIB, 1);
        slot.expect((need * MIB) as f64);
        (0..3).for_each(|_| slot.grew((jump * MIB) as u64, false));
        running.jump_bytes(slot);
        park(brake, slot, GUARD)
    });
    left_mib.map(|mib| {
        assert!(brake.force_first(mib << 20, trust));
        places.map(|place| brake.is_forced(place))
    })
}

#[test]
fn where_nobody_gets_on_who_needs_least_does() {
    let forced = forced_of_four([24, 7], NEEDS);
    assert_eq!(forced[0], [false, true, false, false]);
    // Its poll may add too much. Of two alike it is the first.
    assert_eq!(forced[1], [true, true, false, false]);
}

#[test]
fn where_nobody_gets_on_and_needs_are_guesses_who_has_come_furthest_does() {
    let forced = forced_of_four([24, 10], Trust::default());
    assert_eq!(forced[0], [false, false, true, false]);
    // Where it cannot, large ones would use up what is left, whatever they are expected
    // to need.
    assert_eq!(forced[1], [true, false, true, false]);
}

/// Who goes on of one that seems to be about to end, and one that has come far: what each
/// holds and is expected to hold.
fn forced_of_one_that_ends_and_another(two: [(i64, i64); 2], trust: Trust) -> [bool; 2] {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let running: &Running = Box::leak(Box::default());
    let [ends, other] = two.map(|(held_mib, need_mib)| {
        let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
        slot.charge(held_mib * MIB, 1);
        slot.expect((need_mib * MIB) as f64);
        (0..3).for_each(|_| slot.grew(12 << 20, false));
        running.jump_bytes(slot);
        let one = in_flight(slot, (need_mib - held_mib) as f32);
        (one, park(brake, slot, GUARD))
    });
    let (mut one, place) = ends;
    one.runner.settled = true;
    brake.tell(GUARD, vec![one, other.0]);
    brake.sweep(-MIB, None, false);
    assert!(one.request.slot().ends());
    assert!(brake.force_first(24 << 20, trust));
    [place, other.1].map(|place| brake.is_forced(place))
}

#[test]
fn who_seems_to_end_with_little_of_what_it_needs_does_not_go_before_the_others() {
    let forced = forced_of_one_that_ends_and_another;
    for trust in [NEEDS, Trust::default()] {
        assert_eq!(forced([(39, 136), (124, 135)], trust), [false, true]);
        assert_eq!(forced([(40, 79), (124, 135)], trust), [true, false]);
    }
}

#[test]
fn nobody_is_stuck_once_one_has_gone_on() {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let paused = [15.0, 20.0].map(|need_mib| {
        let mut one = needy(need_mib);
        one.runner.paused = true;
        (one, park(brake, one.request.slot(), GUARD))
    });
    brake.tell(GUARD, paused.map(|(one, _)| one).into());
    assert_eq!(brake.sweep(-MIB, None, false).stuck, Stuck::Yes);
    // Since they were looked at.
    brake.unpark(paused[0].1, Duration::ZERO);
    assert_eq!(brake.sweep(-MIB, None, false).stuck, Stuck::No);
}

#[test]
fn where_others_take_what_is_left_one_that_is_about_to_end_does() {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let running: &Running = Box::leak(Box::default());
    let mut ending = needy(15.0);
    ending.request.slot().grew(20 << 20, false);
    running.jump_bytes(ending.request.slot());
    ending.runner.settled = true;
    brake.tell(GUARD, vec![ending]);
    let place = park(brake, ending.request.slot(), GUARD);
    brake.sweep(-MIB, None, false);
    // It may add more than there is.
    assert!(!brake.force_first(MIB as u64, Trust::default()));
    let endings = Trust {
        endings: true,
        ..Trust::default()
    };
    assert!(brake.force_first(MIB as u64, endings));
    assert!(brake.is_forced(place));
}

#[test]
fn who_holds_all_that_it_needs_does_not_wait_for_as_much_again() {
    const LARGE: u64 = 256 << 20;
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    // Not to be excluded where a mistake would be the end.
    (0..2).for_each(|_| slot.grew(LARGE, false));
    slot.charge(LARGE as i64, 1);
    slot.expect(LARGE as f64 + 1024.0);
    running.jump_bytes(slot);
    park(brake, slot, GUARD);
    let endings = Trust {
        endings: true,
        ..Trust::default()
    };
    assert!(!brake.force_first(LARGE - 1, endings));
    slot.expect(LARGE as f64);
    assert!(!brake.force_first(LARGE - 1, Trust::default()));
    assert!(brake.force_first(LARGE - 1, endings));
}

#[test]
fn who_adds_nothing_any_more_is_not_paused() {
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.charge(16 * MIB, 1);
    slot.grew(16 << 20, false);
    slot.expect(16.7 * MIB as f64);
    let mut known = KnownJumps {
        largest: 16.0 * MIB as f64,
        later: Some(MIB as f64),
        ..KnownJumps::default()
    };
    let mut is_let = |later_kib: f64| {
        known.later = Some(later_kib * 1024.0);
        running.set_jump(Tag::NONE.key, known, 1.0, None);
        brake.tell(GUARD, vec![in_flight(slot, 0.7)]);
        brake.publish(GUARD, bound(0, -20 * MIB));
        brake.sweep(-20 * MIB, None, false);
        brake.take(slot, running.jump_bytes(slot)).is_some()
    };
    // What is not there cannot be taken.
    assert!(!is_let(300.0));
    assert!(is_let(100.0));
}

#[test]
fn who_has_grown_at_once_as_others_do_is_not_expected_to_again() {
    const LARGE: u64 = 250 << 20;
    let running = Running::default();
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    let mut known = KnownJumps {
        largest: LARGE as f64,
        ..KnownJumps::default()
    };
    running.set_jump(Tag::NONE.key, known, 1.0, None);
    assert_eq!(running.jump_bytes(slot), LARGE);
    slot.grew(LARGE, false);
    // Nobody has seen what follows.
    assert_eq!(running.jump_bytes(slot), LARGE);
    known.later = Some(2.0 * MIB as f64);
    running.set_jump(Tag::NONE.key, known, 1.0, None);
    assert_eq!(running.jump_bytes(slot), 2 << 20);
    // Until it does.
    slot.grew(16 << 20, false);
    assert_eq!(running.jump_bytes(slot), 18 << 20);
}

#[test]
fn who_is_about_to_end_is_expected_to_add_what_others_did_then() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.grew(10 << 20, false);
    let known = KnownJumps {
        largest: 10.0 * MIB as f64,
        once: 0.0,
        first: 0.0,
        later: Some(10.0 * MIB as f64),
        ending: Some(0.5 * MIB as f64),
    };
    running.set_jump(Tag::NONE.key, known, 1.0, None);
    let mut one = in_flight(slot, 20.0);
    brake.tell(GUARD, vec![one]);
    brake.sweep(100 * MIB, None, false);
    // While it grows that says nothing.
    assert_eq!(running.jump_bytes(slot), 10 << 20);
    one.runner.settled = true;
    brake.tell(GUARD, vec![one]);
    brake.sweep(0, None, false);
    let taken = brake.take(slot, running.jump_bytes(slot));
    assert!(taken.is_some(), "{}", running.jump_bytes(slot));
    // Until it adds more then itself.
    slot.grew(3 << 20, true);
    assert_eq!(running.jump_bytes(slot), 3 << 20);
    assert_eq!(slot.jump().ending, Some(3.0 * MIB as f64));
}

#[test]
fn who_has_just_begun_goes_on_if_all_that_it_may_need_is_free() {
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let mut first = in_flight(slot(1 << 10), 2.0);
    first.runner.worst_bytes = 280.0 * MIB as f32;
    brake.tell(GUARD, vec![first]);
    let newcomer = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    let known = KnownJumps {
        largest: 256.0 * MIB as f64,
        ..KnownJumps::default()
    };
    running.set_jump(Tag::NONE.key, known, 1.0, Some(280.0 * MIB as f64));
    let taken = |room_mib| {
        brake.publish(GUARD, bound(0, room_mib * MIB));
        brake.sweep(room_mib * MIB, None, false);
        brake.take(newcomer, running.jump_bytes(newcomer)).is_some()
    };
    // Beside what the first is expected to add: two.
    assert!(!taken(281));
    assert!(taken(282));
}

#[test]
fn the_only_one_goes_on_in_the_end() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.grew(64 << 20, false);
    running.jump_bytes(slot);
    park(brake, slot, GUARD);
    assert!(!brake.force_first(16 << 20, Trust::default()));
    let anybody = Trust {
        anybody: true,
        ..Trust::default()
    };
    // Where there is anything at all.
    assert!(!brake.force_first(0, anybody));
    assert!(brake.force_first(16 << 20, anybody));
}

#[test]
fn a_guard_lets_only_its_own_go() {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let places = [GUARD, OTHER].map(|guard| park(brake, slot(4), guard));
    brake.sweep(-MIB, Some(GUARD), false);
    assert_eq!(places.map(|place| brake.is_forced(place)), [true, false]);
}

#[test]
fn it_is_on_while_one_guard_wants_it() {
    let brake = brake();
    brake.set_on(GUARD, true);
    brake.set_on(OTHER, false);
    assert!(brake.is_on());
    brake.set_on(OTHER, true);
    brake.set_on(GUARD, false);
    assert!(brake.is_on());
    brake.set_on(OTHER, false);
    assert!(!brake.is_on());
}

#[test]
fn what_is_counted_ahead_is_not_free_until_a_sample() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 10 * MIB));
    let one = slot(6);
    let taken = brake.take(one, 6 << 20).expect("room");
    taken.begin_part(Duration::ZERO);
    assert!(brake.take(one, 6 << 20).is_none());
    // The sample shows what was added: nothing.
    brake.publish(GUARD, bound(brake.grown_bytes(), 10 * MIB));
    assert!(brake.take(one, 6 << 20).is_some());
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
    brake.sweep(20 * MIB, None, false);
    assert_eq!(
        slots.map(|slot| brake.is_held(slot)),
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
fn who_goes_on_without_end_does_not_seem_to_get_on() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 10 * MIB));
    let stream = slot(1);
    let passed = || brake.sweep(10 * MIB, None, false).passed;
    assert!(brake.take(stream, 1 << 10).is_some());
    assert_eq!(passed(), 1);
    stream.set_idle(true);
    assert!(brake.take(stream, 1 << 10).is_some());
    assert_eq!(passed(), 1);
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
    let sweep = || brake.sweep(20 * MIB, None, false);
    sweep();
    let counts = || [woken[0].count(), woken[1].count()];
    assert_eq!(counts(), [1, 0]);
    (0..100).for_each(|_| {
        sweep();
    });
    assert_eq!(counts(), [1, 1]);
    // It comes back, and is waited for again.
    park(Some(first), 0);
    sweep();
    assert_eq!(counts(), [2, 1]);
    assert!(brake.wants_room());
}

#[test]
fn who_went_on_by_force_and_is_not_polled_is_not_chosen_again() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 0));
    let running: &Running = Box::leak(Box::default());
    let places = [8, 8].map(|mib| {
        let slot = running.take(mib << 10, Tag::NONE, Duration::ZERO).unwrap();
        running.jump_bytes(slot);
        park(brake, slot, GUARD)
    });
    let forced = || places.map(|place| brake.is_forced(place));
    assert!(brake.force_first(12 << 20, Trust::default()));
    let chosen = forced();
    assert!(brake.force_first(12 << 20, Trust::default()));
    assert_eq!(forced(), chosen);
    (0..100).for_each(|_| {
        brake.sweep(0, None, false);
    });
    // In the end it takes what it was let take.
    assert!(!brake.force_first(12 << 20, Trust::default()));
    assert!(brake.force_first(16 << 20, Trust::default()));
    assert_eq!(forced(), [true, true]);
}

#[test]
fn of_several_guards_the_tightest_says_how_far_growth_may_come() {
    let brake = brake();
    let wide = bound(0, 100 * MIB);
    let tight = Bound {
        left_bytes: 2 << 20,
        ..bound(0, MIB)
    };
    brake.set_on(GUARD, true);
    brake.publish(GUARD, tight);
    brake.publish(OTHER, wide);
    assert_eq!(brake.headroom_bytes(), MIB);
    // It is far from its own limit, and does not ask for the brake.
    brake.publish(OTHER, bound(0, 0));
    assert_eq!(brake.headroom_bytes(), MIB);
    brake.set_on(OTHER, true);
    assert_eq!(brake.headroom_bytes(), 0);
    brake.publish(OTHER, wide);
    // Nor is anybody let go by what is left of the other's.
    let slot = slot(4);
    Running::default().jump_bytes(slot);
    park(brake, slot, GUARD);
    assert!(!brake.force_first(50 << 20, Trust::default()));
    brake.leave(GUARD);
    assert_eq!(brake.headroom_bytes(), 100 * MIB);
    assert!(brake.force_first(50 << 20, Trust::default()));
}

#[test]
fn a_large_poll_does_not_count_on_what_the_allocator_keeps() {
    let brake = brake();
    let kept = Bound {
        kept_bytes: 190 * MIB,
        large_bytes: 25 * MIB,
        ..bound(0, 400 * MIB)
    };
    brake.publish(GUARD, kept);
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(254 << 10, Tag::NONE, Duration::ZERO).unwrap();
    let jump_bytes = running.jump_bytes(slot);
    assert_eq!(jump_bytes, 254 << 20);
    // A guess of one that is alone is no more than that.
    assert_eq!(brake.most_for_one_bytes(), 210 * MIB);
    // What of it is not used again nobody could take back.
    assert!(brake.take(slot, jump_bytes).is_none());
    let woken = Woken::new();
    brake.park(
        None,
        slot,
        GUARD,
        &Arc::clone(&woken).into(),
        Duration::ZERO,
    );
    brake.sweep(400 * MIB, None, false);
    assert_eq!(woken.count(), 0);
    assert!(brake.take(slot, 210 << 20).is_some());
    // Of smaller ones the next sample says whether it was.
    let small: Vec<_> = (0..17).map_while(|_| brake.take(slot, 25 << 20)).collect();
    assert_eq!(small.len(), 16);
    drop(small);
    // It was given back.
    brake.publish(GUARD, bound(0, 400 * MIB));
    brake.sweep(400 * MIB, None, false);
    assert_eq!(woken.count(), 1);
    assert!(brake.take(slot, jump_bytes).is_some());
}

#[test]
fn of_two_who_have_just_begun_one_goes_on_if_either_may_need_most_of_what_is_free() {
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let known = KnownJumps {
        largest: 20.0 * MIB as f64,
        once: 250.0 * MIB as f64,
        ..KnownJumps::default()
    };
    running.set_jump(Tag::NONE.key, known, 1.0, Some(256.0 * MIB as f64));
    let slots = [(); 3].map(|()| {
        let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
        running.jump_bytes(slot);
        slot
    });
    let take = |index: usize| brake.take(slots[index], running.jump_bytes(slots[index]));
    brake.publish(GUARD, bound(0, 480 * MIB));
    brake.sweep(480 * MIB, None, false);
    let first = take(0);
    assert!(first.is_some());
    assert!(take(1).is_none());
    // Nor are they woken together.
    park(brake, slots[1], GUARD);
    let place = park(brake, slots[2], GUARD);
    brake.sweep(480 * MIB, None, false);
    assert!(!brake.is_forced(place));
    drop(first);
    // What the poll has added shows, and that it is over.
    let second = take(1);
    assert!(second.is_some());
    drop(second);
    assert!(take(2).is_some());
}

#[test]
fn while_a_poll_has_outgrown_what_is_known_no_other_of_its_kind_begins() {
    let brake = brake();
    let large_from = Bound {
        large_bytes: 25 * MIB,
        ..bound(0, 400 * MIB)
    };
    brake.publish(GUARD, large_from);
    let in_poll = slot(1);
    let with = |outgrown_mib: i64| {
        let mut one = in_flight(in_poll, 1.0);
        one.runner.outgrown_bytes = (outgrown_mib * MIB) as f32;
        brake.tell(GUARD, vec![one]);
        brake.sweep(400 * MIB, None, false);
    };
    let (newcomer, shown) = (slot(1), slot(1));
    shown.grew(1 << 20, false);
    let takes = |slot: &Slot| brake.take(slot, 1 << 20).is_some();
    // A little more than was known is corrected in time, and much fits.
    for mib in [12, 13] {
        with(mib);
        assert!(takes(newcomer));
    }
    with(200);
    assert!(!takes(newcomer) && takes(shown));
    let tag = Tag {
        key: ClassKey::all().last().unwrap(),
        ..Tag::NONE
    };
    let running: &Running = Box::leak(Box::default());
    let of_other_kind = running.take(1 << 10, tag, Duration::ZERO).unwrap();
    assert!(takes(of_other_kind));
    newcomer.to_the_front();
    assert!(takes(newcomer));
    let other = slot(1);
    assert!(!takes(other));
    with(0);
    assert!(takes(other));
}

#[test]
fn what_a_poll_has_added_so_far_is_known_in_the_midst_of_it() {
    let slot = slot(4);
    slot.charge(10 * MIB, 1);
    assert_eq!(slot.added_in_poll(), 0);
    slot.polls_from(slot.held_bytes());
    slot.charge(5 * MIB, 1);
    assert_eq!(slot.added_in_poll(), 5 << 20);
    // Another one of the same request has begun, and goes on.
    slot.polls_no_more_from(3 << 20);
    assert_eq!(slot.added_in_poll(), 5 << 20);
    slot.polls_no_more_from(10 << 20);
    assert_eq!(slot.added_in_poll(), 0);
}

#[test]
fn the_most_that_a_poll_has_added_is_known_to_others_at_once() {
    let running: &Running = Box::leak(Box::default());
    let begin = || running.take(4 << 10, Tag::NONE, Duration::ZERO).unwrap();
    let first_bytes = || running.jump_bytes(begin());
    let slot = begin();
    assert_eq!(first_bytes(), 4 << 20);
    assert!(running.saw_jump(slot, 100 << 20));
    assert_eq!(first_bytes(), 100 << 20);
    // What is less says nothing new.
    assert!(!running.saw_jump(slot, 50 << 20));
    assert_eq!(first_bytes(), 100 << 20);
    // Until a look has told the rest of what is known. What came after that stays.
    let records = || {
        running
            .records()
            .map(|(_, bytes)| bytes)
            .collect::<Vec<_>>()
    };
    assert_eq!(records(), [100.0 * MIB as f64]);
    assert!(running.saw_jump(slot, 120 << 20));
    let tell = |mib: i64| {
        let known = KnownJumps {
            largest: (mib * MIB) as f64,
            ..KnownJumps::default()
        };
        running.set_jump(Tag::NONE.key, known, 1.0, None);
    };
    tell(100);
    assert_eq!((first_bytes(), records().len()), (120 << 20, 1));
    tell(120);
    assert_eq!((first_bytes(), records().len()), (120 << 20, 0));
    assert!(!running.saw_jump(slot, 120 << 20));
}

#[test]
fn what_polls_add_while_nobody_asks_is_no_time_in_which_it_grows() {
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(4 << 10, Tag::NONE, Duration::ZERO).unwrap();
    (0..4).for_each(|_| slot.grew_untimed(30 << 20));
    let jump = slot.jump();
    assert_eq!(
        (jump.largest, jump.later),
        (30.0 * MIB as f64, 30.0 * MIB as f64)
    );
    assert!(!slot.has_shown() && slot.seen_gap_ms().is_none());
    slot.grew(1 << 20, false);
    assert_eq!(slot.seen_gap_ms(), Some(0));
}

#[test]
fn where_each_may_add_more_than_there_is_who_needs_less_goes_on_in_the_end() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let known = KnownJumps {
        largest: 256.0 * MIB as f64,
        ..KnownJumps::default()
    };
    running.set_jump(Tag::NONE.key, known, 1.0, None);
    let places = [250, 5, 3].map(|need_mib| {
        let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
        slot.expect((need_mib * MIB) as f64);
        running.jump_bytes(slot);
        park(brake, slot, GUARD)
    });
    brake.sweep(MIB, None, false);
    let forced = || places.map(|place| brake.is_forced(place));
    assert!(!brake.force_first(200 << 20, NEEDS));
    let in_the_end = Trust {
        expected: true,
        ..NEEDS
    };
    assert!(!brake.force_first(2 << 20, in_the_end));
    assert!(brake.force_first(200 << 20, in_the_end));
    assert_eq!(forced(), [false, false, true]);
}
