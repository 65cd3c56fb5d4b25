//! Who gives way in a full queue.

use std::task::{Context, Poll, Waker};

use super::turn_tests::{Bed, tag};
use super::wait_tests::Ticket;
use crate::class::tag::Tag;
use crate::class::{Priority, Quota};
use crate::error::Reason;

#[test]
fn a_full_queue_makes_room_at_the_expense_of_who_fills_it() {
    let bed = Bed::full(100);
    bed.make_tenants();
    bed.bounds.set_most_waiting(4);
    let flood = tag(Priority::Normal, 1);
    let mut flooding: Vec<Ticket> = (0..4).map(|_| bed.try_join(flood).unwrap()).collect();
    assert_eq!(bed.try_join(flood).err(), Some(Reason::QueueFull));
    // Its tenant has nothing in the queue.
    let _other = bed.try_join(tag(Priority::Normal, 2)).expect("a place");
    let newest = flooding.last_mut().unwrap();
    let told = newest.poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(told, Poll::Ready(Err(Reason::QueueFull)));
    // And at the expense of those behind.
    let _high = bed.try_join(tag(Priority::High, 1)).expect("a place");
    let low = bed.try_join(tag(Priority::Low, 2));
    assert_eq!(low.err(), Some(Reason::QueueFull));
    // Critical work is never turned away for want of a place.
    assert!(bed.try_join(tag(Priority::Critical, 0)).is_ok());
}

/// How many waiters of a tenant and a priority are in a queue, and the weight of the tenant.
type Flood = (u16, Priority, usize, u32);

/// Whose waiter gives way to one that comes to a full queue: a tenant's, or nobody's, and
/// then why it may not wait.
fn displaced(floods: &[Flood], comes: Tag) -> Result<Option<u16>, Reason> {
    let bed = Bed::full(100);
    let mut waiters = Vec::new();
    for &(tenant, priority, waiting, weight) in floods {
        bed.tenant(tenant).entitle(Quota::weighing(weight));
        waiters.extend((0..waiting).map(|_| (tenant, bed.join(tag(priority, tenant), 10))));
    }
    // Who has gone gives no place.
    drop(bed.join(tag(Priority::Low, 9), 10));
    bed.bounds.set_most_waiting(waiters.len());
    let _came = bed.try_join(comes)?;
    Ok(waiters.iter_mut().find_map(|(tenant, ticket)| {
        let polled = ticket.poll(&mut Context::from_waker(Waker::noop()));
        (polled == Poll::Ready(Err(Reason::QueueFull))).then_some(*tenant)
    }))
}

#[test]
fn who_has_most_in_a_full_queue_for_its_weight_gives_way() {
    use Priority::{Critical, High, Low, Normal};
    let comes = |tenant| tag(Normal, tenant);
    let full = Err(Reason::QueueFull);
    // 8 for a weight of 4, against 3 for 1.
    let floods = [(1, Normal, 8, 4), (2, Normal, 3, 1)];
    assert_eq!(displaced(&floods, comes(3)), Ok(Some(2)));
    // 3 for a weight of 4, with the one that comes, against 1 for 1.
    let floods = [(1, Normal, 2, 4), (2, Normal, 1, 1)];
    assert_eq!(displaced(&floods, comes(1)), Ok(Some(2)));
    // With the one that comes, it has as many as the other, or one less.
    let floods = [(1, Normal, 1, 1), (2, Normal, 2, 1)];
    assert_eq!(displaced(&floods, comes(1)), full);
    let floods = [(1, Normal, 1, 1), (2, Normal, 4, 2)];
    assert_eq!(displaced(&floods, comes(1)), full);
    let floods = [(1, Normal, 1, 1), (2, Normal, 3, 1)];
    assert_eq!(displaced(&floods, comes(1)), Ok(Some(2)));
    // Whoever waits in a lane behind, be it one of as many; never in one before.
    let floods = [(1, Low, 1, 1), (2, Normal, 5, 1)];
    assert_eq!(displaced(&floods, comes(3)), Ok(Some(1)));
    let floods = [(1, High, 5, 1), (2, Normal, 1, 1)];
    assert_eq!(displaced(&floods, comes(2)), full);
    // Critical work needs nobody's place.
    assert_eq!(displaced(&[(1, Low, 1, 1)], tag(Critical, 0)), Ok(None));
}
