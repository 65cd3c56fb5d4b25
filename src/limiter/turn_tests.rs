//! Whose turn it is: priorities, tenants, quotas, and what is set aside.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::tests::publish;
use super::{Ask, Bounds, Limiter, Mode, Need, Packed, Quota, Refusal, Refused, Terms, Ticket};
use crate::class::Priority;
use crate::class::tag::Tag;
use crate::error::Reason;
use crate::units::MAX_KIB;

const TERMS: Terms = Terms {
    most_waiting: 1 << 20,
    deadline: Duration::from_secs(10),
};

struct Bed {
    limiter: Arc<Limiter>,
    bounds: Arc<Bounds>,
}

impl Bed {
    /// Room for `kib`, all of it taken.
    fn full(kib: u64) -> Self {
        let bed = Self::empty(kib);
        bed.reserve(tag(Priority::Normal, 0), kib).unwrap();
        bed
    }

    fn empty(kib: u64) -> Self {
        let limiter = Arc::new(Limiter::new());
        let bounds = limiter.join(Arc::default());
        let bed = Self { limiter, bounds };
        bed.allow(kib);
        bed
    }

    fn allow(&self, kib: u64) {
        let limits = Packed::new(false, 1000, kib);
        publish(&self.limiter, &self.bounds, limits, MAX_KIB, 0);
    }

    fn reserve(&self, tag: Tag, kib: u64) -> Result<bool, Refused> {
        let ask = ask(tag, kib);
        self.limiter.try_reserve(&self.bounds, ask, Mode::Newcomer)
    }

    fn join(&self, tag: Tag, kib: u64) -> Ticket {
        self.join_on(tag, kib, TERMS).unwrap()
    }

    fn join_on(&self, tag: Tag, kib: u64, terms: Terms) -> Result<Ticket, Refusal> {
        Ticket::join(
            &self.limiter,
            &self.bounds,
            Need::Known(ask(tag, kib)),
            terms,
        )
    }

