//! What a poll may add, and what is learned from it.

use std::sync::Arc;
use std::time::Duration;

use super::brake::{Bound, Trust};
use super::brake_tests::{GUARD, MIB, OTHER, brake, in_flight, park, slot};
use super::test_support::{Woken, bound};
use super::{KnownJumps, Running, Slot};
use crate::class::tag::{ClassKey, Tag};

#[test]
fn who_holds_all_that_it_needs_does_not_wait_for_as_much_again() {
    const LARGE: u64 = 256 << 20;
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    // Not to be excluded where a mistake would be the end.
    (0..2).for_each(|_| slot.grew(LARGE, false, Duration::ZERO));
    slot.charge(LARGE as i64, 1);
    slot.expect(LARGE as f64 + 1024.0);
    running.jump_bytes(slot);
    park(brake, slot, GUARD);
    let endings = Trust {
        endings: true,
        ..Trust::default()
    };
    assert!(!brake.force_first(LARGE - 1, endings, Duration::ZERO));
    slot.expect(LARGE as f64);
    assert!(!brake.force_first(LARGE - 1, Trust::default(), Duration::ZERO));
    assert!(brake.force_first(LARGE - 1, endings, Duration::ZERO));
}

#[test]
fn who_adds_nothing_any_more_is_not_paused() {
    let brake = brake();
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.charge(16 * MIB, 1);
    slot.grew(16 << 20, false, Duration::ZERO);
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
        brake.sweep(-20 * MIB, None, false, Duration::ZERO);
        brake.take(slot, GUARD, running.jump_bytes(slot)).is_some()
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
    slot.grew(LARGE, false, Duration::ZERO);
    // Nobody has seen what follows.
    assert_eq!(running.jump_bytes(slot), LARGE);
    known.later = Some(2.0 * MIB as f64);
    running.set_jump(Tag::NONE.key, known, 1.0, None);
    assert_eq!(running.jump_bytes(slot), 2 << 20);
    // Until it does.
    slot.grew(16 << 20, false, Duration::ZERO);
    assert_eq!(running.jump_bytes(slot), 18 << 20);
}

#[test]
fn who_is_about_to_end_is_expected_to_add_what_others_did_then() {
    let brake = brake();
    brake.publish(GUARD, bound(0, MIB));
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1 << 10, Tag::NONE, Duration::ZERO).unwrap();
    slot.grew(10 << 20, false, Duration::ZERO);
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
    brake.sweep(100 * MIB, None, false, Duration::ZERO);
    // While it grows that says nothing.
    assert_eq!(running.jump_bytes(slot), 10 << 20);
    one.runner.settled = true;
    brake.tell(GUARD, vec![one]);
    brake.sweep(0, None, false, Duration::ZERO);
    let taken = brake.take(slot, GUARD, running.jump_bytes(slot));
    assert!(taken.is_some(), "{}", running.jump_bytes(slot));
    // Until it adds more then itself.
    slot.grew(3 << 20, true, Duration::ZERO);
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
        brake.sweep(room_mib * MIB, None, false, Duration::ZERO);
        brake
            .take(newcomer, GUARD, running.jump_bytes(newcomer))
            .is_some()
    };
    // Beside what the first is expected to add: two.
    assert!(!taken(281));
    assert!(taken(282));
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
    assert!(brake.take(slot, GUARD, jump_bytes).is_none());
    let woken = Woken::new();
    brake.park(
        None,
        slot,
        GUARD,
        &Arc::clone(&woken).into(),
        Duration::ZERO,
    );
    brake.sweep(400 * MIB, None, false, Duration::ZERO);
    assert_eq!(woken.count(), 0);
    assert!(brake.take(slot, GUARD, 210 << 20).is_some());
    // Of smaller ones the next sample says whether it was.
    let small: Vec<_> = (0..17)
        .map_while(|_| brake.take(slot, GUARD, 25 << 20))
        .collect();
    assert_eq!(small.len(), 16);
    drop(small);
    // It was given back.
    brake.publish(GUARD, bound(0, 400 * MIB));
    brake.sweep(400 * MIB, None, false, Duration::ZERO);
    assert_eq!(woken.count(), 1);
    assert!(brake.take(slot, GUARD, jump_bytes).is_some());
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
    let take = |index: usize| brake.take(slots[index], GUARD, running.jump_bytes(slots[index]));
    brake.publish(GUARD, bound(0, 480 * MIB));
    brake.sweep(480 * MIB, None, false, Duration::ZERO);
    let first = take(0);
    assert!(first.is_some());
    assert!(take(1).is_none());
    // Nor are they woken together.
    park(brake, slots[1], GUARD);
    let place = park(brake, slots[2], GUARD);
    brake.sweep(480 * MIB, None, false, Duration::ZERO);
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
        brake.sweep(400 * MIB, None, false, Duration::ZERO);
    };
    let (newcomer, shown) = (slot(1), slot(1));
    shown.grew(1 << 20, false, Duration::ZERO);
    let takes = |slot: &Slot| brake.take(slot, GUARD, 1 << 20).is_some();
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
    // Another guard's kinds are others, whatever their numbers are.
    assert!(brake.take(other, OTHER, 1 << 20).is_some());
    with(0);
    assert!(takes(other));
}

