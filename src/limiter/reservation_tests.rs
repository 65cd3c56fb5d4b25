//! What becomes of a reservation: it grows, is replaced, and is given back.

use std::task::Poll;

use super::tests::{Waiter, admit, ask, limiter, publish};
use super::word::InUse;
use super::*;
use crate::class::{Priority, Quota};
use crate::units::MAX_KIB;

#[test]
fn what_was_used_is_free_again_once_a_sample_shows_it() {
    let (limiter, bounds) = limiter(9, 100);
    admit(&limiter, &bounds, 80).unwrap();
    let mut waiter = Waiter::join(&limiter, &bounds, 60);
    // The allocator may keep what was freed: nobody gets it yet.
    assert!(
        limiter.complete(&bounds, 80, Tag::NONE),
        "somebody waits for a sample"
    );
    assert!(waiter.poll().is_pending());
    // Nor while the sample is taken: the bounds are still those of the one before.
    let ended_kib = limiter.ended_kib();
    publish(&limiter, &bounds, Caps::new(false, 9, 100), MAX_KIB, 0);
    assert!(waiter.poll().is_pending());
    limiter.confirm_freed(ended_kib);
    limiter.pump();
    assert!(waiter.poll().is_ready());
    // What was never used is free at once.
    limiter.cancel(&bounds, 60, Tag::NONE);
    admit(&limiter, &bounds, 90).unwrap();
}

#[test]
fn a_reservation_grows_within_the_bounds_or_by_force() {
    let (limiter, bounds) = limiter(9, 100);
    admit(&limiter, &bounds, 60).unwrap();
    let grow = |kib, tag, attempt| {
        let ask = Ask { tag, ..ask(kib) };
        limiter.try_reserve(&bounds, ask, Operation::Growth, attempt)
    };
    assert!(grow(40, Tag::NONE, Attempt::First).is_ok());
    assert!(grow(1, Tag::NONE, Attempt::First).is_err());
    assert!(grow(50, Tag::NONE, Attempt::PastBounds).is_ok());
    assert_eq!(limiter.reserved(), InUse::new(false, 1, 150));
    let tenant = bounds.tenants.make(1);
    let tag = Tag::of_tenant(1);
    assert!(grow(10, tag, Attempt::PastBounds).is_ok());
    assert_eq!(tenant.held().kib(), 10, "its tenant's, too");
    limiter.complete(&bounds, 160, Tag::NONE);
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
}

#[test]
fn a_reservation_becomes_one_for_what_it_turns_out_to_be_for() {
    let (limiter, bounds) = limiter(9, 100);
    bounds.tenants.set_limit(100);
    let tenant = bounds.tenants.make(1);
    tenant.entitle(Quota::up_to(0.9));
    let ask = |kib| Ask {
        tag: Tag::of_tenant(1),
        ..ask(kib)
    };
    let reserved = || (limiter.reserved().kib(), tenant.held().kib());
    let retag = |held_kib, ask| {
        let retagged = limiter.retag(&bounds, held_kib, ask, Attempt::First);
        retagged.is_ok()
    };
    admit(&limiter, &bounds, 60).unwrap();
    assert!(retag(60, ask(80)));
    assert_eq!(reserved(), (80, 80));
    // More than there is, and more than its tenant's.
    admit(&limiter, &bounds, 10).unwrap();
    assert!(!retag(10, ask(11)));
    limiter.cancel(&bounds, 80, ask(80).tag);
    admit(&limiter, &bounds, 10).unwrap();
    assert!(retag(10, ask(10)));
    assert!(!retag(10, ask(90)));
    assert_eq!(reserved(), (20, 10));
    // What is left over goes to who waits.
    let mut waiter = Waiter::join(&limiter, &bounds, 85);
    assert!(retag(10, ask(5)));
    assert_eq!(waiter.poll(), Poll::Ready(Ok(85)));
    assert_eq!(reserved(), (100, 15));
    // Nothing more is needed, so that less is allowed does not matter.
    publish(&limiter, &bounds, Caps::new(false, 9, 50), MAX_KIB, 0);
    let of_nobody = Ask {
        tag: Tag::NONE,
        ..ask(85)
    };
    assert!(retag(85, of_nobody));
}

#[test]
fn a_sample_is_asked_for_only_where_bytes_are_waited_for() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let _waiters = [(); 2].map(|()| Waiter::join(&limiter, &bounds, 10));
    assert!(!limiter.complete(&bounds, 10, Tag::NONE), "for the count");
    publish(&limiter, &bounds, Caps::new(false, 9, 20), MAX_KIB, 0);
    assert!(limiter.complete(&bounds, 10, Tag::NONE), "for bytes");
}

#[test]
fn where_no_work_has_begun_the_least_need_is_enough_beside_the_other_bodies() {
    let (limiter, bounds) = limiter(10, 100);
    publish(&limiter, &bounds, Caps::new(false, 10, 100), MAX_KIB, 150);
    for _ in 0..2 {
        admit(&limiter, &bounds, 40).unwrap();
        limiter.stage();
        limiter.stage_read(100);
    }
    let more = |low_kib| {
        let ask = Ask {
            low_kib,
            ..ask(200)
        };
        limiter.try_reserve(
            &bounds,
            ask,
            Operation::Rest { held_kib: 40 },
            Attempt::First,
        )
    };
    assert_eq!(more(111), Err(Refused::Bytes));
    assert_eq!(more(110), Ok(false));
    limiter.cancel(&bounds, 240, Tag::NONE);
    limiter.unstage(100);
    let OpenBodies {
        requests,
        read_bytes,
    } = limiter.staged();
    assert_eq!((requests, read_bytes), (1, 100));
    // Work that has begun will end.
    admit(&limiter, &bounds, 40).unwrap();
    assert_eq!(more(110), Err(Refused::Bytes));
}

#[test]
fn the_gate_holds_the_rest_of_a_request_that_is_not_critical() {
    let (limiter, bounds) = limiter(10, 100);
    bounds.set_slice(20);
    publish(&limiter, &bounds, Caps::new(true, 0, 100), MAX_KIB, 0);
    let more = |priority, attempt| {
        let tag = Tag {
            priority,
            ..Tag::NONE
        };
        let rest = Operation::Rest { held_kib: 10 };
        limiter.try_reserve(&bounds, Ask { tag, ..ask(10) }, rest, attempt)
    };
    let normal = more(Priority::Normal, Attempt::First);
    assert_eq!(normal, Err(Refused::Gate));
    assert!(more(Priority::Critical, Attempt::First).is_ok());
    assert!(more(Priority::Normal, Attempt::PastBounds).is_ok());
}
