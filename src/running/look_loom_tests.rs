//! A request that ends while somebody looks at it, under loom.

use std::time::Duration;

use loom::thread;

use super::bins::BINS;
use super::loom_tests::MIB;
use super::{Fact, Running};
use crate::class::tag::Tag;

#[test]
fn who_was_told_to_stop_in_time_is_seen_to_be_cut_short() {
    loom::model(|| {
        let running: &Running = Box::leak(Box::default());
        let slot = running.take(4096, Tag::NONE, Duration::ZERO).unwrap();
        slot.charge(5 * MIB, 1);
        let request = slot.request();
        let other = thread::spawn(move || request.cancel());
        running.end(slot);
        let was_told = other.join().unwrap();
        let counted = running.finished(Tag::NONE.key, &mut [0; BINS]);
        assert_eq!(counted, !was_told);
        assert!(!slot.is_cancelled(), "by what was said of the one before");
    });
}

#[test]
fn who_ends_while_a_look_comes_by_is_noted_once() {
    loom::model(|| {
        let running: &Running = Box::leak(Box::default());
        let slot = running.take(4096, Tag::NONE, Duration::ZERO).unwrap();
        slot.charge(5 * MIB, 1);
        let generation = slot.generation();
        let other = thread::spawn(move || running.end(slot));
        let mut noted = 0;
        let mut look = || running.look(|look| noted += u32::from(look.life.has_ended()));
        look();
        other.join().unwrap();
        look();
        look();
        let counted = running.finished(Tag::NONE.key, &mut [0; BINS]);
        assert_eq!(noted + u32::from(counted), 1);
        assert_eq!(slot.generation(), generation + 1);
    });
}

#[test]
fn what_is_said_while_a_look_comes_by_is_not_lost() {
    loom::model(|| {
        let running: &Running = Box::leak(Box::default());
        let slot = running.take(4096, Tag::NONE, Duration::ZERO).unwrap();
        let other = thread::spawn(move || slot.say(Fact::Staged));
        running.look(|_| {});
        other.join().unwrap();
        let mut found = Vec::new();
        running.look(|look| found.push((look.life.is_new(), look.life.is(Fact::Staged))));
        assert_eq!(found, [(false, true)]);
    });
}
