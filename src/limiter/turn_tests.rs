//! Whose turn it is: priorities, a full queue, and what is set aside.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::tests::publish;
use super::wait_tests::{IN_TIME, Ticket};
use super::word::InUse;
use super::{
    Ask, Attempt, Bounds, Caps, Limiter, Need, Operation, Refusal, Refused, TenantAccount,
};
use crate::class::tag::Tag;
use crate::class::{Priority, Quota};
use crate::error::Reason;
use crate::units::MAX_KIB;

pub(super) struct Bed {
    pub(super) limiter: Arc<Limiter>,
    pub(super) bounds: Arc<Bounds>,
}

impl Bed {
    /// Room for `kib`, all of it taken.
    pub(super) fn full(kib: u64) -> Self {
        let bed = Self::empty(kib);
        bed.reserve(tag(Priority::Normal, 0), kib).unwrap();
        bed
    }

    pub(super) fn empty(kib: u64) -> Self {
        let limiter = Arc::<Limiter>::default();
        let bounds = limiter.join(Arc::default());
        let bed = Self { limiter, bounds };
        bed.allow(kib);
        bed
    }

    pub(super) fn tenant(&self, tenant: u16) -> &TenantAccount {
        self.bounds.tenants.make(tenant)
    }

    /// Tenants have accounts from here on, which are alike.
    pub(super) fn make_tenants(&self) {
        self.tenant(1);
    }

    pub(super) fn cancel(&self, kib: u64, tag: Tag) {
        self.limiter.cancel(&self.bounds, kib, tag);
    }

    pub(super) fn allow(&self, kib: u64) {
        let caps = Caps::new(false, 1000, kib);
        publish(&self.limiter, &self.bounds, caps, MAX_KIB, 0);
    }

    pub(super) fn reserve(&self, tag: Tag, kib: u64) -> Result<bool, Refused> {
        let ask = ask(tag, kib);
        self.limiter
            .try_reserve(&self.bounds, ask, Operation::Newcomer, Attempt::First)
    }

    pub(super) fn join(&self, tag: Tag, kib: u64) -> Ticket {
        self.join_within(tag, kib, IN_TIME).unwrap()
    }

    pub(super) fn join_within(
        &self,
        tag: Tag,
        kib: u64,
        deadline: Duration,
    ) -> Result<Ticket, Refusal> {
        let need = Need::Known(ask(tag, kib));
        Ticket::join(&self.limiter, &self.bounds, need, deadline)
    }

    /// For what is estimated when its turn comes.
    pub(super) fn join_estimated(&self, tag: Tag) -> Ticket {
        let need = Need::Estimated(tag);
        Ticket::join(&self.limiter, &self.bounds, need, IN_TIME).unwrap()
    }

    /// Into a queue that may be full.
    pub(super) fn try_join(&self, tag: Tag) -> Result<Ticket, Reason> {
        self.join_within(tag, 10, IN_TIME)
            .map_err(|told| told.reason)
    }

    /// Frees `kib` of what nobody's permit holds, and says who got it.
    pub(super) fn free(
        &self,
        kib: u64,
        waiters: &mut Vec<(&'static str, Ticket)>,
    ) -> Vec<&'static str> {
        self.cancel(kib, Tag::NONE);
        granted(waiters)
    }

    /// Each for a second, and as many come as end.
    pub(super) fn serve_a_hundred_at_a_time(&self, waiting: &mut Vec<Ticket>) {
        for step in 0..600 {
            self.tick(f64::from(step) * 0.01);
            waiting.push(self.join(Tag::NONE, 10));
            self.limiter.complete(&self.bounds, 10, Tag::NONE);
            self.limiter.confirm_freed(self.limiter.ended_kib());
            self.limiter.pump();
            waiting.retain_mut(|ticket| !is_granted(ticket));
        }
    }

    pub(super) fn tick(&self, second: f64) {
        self.limiter.tick(Duration::from_secs_f64(second));
        self.limiter.pump();
    }
}

pub(super) fn ask(tag: Tag, kib: u64) -> Ask {
    Ask::exactly(kib, tag)
}

