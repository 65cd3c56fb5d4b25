//! Every interleaving of a few threads, under loom.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::thread;

use super::*;
use crate::units::MAX_KIB;

const TERMS: Terms = Terms {
    most_waiting: 8,
    deadline: Duration::from_secs(10),
};

const ASK: Ask = Ask {
    kib: 10,
    low_kib: 10,
    tag: Tag::NONE,
};

/// What a regulator does after a sample.
fn publish(limiter: &Limiter, bounds: &Bounds, caps: Caps, refresh_kib: u64, free_kib: u64) {
    bounds.publish(caps, refresh_kib, free_kib);
    limiter.pump();
}

/// Room for one request at a time.
fn room_for_one() -> (Arc<Limiter>, Arc<Bounds>) {
    let limiter = Arc::new(Limiter::new());
    let bounds = limiter.join(Arc::default());
    publish(&limiter, &bounds, Caps::new(false, 1, 10), MAX_KIB, 0);
    (limiter, bounds)
}

fn poll(ticket: &mut Ticket) -> Poll<Result<u64, Reason>> {
    ticket.poll(&mut Context::from_waker(Waker::noop()))
}

fn assert_empty(limiter: &Limiter) {
    let reserved = limiter.reserved();
    assert_eq!(
        (reserved.count(), reserved.kib(), reserved.has_waiters()),
        (0, 0, false)
    );
    assert_eq!(limiter.waiting(), 0);
}

#[test]
fn a_release_is_never_lost_to_somebody_who_begins_to_wait() {
    loom::model(|| {
        let (limiter, bounds) = room_for_one();
        limiter
            .try_reserve(&bounds, ASK, Operation::Newcomer, Attempt::First)
            .unwrap();
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || limiter.cancel(&bounds, ASK.kib, Tag::NONE))
        };
        let mut ticket = Ticket::join(&limiter, &bounds, Need::Known(ASK), TERMS).unwrap();
        other.join().unwrap();
        assert_eq!(poll(&mut ticket), Poll::Ready(Ok(10)));
        limiter.cancel(&bounds, ASK.kib, Tag::NONE);
        drop(ticket);
        assert_empty(&limiter);
    });
}

#[test]
fn two_newcomers_never_both_get_the_last_place() {
    loom::model(|| {
        let (limiter, bounds) = room_for_one();
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || {
                limiter
                    .try_reserve(&bounds, ASK, Operation::Newcomer, Attempt::First)
                    .is_ok()
            })
        };
        let here = limiter
            .try_reserve(&bounds, ASK, Operation::Newcomer, Attempt::First)
            .is_ok();
        let there = other.join().unwrap();
        assert!(here ^ there, "exactly one gets it");
        limiter.cancel(&bounds, ASK.kib, Tag::NONE);
        assert_empty(&limiter);
    });
}

#[test]
fn a_grant_that_races_with_giving_up_goes_to_the_next() {
    loom::model(|| {
        let (limiter, bounds) = room_for_one();
        limiter
            .try_reserve(&bounds, ASK, Operation::Newcomer, Attempt::First)
            .unwrap();
        let first = Ticket::join(&limiter, &bounds, Need::Known(ASK), TERMS).unwrap();
        let mut second = Ticket::join(&limiter, &bounds, Need::Known(ASK), TERMS).unwrap();
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || limiter.cancel(&bounds, ASK.kib, Tag::NONE))
        };
        drop(first);
        other.join().unwrap();
        assert_eq!(poll(&mut second), Poll::Ready(Ok(10)));
        limiter.cancel(&bounds, ASK.kib, Tag::NONE);
        drop(second);
        assert_empty(&limiter);
    });
}

#[test]
fn bounds_that_widen_reach_somebody_who_begins_to_wait() {
    loom::model(|| {
        let limiter = Arc::new(Limiter::new());
        let bounds = limiter.join(Arc::default());
        publish(&limiter, &bounds, Caps::new(false, 1, 0), MAX_KIB, 0);
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || {
                publish(&limiter, &bounds, Caps::new(false, 1, 10), MAX_KIB, 0);
            })
        };
        let mut ticket = Ticket::join(&limiter, &bounds, Need::Known(ASK), TERMS).unwrap();
        other.join().unwrap();
        assert_eq!(poll(&mut ticket), Poll::Ready(Ok(10)));
        limiter.cancel(&bounds, ASK.kib, Tag::NONE);
        drop(ticket);
        assert_empty(&limiter);
    });
}

#[test]
fn a_count_that_was_raised_for_a_moment_keeps_nobody_waiting() {
    loom::model(|| {
        let limiter = Arc::new(Limiter::new());
        let _first = limiter.join(Arc::default());
        // Its count is its own.
        let bounds = limiter.join(Arc::default());
        publish(&limiter, &bounds, Caps::new(false, 1, 10), MAX_KIB, 0);
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || {
                let large = Ask { kib: 11, ..ASK };
                assert!(
                    limiter
                        .try_reserve(&bounds, large, Operation::Newcomer, Attempt::First)
                        .is_err()
                );
            })
        };
        let mut ticket = Ticket::join(&limiter, &bounds, Need::Known(ASK), TERMS).unwrap();
        other.join().unwrap();
        assert_eq!(poll(&mut ticket), Poll::Ready(Ok(10)));
        limiter.cancel(&bounds, ASK.kib, Tag::NONE);
        drop(ticket);
        assert_empty(&limiter);
    });
}

#[test]
fn a_quota_that_was_used_for_a_moment_keeps_nobody_waiting() {
    loom::model(|| {
        let limiter = Arc::new(Limiter::new());
        let bounds = limiter.join(Arc::default());
        publish(&limiter, &bounds, Caps::new(false, 9, 10), MAX_KIB, 0);
        bounds.tenants.make(1).entitle(Quota {
            max_in_flight: 1,
            ..Quota::default()
        });
        let tag = Tag {
            tenant: 1,
            ..Tag::NONE
        };
        let ask = Ask { tag, ..ASK };
        let other = {
            let (limiter, bounds) = (Arc::clone(&limiter), Arc::clone(&bounds));
            thread::spawn(move || {
                let large = Ask { kib: 11, ..ask };
                assert!(
                    limiter
                        .try_reserve(&bounds, large, Operation::Newcomer, Attempt::First)
                        .is_err()
                );
            })
        };
        let mut ticket = Ticket::join(&limiter, &bounds, Need::Known(ask), TERMS).unwrap();
        other.join().unwrap();
        assert_eq!(poll(&mut ticket), Poll::Ready(Ok(10)));
        limiter.cancel(&bounds, ask.kib, tag);
        drop(ticket);
        assert_empty(&limiter);
    });
}

#[test]
fn of_two_guards_whose_work_begins_at_once_one_gets_the_sampler_up() {
    loom::model(|| {
        let limiter = Arc::new(Limiter::new());
        let guards = [limiter.join(Arc::default()), limiter.join(Arc::default())];
        for bounds in &guards {
            bounds.publish(Caps::new(false, 1, 100), MAX_KIB, 0);
        }
        let [first, second] = guards;
        let other = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || {
                limiter.try_reserve(&second, ASK, Operation::Newcomer, Attempt::First)
            })
        };
        let here = limiter
            .try_reserve(&first, ASK, Operation::Newcomer, Attempt::First)
            .unwrap();
        let there = other.join().unwrap().unwrap();
        assert!(here || there);
    });
}
