//! Several guards on one ledger.

use std::task::Poll;

use super::tests::{Waiter, admit, ask, limiter, nest, publish};
use super::word::InUse;
use super::*;
use crate::units::MAX_KIB;

#[test]
fn guards_on_one_ledger_share_bytes_and_have_counts_of_their_own() {
    let (limiter, first) = limiter(2, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 1, 100), MAX_KIB, 0);
    admit(&limiter, &first, 40).unwrap();
    admit(&limiter, &second, 40).unwrap();
    assert_eq!(
        (limiter.in_flight(&first), limiter.in_flight(&second)),
        (1, 1)
    );
    // One guard's full count does not hold up the other's waiters.
    let mut held_up = Waiter::join(&limiter, &second, 10);
    let mut other = Waiter::join(&limiter, &first, 10);
    assert_eq!(held_up.poll(), Poll::Pending);
    assert_eq!(other.poll(), Poll::Ready(Ok(10)));
    limiter.cancel(&second, 40, Tag::NONE);
    assert_eq!(held_up.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn what_another_guard_admitted_does_not_wait_behind_those_who_wait_for_its_bytes() {
    let (limiter, outer) = limiter(10, 100);
    let inner = limiter.join(Arc::default());
    publish(&limiter, &inner, Caps::new(false, 1, 100), MAX_KIB, 0);
    admit(&limiter, &outer, 80).unwrap();
    let mut waiting = Waiter::join(&limiter, &outer, 80);
    assert_eq!(waiting.poll(), Poll::Pending);
    // The first request reaches the inner guard while another waits.
    assert!(nest(&limiter, &inner).is_ok());
    assert_eq!(limiter.all_in_flight(), 1);
    // And the next, which has its bytes too, waits for the count alone.
    assert_eq!(nest(&limiter, &inner), Err(Refused::Count));
    let mut nested = Waiter::with(&limiter, &inner, Need::Nested(Tag::NONE));
    assert_eq!(nested.poll(), Poll::Pending);
    limiter.end_nested(&inner, Tag::NONE);
    assert_eq!(nested.poll(), Poll::Ready(Ok(0)));
}

#[test]
fn what_can_never_fit_now_does_not_hold_up_an_idle_service() {
    let (limiter, bounds) = limiter(10, 100);
    let mut large = Waiter::join(&limiter, &bounds, 150);
    assert_eq!(large.poll(), Poll::Pending);
    let mut small = Waiter::join(&limiter, &bounds, 10);
    assert_eq!(small.poll(), Poll::Ready(Ok(10)));
    assert_eq!(large.poll(), Poll::Pending);
}

#[test]
fn what_can_never_fit_now_has_nobody_run_one_at_a_time() {
    let (limiter, bounds) = limiter(10, 100);
    let mut large = Waiter::join(&limiter, &bounds, 150);
    for free_kib in [70, 40, 10] {
        let mut small = Waiter::join(&limiter, &bounds, 30);
        assert_eq!(small.poll(), Poll::Ready(Ok(30)));
        let caps = Caps::new(false, 10, 100);
        publish(&limiter, &bounds, caps, MAX_KIB, free_kib);
    }
    // Once they have ended there is room for the next large one.
    let mut fits = Waiter::join(&limiter, &bounds, 100);
    let mut behind = Waiter::join(&limiter, &bounds, 10);
    let waiting = [&mut large, &mut fits, &mut behind].map(|waiter| waiter.poll());
    assert_eq!(waiting, [Poll::Pending; 3], "nobody passes that one");
}

#[test]
fn waiters_of_one_guard_do_not_make_another_full() {
    let (limiter, first) = limiter(1, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 5, 100), MAX_KIB, 0);
    admit(&limiter, &first, 10).unwrap();
    let mut held_up = Waiter::join(&limiter, &first, 10);
    assert_eq!(admit(&limiter, &second, 10), Err(Refused::Waiters));
    // Even where nobody may wait.
    second.set_most_waiting(0);
    let reserved = limiter.reserve_in_turn(&second, Need::Known(ask(10)));
    assert_eq!(reserved, Some(10));
    assert_eq!(held_up.poll(), Poll::Pending);
}

#[test]
fn closing_answers_every_waiter_of_one_guard() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let mut waiters: Vec<_> = (0..3)
        .map(|_| Waiter::join(&limiter, &bounds, 10))
        .collect();
    limiter.refuse_all(&bounds, Reason::Closed);
    for waiter in &mut waiters {
        assert!(waiter.is_woken());
        assert_eq!(waiter.poll(), Poll::Ready(Err(Reason::Closed)));
    }
    limiter.cancel(&bounds, 10, Tag::NONE);
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
}

#[test]
fn a_guard_that_was_closed_does_not_count_the_requests_of_the_next() {
    let (limiter, closed) = limiter(9, 100);
    limiter.leave();
    let next = limiter.join(Arc::default());
    admit(&limiter, &next, 10).unwrap();
    assert_eq!(
        (limiter.in_flight(&closed), limiter.in_flight(&next)),
        (0, 1)
    );
    // Once nobody has it any more, another one may have its place.
    limiter.retire(&closed);
    assert!(limiter.join_again(&closed));
}

#[test]
fn whoever_begins_finds_that_nothing_was_in_flight_in_each_guard_of_a_ledger() {
    let (limiter, first) = limiter(9, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 9, 100), MAX_KIB, 0);
    for bounds in [&first, &second] {
        // It is what gets the sampler up.
        assert_eq!(admit(&limiter, bounds, 10), Ok(true));
        for next in [&first, &second] {
            assert_eq!(admit(&limiter, next, 10), Ok(false));
            limiter.cancel(next, 10, Tag::NONE);
        }
        limiter.cancel(bounds, 10, Tag::NONE);
    }
}

#[test]
fn who_waits_for_a_count_alone_is_not_before_those_who_wait_for_bytes() {
    let (limiter, outer) = limiter(10, 100);
    let inner = limiter.join(Arc::default());
    publish(&limiter, &inner, Caps::new(false, 1, 100), MAX_KIB, 0);
    admit(&limiter, &outer, 100).unwrap();
    nest(&limiter, &inner).unwrap();
    let mut nested = Waiter::with(&limiter, &inner, Need::Nested(Tag::NONE));
    assert!(limiter.next_ask(&inner).is_none());
    let mut direct = Waiter::join(&limiter, &inner, 10);
    assert_eq!(limiter.next_ask(&inner).unwrap().kib, 10);
    // A probe is for bytes.
    assert!(limiter.probe_oldest(&inner, Some(10)));
    assert_eq!(nested.poll(), Poll::Pending);
    assert_eq!(direct.poll(), Poll::Ready(Ok(10)));
}