#[test]
fn a_pause_and_the_time_with_the_brake_off_are_no_gaps_between_polls() {
    let ms = Duration::from_millis;
    let brake = brake();
    let slot = slot(4);
    let waker = std::task::Waker::noop();
    let polled = |at, since| {
        slot.polled(ms(at), ms(since));
        slot.grew(1 << 20, false, ms(since));
    };
    polled(10, 0);
    polled(30, 0);
    // It finds no room at first, nor when it is woken.
    slot.polled(ms(40), ms(0));
    let place = brake.park(None, slot, GUARD, waker, ms(40));
    slot.polled(ms(900), ms(0));
    brake.park(Some(place), slot, GUARD, waker, ms(900));
    brake.unpark(place, ms(5_000));
    polled(5_000, 0);
    polled(5_010, 0);
    assert_eq!(slot.seen_gap_ms(), Some(20));
    assert_eq!(slot.gets_on(ms(5_070), ms(0)), (false, false));
    // Off from then on, and on again.
    polled(65_000, 64_000);
    assert_eq!(slot.seen_gap_ms(), Some(20));
    assert_eq!(slot.gets_on(ms(65_060), ms(64_000)), (false, false));
}

#[test]
fn idle_is_who_is_not_polled_while_that_is_seen() {
    let second = Duration::from_secs(1);
    let slot = slot(4);
    slot.polled(second, Duration::ZERO);
    assert_eq!(slot.gets_on(10 * second, Duration::ZERO), (false, true));
    // Polled or not: with the brake off nobody saw it.
    let since = 10 * second - Duration::from_millis(20);
    assert_eq!(slot.gets_on(10 * second, since), (true, false));
    // A poll that lasts, and who is paused.
    slot.begin_poll();
    assert_eq!(slot.gets_on(20 * second, since), (false, false));
    slot.end_poll();
    assert_eq!(slot.gets_on(20 * second, since), (false, true));
    park(brake(), slot, GUARD);
    assert_eq!(slot.gets_on(20 * second, since), (true, false));
}

#[test]
fn the_brake_is_on_since_the_first_guard_wanted_it() {
    let second = Duration::from_secs(1);
    let brake = brake();
    assert_eq!(brake.on_since(7 * second), 7 * second);
    brake.set_on(GUARD, Some(second));
    brake.set_on(OTHER, Some(2 * second));
    brake.set_on(GUARD, None);
    assert_eq!(brake.on_since(7 * second), second);
    brake.set_on(OTHER, None);
    assert_eq!(brake.on_since(7 * second), 7 * second);
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
    slot.grew(1 << 20, false, Duration::ZERO);
    assert_eq!(slot.seen_gap_ms(), Some(0));
}
