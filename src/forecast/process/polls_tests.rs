use super::*;
use crate::running::brake::Brake;
use crate::running::{Fact, Running};

const MIB: u64 = 1 << 20;

/// What the next request is taken to need after a dozen pairs of them that came to hold
/// so much each, of which their polls showed so much, while so many others waited.
fn expected_mib(each_mib: u64, in_polls_mib: u64, waiting: u32) -> u64 {
    let mut forecast = Forecast::new(200 * MIB, 0.001, false);
    forecast.brakes = true;
    forecast.set_slack(0, 512 * MIB);
    let running: &'static Running = Box::leak(Box::default());
    let mut now = Duration::ZERO;
    let mut sample = |in_flight: u32, held_mib: u64, completed: u64| {
        now += Duration::from_millis(200);
        forecast.look(running, now);
        let waiting = if in_flight > 0 { waiting } else { 0 };
        let held_mib = held_mib + u64::from(waiting) * 30 / 1024;
        forecast.observe(Evidence {
            now,
            usage_bytes: (20 + held_mib) * MIB,
            process_bytes: (20 + held_mib) * MIB,
            allocated_bytes: Some((10 + held_mib) * MIB),
            own_in_flight: in_flight,
            all_in_flight: in_flight,
            waiting,
            completed,
            ..Evidence::default()
        });
        forecast.of_unknown_kind().0 / MIB
    };
    sample(0, 0, 0);
    let mut expected_mib = 0;
    for round in 0..12 {
        let tag = crate::class::tag::Tag::NONE;
        let pair = [(); 2].map(|()| running.take(200 << 10, tag, Duration::ZERO).unwrap());
        pair.iter()
            .for_each(|slot| slot.polled(Duration::from_millis(1), Duration::ZERO));
        sample(2, 0, round * 2);
        for step in 1..=4 {
            pair.iter()
                .for_each(|slot| slot.charge((in_polls_mib * MIB) as i64 / 4, 1));
            sample(2, each_mib * step / 2, round * 2);
        }
        expected_mib = sample(2, each_mib * 2, round * 2);
        pair.iter().for_each(|slot| running.end(slot));
        sample(0, 0, round * 2 + 2);
    }
    expected_mib
}

/// Whether two seem to hold what polls do not show, that have come to 48 MiB each as those
/// before them. Their polls have told 1 MiB, or only touched that.
fn seem_hidden(untold: bool) -> bool {
    let mut forecast = Forecast::new(200 * MIB, 0.001, false);
    forecast.brakes = true;
    forecast.set_slack(0, 512 * MIB);
    let running: &'static Running = Box::leak(Box::default());
    let mut now = Duration::ZERO;
    let mut sample = |in_flight: u32, held_mib: u64| {
        now += Duration::from_millis(200);
        forecast.look(running, now);
        forecast.observe(Evidence {
            now,
            usage_bytes: (20 + held_mib) * MIB,
            process_bytes: (20 + held_mib) * MIB,
            allocated_bytes: Some((10 + held_mib) * MIB),
            own_in_flight: in_flight,
            all_in_flight: in_flight,
            ..Evidence::default()
        });
        !forecast.all_is_seen()
    };
    sample(0, 0);
    let begin = |mib: i64| {
        let slot = running.take(200 << 10, crate::class::tag::Tag::NONE, Duration::ZERO);
        let slot = slot.unwrap();
        slot.polled(Duration::from_millis(1), Duration::ZERO);
        slot.charge(mib << 20, 1);
        slot
    };
    for _ in 0..12 {
        let told = begin(48);
        sample(1, 48);
        running.end(told);
        sample(0, 0);
    }
    for _ in 0..2 {
        let slot = begin(1);
        if untold {
            slot.say(Fact::Untold);
        }
    }
    sample(2, 96)
}

#[test]
fn who_lives_in_what_others_left_behind_hides_nothing() {
    assert!(seem_hidden(false));
    assert!(!seem_hidden(true));
}

#[test]
fn what_polls_do_not_show_is_learned_from_usage() {
    let by_polls = expected_mib(48, 48, 0);
    assert!((40..60).contains(&by_polls), "{by_polls}");
    // On a thread that may block, say.
    let elsewhere = expected_mib(48, 0, 0);
    assert!((45..80).contains(&elsewhere), "{elsewhere}");
    // What connections of those that wait take is not such.
    let beside_waiters = expected_mib(2, 2, 1024);
    assert!((1..10).contains(&beside_waiters), "{beside_waiters}");
}

