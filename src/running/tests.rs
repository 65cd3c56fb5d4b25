use crate::class::tag::Tag;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::bins::{self, BINS};
use super::{Fact, Running};

fn looks(running: &Running) -> Vec<(u64, bool, bool)> {
    let mut found = Vec::new();
    running.look(|look| {
        found.push((
            look.held.peak_bytes,
            look.life.is_new(),
            look.life.has_ended(),
        ))
    });
    found
}

#[test]
fn slots_are_used_again_and_as_many_as_are_needed() {
    let running = Running::default();
    let taken: Vec<_> = (0..10_000)
        .map(|_| running.take(1, Tag::NONE, Duration::ZERO).unwrap())
        .collect();
    assert_eq!(looks(&running).len(), 10_000);
    taken.iter().for_each(|slot| running.end(slot));
    assert_eq!(looks(&running).len(), 10_000);
    assert_eq!(looks(&running).len(), 0);
    for _ in 0..100_000 {
        running.end(running.take(1, Tag::NONE, Duration::ZERO).unwrap());
    }
    let chunks = running.shards.all().flat_map(|(_, shard)| shard.chunks());
    let slots: usize = chunks.map(|chunk| chunk.slots.len()).sum();
    assert!(slots < 20_000, "{slots}");
}

#[test]
fn a_request_that_no_look_found_is_counted_by_its_peak() {
    let running = Running::default();
    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
    slot.charge(5 << 20, 1);
    slot.charge(-(5 << 20), 0);
    running.end(slot);
    let mut totals = [0; BINS];
    running.finished(Tag::NONE.key, &mut totals);
    assert_eq!(totals[bins::of(5 << 20)], 1);
    assert_eq!(looks(&running), []);
}

#[test]
fn a_request_that_a_look_found_is_found_once_more_at_its_end() {
    let running = Running::default();
    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
    slot.charge(100, 1);
    assert_eq!(looks(&running), [(100, true, false)]);
    slot.charge(100, 1);
    assert_eq!(looks(&running), [(200, false, false)]);
    running.end(slot);
    assert_eq!(looks(&running), [(200, false, true)]);
    assert_eq!(looks(&running), []);
}

#[test]
fn who_is_over_is_not_told_to_stop() {
    let running: &Running = Box::leak(Box::default());
    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
    running.look(|_| {});
    running.end(slot);
    assert!(!slot.request().cancel());
    running.look(|look| assert!(look.life.has_ended() && !look.life.was_cut_short()));
}

#[test]
fn freeing_the_memory_of_others_hides_no_peak() {
    let running = Running::default();
    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
    slot.charge(-1000, 0);
    slot.charge(300, 1);
    assert_eq!((slot.held_bytes(), slot.peak_bytes()), (300, 300));
    slot.report(50);
    assert_eq!(slot.peak_bytes(), 350);
}

#[test]
fn threads_take_and_end_slots_while_looks_go_on() {
    let running = Running::default();
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
                    slot.charge(1 << 20, 1);
                    running.end(slot);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                running.look(|look| {
                    seen.fetch_add(usize::from(look.life.has_ended()), Ordering::Relaxed);
                });
            }
        });
    });
    running.look(|look| {
        seen.fetch_add(usize::from(look.life.has_ended()), Ordering::Relaxed);
    });
    let mut totals = [0; BINS];
    running.finished(Tag::NONE.key, &mut totals);
    let counted: u32 = totals.iter().sum();
    assert_eq!(counted as usize + seen.into_inner(), 20_000);
}

/// When the milliseconds since the sampler began are more than 32 bits can count: after
/// seven weeks.
const LONG: Duration = Duration::from_millis(1 << 32);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn who_is_in_flight_after_seven_weeks_gets_on_as_before() {
    let running = Running::default();
    let slot = running.take(1, Tag::NONE, LONG - SECOND).unwrap();
    assert_eq!(slot.gets_on(LONG, Duration::ZERO), (false, false));
    assert_eq!(slot.gets_on(LONG + SECOND, Duration::ZERO), (false, true));
    slot.polled(LONG + SECOND, Duration::ZERO);
    assert_eq!(slot.gets_on(LONG + SECOND, Duration::ZERO), (true, false));
    assert_eq!(
        slot.gets_on(LONG + 4 * SECOND, Duration::ZERO),
        (false, true)
    );
}

#[test]
fn only_who_was_seen_to_come_to_no_checkpoint_is_unheld() {
    let running: &'static Running = Box::leak(Box::default());
    let slot = running.take(1, Tag::NONE, Duration::ZERO).unwrap();
    let is_unheld = || {
        let mut is_unheld = false;
        running.look(|look| is_unheld |= look.is_unheld());
        is_unheld
    };
    slot.charge(1 << 20, 1);
    let _elsewhere = slot.begin_elsewhere();
    assert!(!is_unheld(), "it may wait for its thread");
    slot.say(Fact::Unheld);
    assert!(is_unheld());
}

#[test]
fn who_begins_after_seven_weeks_stands_behind_those_before() {
    let running = Running::default();
    let [before, after] =
        [LONG - SECOND, LONG + SECOND].map(|now| running.take(1, Tag::NONE, now).unwrap());
    assert!(before.place() < after.place());
}

#[test]
fn a_pause_over_the_end_of_seven_weeks_counts_as_long_as_it_was() {
    let running: &Running = Box::leak(Box::default());
    for since in [LONG - SECOND, LONG - Duration::from_millis(1), LONG] {
        let slot = running.take(1, Tag::NONE, since).unwrap();
        slot.pause(since);
        assert_eq!(slot.paused(since + SECOND).as_secs_f64().round(), 1.0);
        // By a sample that was begun before.
        assert_eq!(slot.paused(since - SECOND), Duration::ZERO);
        let ms = slot.request().resume(since + 2 * SECOND);
        assert!((1999..=2000).contains(&ms), "{ms}");
    }
}
