//! Who has waited for long behind others.

use std::time::Duration;

use super::turn_tests::{Bed, granted, is_granted, tag};
use super::wait_tests::Ticket;
use crate::class::Priority;
use crate::class::tag::Tag;

#[test]
fn nobody_starves_behind_a_higher_priority() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(Duration::from_secs(4), None);
    let low = bed.join(tag(Priority::Low, 0), 10);
    let mut waiters = vec![("low", low)];
    bed.tick(0.5);
    let mut served = 0;
    // A waiter of high priority is always there.
    let mut high = bed.join(tag(Priority::High, 0), 10);
    for round in 0..40 {
        let next = bed.join(tag(Priority::High, 0), 10);
        bed.cancel(10, Tag::NONE);
        assert!(granted(&mut waiters).is_empty(), "not before it has aged");
        assert!(is_granted(&mut high), "round {round}");
        high = next;
    }
    bed.tick(2.0);
    while granted(&mut waiters).is_empty() {
        let next = bed.join(tag(Priority::High, 0), 10);
        bed.cancel(10, Tag::NONE);
        if is_granted(&mut high) {
            high = next;
        }
        served += 1;
        assert!(served < 20, "it had its turn before");
    }
}

#[test]
fn an_old_queue_of_a_higher_priority_does_not_take_the_turn_of_those_behind() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(Duration::from_secs(4), None);
    let join = |name, priority, tenant| (name, bed.join(tag(priority, tenant), 10));
    bed.make_tenants();
    let mut waiters: Vec<_> = (0..10).map(|_| join("one", Priority::Normal, 1)).collect();
    waiters.extend((0..10).map(|_| join("two", Priority::Normal, 2)));
    waiters.push(join("low", Priority::Low, 0));
    bed.tick(2.0);
    // Of eight parts one goes to the lane behind, for its oldest, and none in the lane:
    // there its tenants take turns, however long each has waited.
    let mut order = Vec::new();
    while !waiters.is_empty() {
        order.extend(bed.free(10, &mut waiters));
    }
    let low = order.iter().position(|&name| name == "low").unwrap();
    assert!((5..9).contains(&low), "{order:?}");
    order.remove(low);
    assert!(
        order.chunks(2).all(|turns| turns == ["one", "two"]),
        "{order:?}"
    );
}

/// How many of high priority are served before the one that has aged, each `between`.
fn served_before(bed: &Bed, waiters: &mut Vec<(&'static str, Ticket)>, between: impl Fn()) -> u32 {
    for served in 0..20 {
        between();
        let mut high = bed.join(tag(Priority::High, 0), 10);
        bed.cancel(10, Tag::NONE);
        if !granted(waiters).is_empty() {
            return served;
        }
        assert!(is_granted(&mut high));
    }
    panic!("it had its turn before");
}

#[test]
fn critical_work_takes_nothing_of_what_is_put_by_for_those_behind() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(Duration::from_secs(4), None);
    let mut waiters = vec![("low", bed.join(tag(Priority::Low, 0), 10))];
    bed.tick(2.0);
    let between = || {
        let mut critical = bed.join(tag(Priority::Critical, 0), 10);
        bed.cancel(10, Tag::NONE);
        assert!(is_granted(&mut critical));
    };
    // Two KiB of each ten.
    assert_eq!(served_before(&bed, &mut waiters, between), 5);
}

#[test]
fn what_is_put_by_is_for_what_is_estimated_by_now() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(Duration::from_secs(4), None);
    let set_estimate = |kib| bed.bounds.set_estimate(Tag::NONE.key, [kib, kib], 0);
    set_estimate(400);
    let mut waiters = vec![("low", bed.join_estimated(tag(Priority::Low, 0)))];
    bed.tick(2.0);
    set_estimate(10);
    assert_eq!(served_before(&bed, &mut waiters, || {}), 5);
}
