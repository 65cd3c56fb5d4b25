//! Where nobody gets on: who goes on all the same.

use std::time::Duration;

use super::brake::{Bound, Stuck, Trust};
use super::brake_tests::{GUARD, MIB, OTHER, brake, in_flight, needy, park, slot};
use super::test_support::bound;
use super::{KnownJumps, Running};
use crate::class::tag::Tag;

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
    brake.sweep(MIB, None, false, Duration::ZERO);
    assert!(!brake.force_first(16 << 20, Trust::default(), Duration::ZERO));
    // In the end the guess is not believed, unless there is nothing at all.
    let guesses = Trust {
        guesses: true,
        ..Trust::default()
    };
    assert!(!brake.force_first(0, guesses, Duration::ZERO));
    assert_eq!(forced(), [false, false]);
    // One that fits by its guess goes first all the same.
    assert!(brake.force_first(32 << 20, guesses, Duration::ZERO));
    assert_eq!(forced(), [false, true]);
    assert!(brake.force_first(16 << 20, guesses, Duration::ZERO));
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
        (0..3).for_each(|_| slot.grew((jump * MIB) as u64, false, Duration::ZERO));
        running.jump_bytes(slot);
        park(brake, slot, GUARD)
    });
    left_mib.map(|mib| {
        assert!(brake.force_first(mib << 20, trust, Duration::ZERO));
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
        (0..3).for_each(|_| slot.grew(12 << 20, false, Duration::ZERO));
        running.jump_bytes(slot);
        let one = in_flight(slot, (need_mib - held_mib) as f32);
        (one, park(brake, slot, GUARD))
    });
    let (mut one, place) = ends;
    one.runner.settled = true;
    brake.tell(GUARD, vec![one, other.0]);
    brake.sweep(-MIB, None, false, Duration::ZERO);
    assert!(one.request.slot().ends());
    assert!(brake.force_first(24 << 20, trust, Duration::ZERO));
    [place, other.1].map(|place| brake.is_forced(place))
}

#[test]
fn who_seems_to_end_with_little_of_what_it_needs_does_not_go_before_the_others() {
    let forced = forced_of_one_that_ends_and_another;
    for trust in [NEEDS, Trust::default()] {
        assert_eq!(forced([(39, 136), (124, 135)], trust), [false, true]);
        assert_eq!(forced([(60, 79), (124, 135)], trust), [true, false]);
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
    assert_eq!(
        brake.sweep(-MIB, None, false, Duration::ZERO).stuck,
        Stuck::Yes
    );
    // Since they were looked at.
    brake.unpark(paused[0].1, Duration::ZERO);
    assert_eq!(
        brake.sweep(-MIB, None, false, Duration::ZERO).stuck,
        Stuck::No
    );
}

#[test]
fn who_gets_on_beside_the_plan_may_end() {
    let brake = brake();
    let publish = |guard, unknown_get_on| {
        let bound = Bound {
            unknown_get_on,
            ..bound(0, -MIB)
        };
        brake.publish(guard, bound);
    };
    let stuck = || brake.sweep(-MIB, None, false, Duration::ZERO).stuck;
    publish(GUARD, false);
    assert_eq!(stuck(), Stuck::Yes);
    publish(OTHER, true);
    assert_eq!(stuck(), Stuck::ForNow);
    brake.tell(GUARD, vec![needy(15.0)]);
    assert_eq!(stuck(), Stuck::No);
}

#[test]
fn where_others_take_what_is_left_one_that_is_about_to_end_does() {
    let brake = brake();
    brake.publish(GUARD, bound(0, -MIB));
    let running: &Running = Box::leak(Box::default());
    let mut ending = needy(15.0);
    ending.request.slot().grew(20 << 20, false, Duration::ZERO);
    running.jump_bytes(ending.request.slot());
    ending.runner.settled = true;
    brake.tell(GUARD, vec![ending]);
    let place = park(brake, ending.request.slot(), GUARD);
    brake.sweep(-MIB, None, false, Duration::ZERO);
    // It may add more than there is.
    assert!(!brake.force_first(MIB as u64, Trust::default(), Duration::ZERO));
    let endings = Trust {
        endings: true,
        ..Trust::default()
    };
    assert!(brake.force_first(MIB as u64, endings, Duration::ZERO));
    assert!(brake.is_forced(place));
}

#[test]
fn the_only_one_goes_on_in_the_end() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.grew(64 << 20, false, Duration::ZERO);
    running.jump_bytes(slot);
    park(brake, slot, GUARD);
    assert!(!brake.force_first(16 << 20, Trust::default(), Duration::ZERO));
    let anybody = Trust {
        anybody: true,
        ..Trust::default()
    };
    // Where there is anything at all.
    assert!(!brake.force_first(0, anybody, Duration::ZERO));
    assert!(brake.force_first(16 << 20, anybody, Duration::ZERO));
}

#[test]
fn who_goes_on_without_end_does_not_seem_to_get_on() {
    let brake = brake();
    brake.publish(GUARD, bound(0, 10 * MIB));
    let stream = slot(1);
    let passed = || brake.sweep(10 * MIB, None, false, Duration::ZERO).passed;
    assert!(brake.take(stream, GUARD, 1 << 10).is_some());
    assert_eq!(passed(), 1);
    stream.set_idle(true);
    assert!(brake.take(stream, GUARD, 1 << 10).is_some());
    assert_eq!(passed(), 1);
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
    assert!(brake.force_first(12 << 20, Trust::default(), Duration::ZERO));
    let chosen = forced();
    assert!(brake.force_first(12 << 20, Trust::default(), Duration::ZERO));
    assert_eq!(forced(), chosen);
    // In the end it takes what it was let take.
    let later = Duration::from_millis(250);
    (0..10).for_each(|_| {
        brake.sweep(0, None, false, later);
    });
    assert!(!brake.force_first(12 << 20, Trust::default(), later));
    assert!(brake.force_first(16 << 20, Trust::default(), later));
    assert_eq!(forced(), [true, true]);
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
    brake.sweep(MIB, None, false, Duration::ZERO);
    let forced = || places.map(|place| brake.is_forced(place));
    assert!(!brake.force_first(200 << 20, NEEDS, Duration::ZERO));
    let in_the_end = Trust {
        expected: true,
        ..NEEDS
    };
    assert!(!brake.force_first(2 << 20, in_the_end, Duration::ZERO));
    assert!(brake.force_first(200 << 20, in_the_end, Duration::ZERO));
    assert_eq!(forced(), [false, false, true]);
}

#[test]
fn what_is_only_feared_of_a_first_poll_holds_nobody_for_ever() {
    let guesses = Trust {
        guesses: true,
        ..Trust::default()
    };
    for (seen_mib, goes_on) in [(2, true), (200, false)] {
        let brake = brake();
        brake.publish(GUARD, bound(0, MIB));
        let running: &Running = Box::leak(Box::default());
        let known = KnownJumps {
            largest: (seen_mib * MIB) as f64,
            first: 200.0 * MIB as f64,
            ..KnownJumps::default()
        };
        running.set_jump(Tag::NONE.key, known, 1.0, None);
        for _ in 0..2 {
            let slot = running.take(34 << 10, Tag::NONE, Duration::ZERO).unwrap();
            running.jump_bytes(slot);
            park(brake, slot, GUARD);
        }
        assert!(!brake.force_first(195 << 20, Trust::default(), Duration::ZERO));
        let forced = brake.force_first(195 << 20, guesses, Duration::ZERO);
        assert_eq!(forced, goes_on, "{seen_mib} MiB were seen");
    }
}