    /// Frees `kib` of what nobody's permit holds, and says who got it.
    fn free(&self, kib: u64, waiters: &mut Vec<(&'static str, Ticket)>) -> Vec<&'static str> {
        self.limiter.release(&self.bounds, kib, Tag::NONE);
        granted(waiters)
    }

    fn tick(&self, second: f64) {
        self.limiter.tick(Duration::from_secs_f64(second));
        self.limiter.pump();
    }
}

fn ask(tag: Tag, kib: u64) -> Ask {
    Ask {
        kib,
        low_kib: kib,
        tag,
    }
}

fn tag(priority: Priority, tenant: u16) -> Tag {
    Tag {
        priority,
        tenant,
        ..Tag::NONE
    }
}

fn is_granted(ticket: &mut Ticket) -> bool {
    let polled = ticket.poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Ready(Ok(_)))
}

/// Takes out those who were granted. Their reservations stay.
fn granted(waiters: &mut Vec<(&'static str, Ticket)>) -> Vec<&'static str> {
    let mut names = Vec::new();
    waiters.retain_mut(|(name, ticket)| {
        let granted = is_granted(ticket);
        if granted {
            names.push(*name);
        }
        !granted
    });
    names
}

#[test]
fn a_higher_priority_goes_first_and_each_in_order() {
    let bed = Bed::full(100);
    let mut waiters = vec![
        ("low", bed.join(tag(Priority::Low, 0), 10)),
        ("normal", bed.join(tag(Priority::Normal, 0), 10)),
        ("second normal", bed.join(tag(Priority::Normal, 0), 10)),
        ("high", bed.join(tag(Priority::High, 0), 10)),
        ("critical", bed.join(tag(Priority::Critical, 0), 10)),
    ];
    let mut order = Vec::new();
    for _ in 0..5 {
        order.extend(bed.free(10, &mut waiters));
    }
    let expected = ["critical", "high", "normal", "second normal", "low"];
    assert_eq!(order, expected);
}

#[test]
fn nobody_starves_behind_a_higher_priority() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(4_000, u64::MAX);
    let low = bed.join(tag(Priority::Low, 0), 10);
    let mut waiters = vec![("low", low)];
    bed.tick(0.5);
    let mut served = 0;
    // A waiter of high priority is always there.
    let mut high = bed.join(tag(Priority::High, 0), 10);
    for round in 0..40 {
        let next = bed.join(tag(Priority::High, 0), 10);
        bed.limiter.release(&bed.bounds, 10, Tag::NONE);
        assert!(granted(&mut waiters).is_empty(), "not before it has aged");
        assert!(is_granted(&mut high), "round {round}");
        high = next;
    }
    bed.tick(2.0);
    while granted(&mut waiters).is_empty() {
        let next = bed.join(tag(Priority::High, 0), 10);
        bed.limiter.release(&bed.bounds, 10, Tag::NONE);
        if is_granted(&mut high) {
            high = next;
        }
        served += 1;
        assert!(served < 20, "it had its turn before");
    }
}

#[test]
fn critical_work_has_a_slice_of_its_own_at_any_pressure() {
    let bed = Bed::full(100);
    bed.bounds.set_portions(20, 1000);
    let critical = tag(Priority::Critical, 0);
    let _waits = bed.join(tag(Priority::High, 0), 10);
    publish(
        &bed.limiter,
        &bed.bounds,
        Packed::new(true, 0, 50),
        MAX_KIB,
        0,
    );
    assert_eq!(bed.reserve(Tag::NONE, 1), Err(Refused::Gate));
    assert!(bed.reserve(critical, 15).is_ok());
    assert_eq!(bed.reserve(critical, 10), Err(Refused::Bytes));
    bed.limiter.release(&bed.bounds, 15, critical);
    assert!(bed.reserve(critical, 10).is_ok());
    // Closed, it has none.
    bed.bounds.set_portions(0, 0);
    assert_eq!(bed.reserve(critical, 1), Err(Refused::Gate));
}

/// Serves waiters of two tenants, each request for as long as its tenant's take, and
/// says what part of all bytes × time the first one got.
fn share_of_first(weights: [u32; 2], kib: [u64; 2], lasts: [u32; 2]) -> f64 {
    let bed = Bed::empty(100);
    for (tenant, weight) in [1, 2].into_iter().zip(weights) {
        bed.bounds.shares.make(tenant).entitle(Quota {
            weight,
            ..Quota::default()
        });
    }
    let of = |tenant: usize| (tag(Priority::Normal, tenant as u16 + 1), kib[tenant]);
    let full: u64 = 100;
    bed.reserve(Tag::NONE, full).unwrap();
    let mut waiting: Vec<(usize, Ticket)> = Vec::new();
    for _ in 0..50 {
        for tenant in 0..2 {
            let (tag, kib) = of(tenant);
            waiting.push((tenant, bed.join(tag, kib)));
        }
    }
    bed.limiter.release(&bed.bounds, full, Tag::NONE);
    let mut running: Vec<(usize, u32)> = Vec::new();
    let mut had = [0.0; 2];
    for step in 0..4_000_u32 {
        bed.tick(f64::from(step) * 0.1);
        waiting.retain_mut(|(tenant, ticket)| {
            let granted = is_granted(ticket);
            if granted {
                running.push((*tenant, step));
            }
            !granted
        });
        running.retain(|&(tenant, began)| {
            let over = step - began >= lasts[tenant];
            if over {
                let (tag, kib) = of(tenant);
                let elapsed = Duration::from_millis(100) * (step - began);
                bed.bounds.shares.settle(tag.tenant, kib, elapsed);
                bed.limiter.release(&bed.bounds, kib, tag);
                waiting.push((tenant, bed.join(tag, kib)));
            }
            !over
        });
        for &(tenant, _) in &running {
            if step > 1_000 {
                had[tenant] += kib[tenant] as f64;
            }
        }
    }
    had[0] / (had[0] + had[1])
}

#[test]
fn tenants_get_bytes_and_time_by_their_weights() {
    let share = share_of_first([1, 1], [10, 10], [5, 5]);
    assert!((share - 0.5).abs() < 0.02, "alike: {share}");
    let share = share_of_first([3, 1], [5, 5], [5, 5]);
    assert!((share - 0.75).abs() < 0.03, "by weight: {share}");
    let share = share_of_first([1, 1], [20, 5], [5, 5]);
    assert!((share - 0.5).abs() < 0.06, "larger requests: {share}");
    let share = share_of_first([1, 1], [10, 10], [10, 2]);
    assert!((share - 0.5).abs() < 0.05, "longer requests: {share}");
}

#[test]
fn a_tenant_that_comes_late_owes_and_is_owed_nothing() {
    let bed = Bed::full(100);
    for tenant in [1, 2] {
        bed.bounds.shares.make(tenant).entitle(Quota::default());
    }
    let mut waiters: Vec<_> = (0..20)
        .map(|_| ("early", bed.join(tag(Priority::Normal, 1), 10)))
        .collect();
    for _ in 0..10 {
        bed.free(10, &mut waiters);
    }
    assert_eq!(waiters.len(), 10);
    waiters.extend((0..10).map(|_| ("late", bed.join(tag(Priority::Normal, 2), 10))));
    let mut order = Vec::new();
    for _ in 0..8 {
        bed.limiter
            .release(&bed.bounds, 10, tag(Priority::Normal, 1));
        order.extend(granted(&mut waiters));
    }
    let late = order.iter().filter(|&&name| name == "late").count();
    assert!((3..=5).contains(&late), "{order:?}");
}

#[test]
fn a_tenant_at_its_quota_waits_and_others_pass() {
    let bed = Bed::empty(100);
    bed.bounds.set_portions(0, 100);
    bed.bounds.shares.make(1).entitle(Quota {
        max_in_flight: 1,
        ..Quota::default()
    });
    bed.bounds.shares.make(2).entitle(Quota {
        max_share: 0.3,
        ..Quota::default()
    });
    let (one, two) = (tag(Priority::Normal, 1), tag(Priority::Normal, 2));
    bed.reserve(one, 10).unwrap();
    assert_eq!(bed.reserve(one, 10), Err(Refused::Quota));
    bed.reserve(two, 20).unwrap();
    assert_eq!(bed.reserve(two, 20), Err(Refused::Quota));
    let mut waiters = vec![("one", bed.join(one, 10)), ("two", bed.join(two, 20))];
    assert!(granted(&mut waiters).is_empty());
    // Somebody else may pass them.
    let mut other = bed.join(Tag::NONE, 10);
    assert!(is_granted(&mut other));
    bed.limiter.release(&bed.bounds, 10, one);
    assert_eq!(granted(&mut waiters), ["one"]);
    bed.limiter.release(&bed.bounds, 20, two);
    assert_eq!(granted(&mut waiters), ["two"]);
}

#[test]
fn a_full_queue_makes_room_at_the_expense_of_who_fills_it() {
    let bed = Bed::full(100);
    for tenant in [1, 2] {
        bed.bounds.shares.make(tenant).entitle(Quota::default());
    }
    let terms = Terms {
        most_waiting: 4,
        ..TERMS
    };
    let flood = tag(Priority::Normal, 1);
    let mut flooding: Vec<Ticket> = (0..4)
        .map(|_| bed.join_on(flood, 10, terms).unwrap())
        .collect();
    let full = bed.join_on(flood, 10, terms).err();
    assert_eq!(full.map(|told| told.reason), Some(Reason::QueueFull));
    // Its tenant has nothing in the queue.
    let _other = bed
        .join_on(tag(Priority::Normal, 2), 10, terms)
        .expect("a place");
    let newest = flooding.last_mut().unwrap();
    let told = newest.poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(told, Poll::Ready(Err(Reason::QueueFull)));
    // And at the expense of those behind.
    let _high = bed
        .join_on(tag(Priority::High, 1), 10, terms)
        .expect("a place");
    let low = bed.join_on(tag(Priority::Low, 2), 10, terms);
    assert_eq!(low.err().map(|told| told.reason), Some(Reason::QueueFull));
    // Critical work is never turned away for want of a place.
    let critical = bed.join_on(tag(Priority::Critical, 0), 10, terms);
    assert!(critical.is_ok());
}

#[test]
fn the_newest_goes_first_once_the_oldest_has_waited_too_long() {
    let bed = Bed::full(100);
    bed.bounds.set_order(10_000, 1_000);
    let mut waiters = vec![("oldest", bed.join(Tag::NONE, 10))];
    waiters.push(("middle", bed.join(Tag::NONE, 10)));
    waiters.push(("newest", bed.join(Tag::NONE, 10)));
    bed.tick(0.5);
    assert_eq!(bed.free(10, &mut waiters), ["oldest"]);
    bed.tick(1.5);
    assert_eq!(bed.free(10, &mut waiters), ["newest"]);
}

#[test]
fn who_would_surely_wait_too_long_is_told_at_once() {
    let bed = Bed::full(1000);
    let mut waiting: Vec<Ticket> = (0..100).map(|_| bed.join(Tag::NONE, 10)).collect();
    // A hundred requests at a time, each for a second.
    for step in 0..600 {
        bed.tick(f64::from(step) * 0.01);
        waiting.push(bed.join(Tag::NONE, 10));
        bed.limiter.finish(&bed.bounds, 10, Tag::NONE);
        bed.limiter.settle(bed.limiter.finished_kib());
        bed.limiter.pump();
        waiting.retain_mut(|ticket| !is_granted(ticket));
    }
    assert_eq!(waiting.len(), 100);
    let within = |millis| Terms {
        deadline: Duration::from_millis(millis),
        ..TERMS
    };
    let told = bed.join_on(Tag::NONE, 10, within(100)).err().unwrap();
    assert_eq!(told.reason, Reason::WaitTooLong);
    let expected = told.expected.unwrap().as_secs_f64();
    assert!((0.8..1.2).contains(&expected), "{expected}");
    assert!(bed.join_on(Tag::NONE, 10, within(3000)).is_ok());
    // A higher priority does not wait behind them.
    let high = bed.join_on(tag(Priority::High, 0), 10, within(100));
    assert!(high.is_ok());
}