#[test]
fn a_poll_outgrows_what_is_known_until_it_stands_still_and_then_that_is_known() {
    let mut forecast = Forecast::new(48 * MIB, 0.001, true);
    forecast.brakes = true;
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let take = || running.take(48 << 10, tag, Duration::ZERO).unwrap();
    let slot = take();
    slot.polls_from(0);
    let mut at = |ms: u64, added_mib: i64| {
        slot.charge(added_mib << 20, 1);
        forecast.look(running, Duration::from_millis(ms));
        forecast.outgrown_bytes() / MIB
    };
    assert_eq!(at(10, 40), 0);
    assert_eq!(at(20, 20), 60);
    assert_eq!(at(25, 10), 70);
    // It computes with that.
    assert_eq!(at(80, 0), 0);
    assert_eq!(running.jump_bytes(take()) / MIB, 70);
    assert_eq!(at(90, 40), 110);
    slot.polls_no_more_from(0);
    assert_eq!(at(95, 0), 0);
}

#[test]
fn what_a_poll_has_added_counts_beside_the_hint() {
    let mut forecast = Forecast::new(48 * MIB, 0.001, true);
    forecast.brakes = true;
    let running: &'static Running = Box::leak(Box::default());
    let hinted = |mib: u32| crate::class::tag::Tag {
        hint_kib: std::num::NonZeroU32::new(mib << 10),
        ..crate::class::tag::Tag::NONE
    };
    let take =
        |mib: u32| (running.take(u64::from(mib) << 10, hinted(mib), Duration::ZERO)).unwrap();
    let large = take(100);
    assert!(running.saw_jump(large, 100 * MIB));
    // One of a tenth of that is expected to add a tenth.
    assert_eq!(running.jump_bytes(take(10)) / MIB, 10);
    forecast.look(running, Duration::from_millis(10));
    assert_eq!(running.records().count(), 0);
    let first_mib = |mib: u32| running.jump_bytes(take(mib)) / MIB;
    // Of few, more is feared than was seen, in proportion.
    assert_eq!(first_mib(200), 20 * first_mib(10));
    assert!(!running.saw_jump(take(10), first_mib(10) * MIB));
    assert!(running.saw_jump(take(10), (first_mib(10) + 1) * MIB));
}

#[test]
fn those_that_began_with_the_brake_off_may_each_need_as_much_as_any() {
    let mut forecast = Forecast::new(200 * MIB, 0.001, false);
    forecast.brakes = true;
    forecast.set_slack(0, 512 * MIB);
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let mut now = Duration::ZERO;
    let mut sample = |forecast: &mut Forecast, in_flight: u32, held_mib: u64| {
        now += Duration::from_millis(100);
        forecast.look(running, now);
        forecast.observe(Evidence {
            now,
            usage_bytes: (20 + held_mib) * MIB,
            own_in_flight: in_flight,
            all_in_flight: in_flight,
            ..Evidence::default()
        });
    };
    sample(&mut forecast, 0, 0);
    // So many that the configured estimate is no bound any more.
    for _ in 0..64 {
        let slot = running.take(200 << 10, tag, Duration::ZERO).unwrap();
        slot.polled(Duration::from_millis(1), Duration::ZERO);
        slot.charge(40 << 20, 1);
        sample(&mut forecast, 1, 40);
        running.end(slot);
    }
    sample(&mut forecast, 0, 0);
    let most_mib = |forecast: &Forecast| forecast.most_growth_bytes(60 * MIB) / (1 << 20);
    assert_eq!(most_mib(&forecast), 60);
    // Of those no poll was seen.
    sample(&mut forecast, 8, 0);
    let most = most_mib(&forecast);
    assert!((320..400).contains(&most), "{most}");
    // What usage shows is no more to come.
    sample(&mut forecast, 8, 300);
    let rest = most_mib(&forecast);
    assert!((20..100).contains(&rest), "{rest}");
}

#[test]
fn who_began_before_the_brake_came_on_again_has_no_turn_of_the_time_before() {
    const GUARD: usize = 1;
    let at = Duration::from_millis;
    let mut forecast = Forecast::new(200 * MIB, 0.001, false);
    forecast.brakes = true;
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let [_, second] = [1, 2].map(|ms| {
        let slot = running.take(200 << 10, tag, at(ms)).unwrap();
        slot.polled(at(ms), at(0));
        slot.charge(5 << 20, 1);
        slot
    });
    let brake: &Brake = Box::leak(Box::default());
    let mut is_held = |on_since, now, room_bytes| {
        forecast.look_since(on_since, running, now);
        brake.tell(GUARD, forecast.take_runners());
        brake.sweep(room_bytes, None, false, now);
        brake.is_held(second, GUARD)
    };
    assert!(is_held(at(0), at(10), -(1 << 20)));
    // It went off and came on again.
    assert!(!is_held(at(1000), at(1000), 400 << 20));
}

/// What the next is taken to need after so many that came to hold so many KiB by what polls
/// showed, and whether all of these were told; each stands still for a moment before it ends.
fn next_mib_after(rounds: &[(usize, i64, bool)]) -> f64 {
    next_mib_after_standing(Duration::ZERO, rounds)
}

