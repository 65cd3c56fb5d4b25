//! Whose turn it is: priorities, tenants, quotas, and what is set aside.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::tests::publish;
use super::wait_tests::{IN_TIME, Ticket};
use super::word::InUse;
use super::{
    Ask, Attempt, Bounds, Caps, Limiter, Need, Operation, Refusal, Refused, TENANTS, TenantAccount,
};
use crate::class::tag::Tag;
use crate::class::{Priority, Quota};
use crate::error::Reason;
use crate::units::MAX_KIB;

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
        let limiter = Arc::<Limiter>::default();
        let bounds = limiter.join(Arc::default());
        let bed = Self { limiter, bounds };
        bed.allow(kib);
        bed
    }

    fn tenant(&self, tenant: u16) -> &TenantAccount {
        self.bounds.tenants.make(tenant)
    }

    /// Tenants have accounts from here on, which are alike.
    fn make_tenants(&self) {
        self.tenant(1);
    }

    fn cancel(&self, kib: u64, tag: Tag) {
        self.limiter.cancel(&self.bounds, kib, tag);
    }

    fn allow(&self, kib: u64) {
        let caps = Caps::new(false, 1000, kib);
        publish(&self.limiter, &self.bounds, caps, MAX_KIB, 0);
    }

    fn reserve(&self, tag: Tag, kib: u64) -> Result<bool, Refused> {
        let ask = ask(tag, kib);
        self.limiter
            .try_reserve(&self.bounds, ask, Operation::Newcomer, Attempt::First)
    }

    fn join(&self, tag: Tag, kib: u64) -> Ticket {
        self.join_within(tag, kib, IN_TIME).unwrap()
    }

    fn join_within(&self, tag: Tag, kib: u64, deadline: Duration) -> Result<Ticket, Refusal> {
        let need = Need::Known(ask(tag, kib));
        Ticket::join(&self.limiter, &self.bounds, need, deadline)
    }

    /// Into a queue that may be full.
    fn try_join(&self, tag: Tag) -> Result<Ticket, Reason> {
        self.join_within(tag, 10, IN_TIME)
            .map_err(|told| told.reason)
    }

    /// Frees `kib` of what nobody's permit holds, and says who got it.
    fn free(&self, kib: u64, waiters: &mut Vec<(&'static str, Ticket)>) -> Vec<&'static str> {
        self.cancel(kib, Tag::NONE);
        granted(waiters)
    }

    fn tick(&self, second: f64) {
        self.limiter.tick(Duration::from_secs_f64(second));
        self.limiter.pump();
    }
}

fn ask(tag: Tag, kib: u64) -> Ask {
    Ask::exactly(kib, tag)
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
fn who_does_not_fit_holds_up_those_behind() {
    let bed = Bed::empty(100);
    for _ in 0..2 {
        bed.reserve(Tag::NONE, 50).unwrap();
    }
    let mut waiters = vec![
        ("high", bed.join(tag(Priority::High, 0), 30)),
        ("normal", bed.join(tag(Priority::Normal, 0), 10)),
        ("low", bed.join(tag(Priority::Low, 0), 10)),
    ];
    assert!(bed.free(20, &mut waiters).is_empty());
    // But lanes that are served hold up nobody.
    assert_eq!(bed.free(30, &mut waiters), ["high", "normal", "low"]);
}

#[test]
fn who_needs_more_than_it_has_goes_before_newcomers() {
    use Priority::{Critical, High, Low, Normal};
    let bed = Bed::empty(100);
    for _ in 0..10 {
        bed.reserve(Tag::NONE, 10).unwrap();
    }
    bed.bounds.set_estimate(Tag::NONE.key, 30, 30);
    let more = |priority| Need::More {
        tag: tag(priority, 0),
        held_kib: 20,
    };
    let known = |priority| Need::Known(ask(tag(priority, 0), 10));
    let mut waiters = [
        ("more low", more(Low)),
        ("more normal", more(Normal)),
        ("more high", more(High)),
        ("low", known(Low)),
        ("normal", known(Normal)),
        ("high", known(High)),
        ("critical", known(Critical)),
    ]
    .map(|(name, need)| {
        let ticket = Ticket::join(&bed.limiter, &bed.bounds, need, IN_TIME);
        (name, ticket.unwrap())
    })
    .into();
    assert_eq!(bed.bounds.need_more(), 3);
    let order = [(); 7].map(|()| bed.free(10, &mut waiters)).concat();
    assert_eq!(
        order[..4],
        ["critical", "more high", "more normal", "more low"]
    );
    assert_eq!(order[4..], ["high", "normal", "low"]);
    assert_eq!(bed.bounds.need_more(), 0);
    // Of seven that came in their place, three were counted already.
    assert_eq!(bed.limiter.reserved(), InUse::new(false, 7, 100));
}

#[test]
fn a_tenants_turn_in_one_lane_counts_in_the_others() {
    let bed = Bed::full(100);
    bed.make_tenants();
    let mut waiters = vec![
        ("first", bed.join(tag(Priority::Normal, 1), 10)),
        ("other", bed.join(tag(Priority::Normal, 2), 10)),
        ("urgent", bed.join(tag(Priority::High, 1), 10)),
    ];
    let order = [(); 3].map(|()| bed.free(10, &mut waiters)).concat();
    assert_eq!(order, ["urgent", "other", "first"]);
}

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

#[test]
fn critical_work_has_a_slice_of_its_own_at_any_pressure() {
    let bed = Bed::full(100);
    bed.bounds.set_slice(20);
    let critical = tag(Priority::Critical, 0);
    let _waits = bed.join(tag(Priority::High, 0), 10);
    publish(
        &bed.limiter,
        &bed.bounds,
        Caps::new(true, 0, 50),
        MAX_KIB,
        0,
    );
    assert_eq!(bed.reserve(Tag::NONE, 1), Err(Refused::Gate));
    assert!(bed.reserve(critical, 15).is_ok());
    assert_eq!(bed.reserve(critical, 10), Err(Refused::Bytes));
    bed.cancel(15, critical);
    assert!(bed.reserve(critical, 10).is_ok());
    bed.cancel(10, critical);
    // And what others leave, beside it.
    bed.allow(105);
    assert_eq!(bed.reserve(critical, 26), Err(Refused::Bytes));
    assert!(bed.reserve(critical, 25).is_ok());
    // Closed, it has none.
    bed.bounds.set_slice(0);
    let closed = Caps::new(true, 0, 105);
    publish(&bed.limiter, &bed.bounds, closed, MAX_KIB, 0);
    assert_eq!(bed.reserve(critical, 1), Err(Refused::Gate));
}

/// Serves waiters of two tenants, each request for as long as its tenant's take, and
/// says what part of all bytes × time the first one got.
fn share_of_first(weights: [u32; 2], kib: [u64; 2], lasts: [u32; 2]) -> f64 {
    let bed = Bed::empty(100);
    for (tenant, weight) in [1, 2].into_iter().zip(weights) {
        bed.tenant(tenant).entitle(Quota::weighing(weight));
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
    bed.cancel(full, Tag::NONE);
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
                bed.bounds.tenants.charge_actual(tag.tenant, kib, elapsed);
                bed.cancel(kib, tag);
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
    bed.make_tenants();
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
        bed.cancel(10, tag(Priority::Normal, 1));
        order.extend(granted(&mut waiters));
    }
    let late = order.iter().filter(|&&name| name == "late").count();
    assert!((3..=5).contains(&late), "{order:?}");
}

#[test]
fn a_tenant_at_its_quota_waits_and_others_pass() {
    let bed = Bed::empty(100);
    bed.bounds.set_limit(100);
    bed.tenant(1).entitle(Quota::default().at_most(1));
    bed.tenant(2).entitle(Quota::up_to(0.3));
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
    bed.cancel(10, one);
    assert_eq!(granted(&mut waiters), ["one"]);
    bed.cancel(20, two);
    assert_eq!(granted(&mut waiters), ["two"]);
    // Or its quota is raised.
    waiters.push(("one", bed.join(one, 10)));
    assert!(granted(&mut waiters).is_empty());
    bed.tenant(1).entitle(Quota::default());
    bed.limiter.unpark_all();
    bed.limiter.pump();
    assert_eq!(granted(&mut waiters), ["one"]);
    // What it goes on holding counts, whoever has waited for some of it.
    bed.tenant(1).entitle(Quota::default().at_most(2));
    waiters.push(("one", bed.join(one, 10)));
    bed.cancel(10, one);
    assert_eq!(granted(&mut waiters), ["one"]);
    let held = bed.tenant(1).held();
    assert_eq!((held.count(), held.kib()), (2, 20));
}

#[test]
fn who_fits_its_quota_goes_on_once_the_one_before_has_given_up() {
    let bed = Bed::empty(100);
    bed.bounds.set_limit(100);
    bed.tenant(1).entitle(Quota::up_to(0.3));
    let tag = tag(Priority::Normal, 1);
    bed.reserve(tag, 20).unwrap();
    let large = bed.join(tag, 20);
    let mut small = bed.join(tag, 10);
    assert!(!is_granted(&mut small));
    drop(large);
    assert!(is_granted(&mut small));
}

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

#[test]
fn the_newest_goes_first_once_the_oldest_has_waited_too_long() {
    let bed = Bed::full(100);
    bed.bounds
        .set_order(Duration::from_secs(10), Some(Duration::from_secs(1)));
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
        bed.limiter.complete(&bed.bounds, 10, Tag::NONE);
        bed.limiter.confirm_freed(bed.limiter.ended_kib());
        bed.limiter.pump();
        waiting.retain_mut(|ticket| !is_granted(ticket));
    }
    assert_eq!(waiting.len(), 100);
    let within = Duration::from_millis;
    let told = bed.join_within(Tag::NONE, 10, within(100)).err().unwrap();
    assert_eq!(told.reason, Reason::WaitTooLong);
    let expected = told.expected.unwrap().as_secs_f64();
    assert!((0.8..1.2).contains(&expected), "{expected}");
    assert!(bed.join_within(Tag::NONE, 10, within(3000)).is_ok());
    // A higher priority does not wait behind them.
    let high = bed.join_within(tag(Priority::High, 0), 10, within(100));
    assert!(high.is_ok());
    drop(high);
    // Nor does a tenant of a greater weight: it has three of four parts of the rate.
    bed.tenant(1).entitle(Quota::weighing(3));
    let expected_ms = |tag| {
        let told = bed.join_within(tag, 10, within(0)).err().unwrap();
        told.expected.unwrap().as_millis()
    };
    let of_tenant = tag(Priority::Normal, 1);
    assert_eq!(expected_ms(of_tenant), 13);
    let need = Need::Known(ask(of_tenant, 10));
    let also = bed.limiter.expected_wait(&bed.bounds, need);
    assert_eq!(also.map(|wait| wait.as_millis()), Some(13));
    assert!(bed.limiter.wait_errors().1 > 0);
    let mut backlog: Vec<Ticket> = (0..4).map(|_| bed.join(of_tenant, 10)).collect();
    backlog.pop();
    assert_eq!(expected_ms(of_tenant), 53, "30 KiB and its own");
    // Those without a tenant wait at most for all that are there.
    assert_eq!(expected_ms(Tag::NONE), 1040);
    drop(backlog);
    assert_eq!(expected_ms(of_tenant), 13);
    // And where the newest goes first it is not known how long.
    bed.bounds
        .set_order(Duration::from_secs(10), Some(Duration::from_millis(500)));
    assert!(bed.join_within(Tag::NONE, 10, within(0)).is_ok());
}

#[test]
fn a_tenant_is_charged_for_as_long_as_its_requests_took_of_late() {
    let bed = Bed::empty(100);
    let account = bed.tenant(1);
    account.charge(16);
    let at_first = account.served();
    assert!(at_first > 0);
    // A sixteenth of twice as long.
    bed.bounds
        .tenants
        .charge_actual(1, 0, Duration::from_secs(1));
    account.charge(16);
    let later = account.served() - at_first;
    assert_eq!(later * 16, at_first * 17);
}

#[test]
fn a_tenant_whose_request_took_long_lets_others_go_first() {
    let bed = Bed::full(100);
    let mut waiters = Vec::new();
    for (name, tenant) in [("one", 1), ("two", 2)] {
        bed.tenant(tenant);
        waiters.extend((0..3).map(|_| (name, bed.join(tag(Priority::Normal, tenant), 10))));
    }
    assert_eq!(bed.free(10, &mut waiters), ["one"]);
    bed.bounds
        .tenants
        .charge_actual(1, 10, Duration::from_secs(10));
    bed.cancel(10, tag(Priority::Normal, 1));
    let mut order = granted(&mut waiters);
    for _ in 0..4 {
        order.extend(bed.free(10, &mut waiters));
    }
    assert_eq!(order, ["two", "two", "two", "one", "one"]);
}

#[test]
fn half_of_a_tenants_rejections_are_forgotten_at_a_time() {
    let tenants = Bed::empty(100).bounds.tenants.clone();
    let account = tenants.make(1);
    assert_eq!([(); 5].map(|()| account.strike()), [1, 2, 3, 4, 5]);
    account.forgive();
    assert_eq!(account.strike(), 3);
}

#[test]
fn a_probe_goes_to_the_first_of_those_that_it_is_large_enough_for() {
    let bed = Bed::full(100);
    let next_kib = || bed.limiter.next_ask(&bed.bounds).map(|ask| ask.kib);
    assert_eq!(next_kib(), None);
    bed.tick(1.0);
    let mut waiters = vec![
        ("large", bed.join(tag(Priority::High, 0), 80)),
        ("small", bed.join(Tag::NONE, 40)),
        ("last", bed.join(Tag::NONE, 40)),
    ];
    assert_eq!(next_kib(), Some(80));
    bed.tick(3.0);
    assert_eq!(bed.limiter.oldest_wait(&bed.bounds), Duration::from_secs(2));
    let mut probed = |most_kib| {
        let found = bed.limiter.probe_oldest(&bed.bounds, most_kib);
        (found, granted(&mut waiters))
    };
    assert_eq!(probed(39), (false, vec![]));
    assert_eq!(probed(40), (true, vec!["small"]));
    assert_eq!(probed(80), (true, vec!["large"]));
    assert_eq!(probed(80), (true, vec!["last"]));
    assert_eq!(probed(80), (false, vec![]));
    assert_eq!(bed.limiter.oldest_wait(&bed.bounds), Duration::ZERO);
}

#[test]
fn a_number_is_another_tenants_once_its_own_holds_nothing_and_waits_for_nothing() {
    let bed = Bed::full(100);
    let tenants = &bed.bounds.tenants;
    for tenant in 1..TENANTS as u16 {
        tenants.make(tenant).used(u32::from(tenant));
    }
    let longest_unused = || tenants.longest_unused(5000);
    assert_eq!(longest_unused(), Some(1));
    let waits = bed.join(tag(Priority::Normal, 1), 10);
    assert_eq!(longest_unused(), Some(2));
    drop(waits);
    assert_eq!(longest_unused(), Some(1));
    bed.allow(110);
    bed.reserve(tag(Priority::Normal, 1), 10).unwrap();
    assert_eq!(longest_unused(), Some(2));
    // It begins as a new one does.
    let charged = |tenant| {
        let account = tenants.make(tenant);
        account.charge(16);
        (account.served(), account.strike())
    };
    tenants.charge_actual(2, 10, Duration::from_secs(10));
    assert_eq!(charged(2).1, 1);
    tenants.make(2).begin();
    assert_eq!(charged(2), charged(3));
    tenants.make(2).fold();
    assert_eq!(tenants.make(2).served(), tenants.make(3).served());
}