pub(super) fn tag(priority: Priority, tenant: u16) -> Tag {
    Tag {
        priority,
        tenant,
        ..Tag::NONE
    }
}

pub(super) fn is_granted(ticket: &mut Ticket) -> bool {
    let polled = ticket.poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Ready(Ok(_)))
}

/// Takes out those who were granted. Their reservations stay.
pub(super) fn granted(waiters: &mut Vec<(&'static str, Ticket)>) -> Vec<&'static str> {
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
    bed.bounds.set_estimate(Tag::NONE.key, [30, 30], 30);
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
    assert_eq!(bed.limiter.waits(&bed.bounds), (7, 3));
    let order = [(); 7].map(|()| bed.free(10, &mut waiters)).concat();
    assert_eq!(
        order[..4],
        ["critical", "more high", "more normal", "more low"]
    );
    assert_eq!(order[4..], ["high", "normal", "low"]);
    assert_eq!(bed.limiter.waits(&bed.bounds), (0, 0));
    // Of seven that came in their place, three were counted already.
    assert_eq!(bed.limiter.reserved(), InUse::new(false, 7, 100));
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
    bed.serve_a_hundred_at_a_time(&mut waiting);
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
fn a_wait_is_expected_by_what_those_ahead_are_estimated_to_need_by_now() {
    let bed = Bed::full(1000);
    let mut waiting: Vec<Ticket> = (0..100).map(|_| bed.join(Tag::NONE, 10)).collect();
    bed.serve_a_hundred_at_a_time(&mut waiting);
    drop(waiting);
    let set_estimate = |kib| bed.bounds.set_estimate(Tag::NONE.key, [kib, kib], 0);
    let join = || bed.join_estimated(Tag::NONE);
    let expected_ms = |priority| {
        let need = Need::Known(ask(tag(priority, 0), 10));
        let expected = bed.limiter.expected_wait(&bed.bounds, need);
        expected.unwrap().as_millis()
    };
    set_estimate(200);
    let _waiting: Vec<Ticket> = (0..50).map(|_| join()).collect();
    let priorities = [Priority::Normal, Priority::Low];
    let before = priorities.map(expected_ms);
    set_estimate(5);
    assert!(expected_ms(Priority::Normal) <= before[0] / 20);
    // Those behind know once somebody has come or left.
    drop(join());
    let by_now = priorities.map(expected_ms);
    assert!(by_now[0] <= before[0] / 20, "{before:?}, {by_now:?}");
    assert!(by_now[1] <= before[1] / 20, "{before:?}, {by_now:?}");
    // What one that comes needs more says nothing of those that are there.
    set_estimate(400);
    drop(join());
    let after = priorities.map(expected_ms);
    assert!(after[0] <= before[0], "{before:?}, {after:?}");
}

#[test]
fn who_only_looks_what_its_turn_brings_says_nothing_of_waits() {
    let bed = Bed::full(1000);
    let mut waiting: Vec<Ticket> = (0..100).map(|_| bed.join(Tag::NONE, 10)).collect();
    bed.serve_a_hundred_at_a_time(&mut waiting);
    drop(waiting);
    let joins = || bed.join_within(Tag::NONE, 10, Duration::from_millis(5));
    assert!(joins().is_ok());
    let small = Need::Known(ask(Tag::NONE, 1));
    for _ in 0..5_000 {
        assert_eq!(bed.limiter.reserve_in_turn(&bed.bounds, small), None);
    }
    assert!(joins().is_ok());
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
        let found = bed.limiter.probe_oldest(&bed.bounds, Some(most_kib));
        (found, granted(&mut waiters))
    };
    assert_eq!(probed(39), (false, vec![]));
    assert_eq!(probed(40), (true, vec!["small"]));
    assert_eq!(probed(80), (true, vec!["large"]));
    assert_eq!(probed(80), (true, vec!["last"]));
    assert_eq!(probed(80), (false, vec![]));
    assert_eq!(bed.limiter.oldest_wait(&bed.bounds), Duration::ZERO);
}