fn next_mib_after_standing(still: Duration, rounds: &[(usize, i64, bool)]) -> f64 {
    let mut book = Book::new(200 * MIB, 0.001).of_polls();
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let mut now = Duration::ZERO;
    for &(requests, kib, told) in rounds {
        for _ in 0..requests {
            let slot = running.take(200 << 10, tag, now).unwrap();
            for _ in 0..4 {
                slot.polled(now, Duration::ZERO);
                slot.charge(kib << 8, 1);
                if !told {
                    slot.say(Fact::Untold);
                }
                now += Duration::from_millis(10);
                book.look(running, now);
            }
            now += still;
            book.look(running, now);
            running.end(slot);
            book.look(running, now);
        }
    }
    book.next_bytes() / MIB as f64
}

#[test]
fn who_is_not_told_in_full_is_not_taken_to_need_nothing() {
    let told = next_mib_after(&[(96, 16 << 10, true)]);
    assert!((15.0..20.0).contains(&told), "{told}");
    // They live in what others left behind, and no allocator tells.
    let untold = next_mib_after(&[(96, 16 << 10, true), (64, 8, false)]);
    assert!((12.0..24.0).contains(&untold), "{untold}");
    // That they are smaller is seen once some are told.
    let smaller = next_mib_after(&[(96, 16 << 10, true), (64, 4 << 10, true)]);
    assert!((3.0..6.0).contains(&smaller), "{smaller}");
}

#[test]
fn who_is_not_told_in_full_and_stands_still_is_not_taken_to_need_nothing() {
    let still = Duration::from_secs(3);
    let untold = next_mib_after_standing(still, &[(96, 16 << 10, true), (64, 8, false)]);
    assert!((12.0..24.0).contains(&untold), "{untold}");
}

#[test]
fn where_nobody_is_told_in_full_what_is_seen_counts() {
    let untold = next_mib_after(&[(96, 16 << 10, false)]);
    assert!((15.0..20.0).contains(&untold), "{untold}");
}

#[test]
fn what_came_to_be_allocated_while_nobody_looked_is_no_requests() {
    let mut forecast = Forecast::new(200 * MIB, 0.001, false);
    forecast.brakes = true;
    forecast.set_slack(0, 512 * MIB);
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let mut sample = |ms, in_flight: u32, allocated_mib: Option<u64>| {
        let now = Duration::from_millis(ms);
        forecast.look(running, now);
        forecast.observe(Evidence {
            now,
            usage_bytes: 300 * MIB,
            allocated_bytes: allocated_mib.map(|mib| mib * MIB),
            seen_since: Duration::from_millis(ms.min(60_000)),
            own_in_flight: in_flight,
            all_in_flight: in_flight,
            ..Evidence::default()
        });
        forecast.reuse
    };
    sample(0, 0, Some(30));
    // The brake is off, and a cache grows.
    sample(1_000, 0, None);
    let slot = running
        .take(200 << 10, tag, Duration::from_secs(60))
        .unwrap();
    slot.polled(Duration::from_secs(60), Duration::ZERO);
    slot.charge(40 * MIB as i64, 1);
    for step in 0..100 {
        let reuse = sample(60_000 + step * 10, 1, Some(270));
        assert!(reuse < 1.1, "{reuse} after {step}");
    }
}

#[test]
fn a_stream_that_nobody_knows_does_not_get_on_for_as_long_as_it_lasts() {
    let mut book = Book::new(200 * MIB, 0.001);
    let running: &'static Running = Box::leak(Box::default());
    let tag = crate::class::tag::Tag::NONE;
    let slot = running.take(1 << 10, tag, Duration::ZERO).unwrap();
    slot.say(Fact::Declared);
    let mut now = Duration::ZERO;
    let mut gets_on = |polls: u32, kept_kib: i64| {
        for _ in 0..polls {
            now += Duration::from_millis(100);
            slot.polled(now, Duration::ZERO);
            slot.grew(64 << 10, false, Duration::ZERO);
            slot.charge(64 << 10, 1);
            // A frame that was sent is no poll's.
            slot.request().take_off((64 - kept_kib as usize) << 10);
        }
        book.look(running, now);
        book.sums.unknown_get_on
    };
    assert!(!gets_on(0, 0), "nobody polls it");
    let at_first = [(); 10].map(|()| gets_on(1, 0));
    assert_eq!(at_first, [true; 10]);
    assert!(!(0..40).fold(true, |_, _| gets_on(1, 0)), "it is a stream");
    assert!(gets_on(2, 64), "it holds more than before");
    let brake: &Brake = Box::leak(Box::default());
    brake.park(
        None,
        slot,
        1,
        std::task::Waker::noop(),
        Duration::from_secs(6),
    );
    assert!(!gets_on(1, 64));
}
