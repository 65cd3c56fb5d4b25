//! Turns by tenant: weights, quotas, and what each is charged for.

use std::sync::Arc;
use std::time::Duration;

use super::tests::publish;
use super::turn_tests::{Bed, ask, granted, is_granted, tag};
use super::wait_tests::{IN_TIME, Ticket};
use super::{Caps, Need, Refused, TENANTS};
use crate::class::tag::Tag;
use crate::class::{Priority, Quota};
use crate::units::MAX_KIB;

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
                bed.tenant(tag.tenant).charge_actual(kib, elapsed);
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
fn a_guard_that_names_no_tenant_takes_turns_with_one_that_does() {
    let bed = Bed::empty(100);
    for _ in 0..10 {
        bed.reserve(Tag::NONE, 10).unwrap();
    }
    let second = bed.limiter.join(Arc::default());
    publish(&bed.limiter, &second, Caps::new(false, 99, 100), MAX_KIB, 0);
    bed.make_tenants();
    let named = (0..10).map(|_| ("named", bed.join(Tag::of_tenant(1), 10)));
    let mut waiters: Vec<_> = named.collect();
    waiters.extend((0..10).map(|_| {
        let need = Need::Known(ask(Tag::NONE, 10));
        let ticket = Ticket::join(&bed.limiter, &second, need, IN_TIME);
        ("nameless", ticket.unwrap())
    }));
    let order = [(); 8].map(|()| bed.free(10, &mut waiters)).concat();
    let nameless = order.iter().filter(|&&name| name == "nameless").count();
    assert!((3..=5).contains(&nameless), "{order:?}");
}

#[test]
fn a_tenant_that_comes_late_goes_with_those_served_in_its_lane() {
    let bed = Bed::full(1000);
    bed.make_tenants();
    let join = |name, priority, tenant| (name, bed.join(tag(priority, tenant), 10));
    let four = |name, tenant| [(); 4].map(|()| join(name, Priority::High, tenant));
    let mut waiters = Vec::new();
    waiters.extend(four("early", 1));
    waiters.extend(four("early", 2));
    waiters.push(join("behind", Priority::Low, 3));
    let order = [(); 9].map(|()| bed.free(10, &mut waiters)).concat();
    assert_eq!(order[8], "behind");
    for (name, tenant) in [("early", 1), ("early", 2), ("late", 4)] {
        waiters.extend(four(name, tenant));
    }
    let order = [(); 3].map(|()| bed.free(10, &mut waiters)).concat();
    let late = order.iter().filter(|&&name| name == "late").count();
    assert!((1..=2).contains(&late), "{order:?}");
}

#[test]
fn what_all_got_back_is_not_held_against_one_that_comes_late() {
    let bed = Bed::full(1000);
    bed.make_tenants();
    let mut waiters = Vec::new();
    for tenant in [1, 2] {
        let of_tenant = tag(Priority::Normal, tenant);
        waiters.extend((0..30).map(|_| ("early", bed.join(of_tenant, 10))));
    }
    for _ in 0..20 {
        bed.free(10, &mut waiters);
    }
    // They took a moment.
    for tenant in [1, 2].repeat(10) {
        bed.tenant(tenant).charge_actual(10, Duration::ZERO);
        bed.cancel(10, tag(Priority::Normal, tenant));
    }
    granted(&mut waiters);
    waiters.extend((0..10).map(|_| ("late", bed.join(tag(Priority::Normal, 4), 10))));
    let order = [(); 8].map(|()| bed.free(10, &mut waiters)).concat();
    assert!(order.contains(&"late"), "{order:?}");
}

#[test]
fn a_tenant_at_its_quota_waits_and_others_pass() {
    let bed = Bed::empty(100);
    bed.bounds.tenants.set_limit(100);
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
    bed.limiter.set_limit(&bed.bounds, 101);
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
    bed.bounds.tenants.set_limit(100);
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
fn a_tenant_is_charged_for_as_long_as_its_requests_took_of_late() {
    let bed = Bed::empty(100);
    let account = bed.tenant(1);
    account.charge(16);
    let at_first = account.served();
    assert!(at_first > 0);
    // A sixteenth of twice as long.
    account.charge_actual(0, Duration::from_secs(1));
    account.charge(16);
    let later = account.served() - at_first;
    assert_eq!(later * 16, at_first * 17);
}

#[test]
fn tenants_take_turns_however_much_they_have_been_served() {
    let bed = Bed::full(100);
    let mut waiters = Vec::new();
    for (name, tenant) in [("one", 1), ("two", 2)] {
        bed.tenant(tenant).catch_up(i64::MAX - 1);
        for priority in [Priority::High, Priority::Normal] {
            waiters.extend((0..3).map(|_| (name, bed.join(tag(priority, tenant), 10))));
        }
    }
    let mut order = Vec::new();
    for _ in 0..12 {
        order.extend(bed.free(10, &mut waiters));
    }
    assert_eq!(order, ["one", "two"].repeat(6));
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
    bed.tenant(1).charge_actual(10, Duration::from_secs(10));
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
    tenants.make(2).charge_actual(10, Duration::from_secs(10));
    assert_eq!(charged(2).1, 1);
    tenants.make(2).begin();
    assert_eq!(charged(2), charged(3));
    tenants.make(2).fold();
    assert_eq!(tenants.make(2).served(), tenants.make(3).served());
}

#[test]
fn a_number_is_free_again_though_one_that_waited_for_its_quota_gave_up() {
    let bed = Bed::empty(100);
    let tenants = &bed.bounds.tenants;
    for tenant in 1..TENANTS as u16 {
        tenants.make(tenant).used(u32::from(tenant));
    }
    bed.tenant(1).entitle(Quota::default().at_most(1));
    let one = tag(Priority::Normal, 1);
    bed.reserve(one, 10).unwrap();
    drop(bed.join(one, 10));
    assert_eq!(tenants.longest_unused(5000), Some(2));
    bed.cancel(10, one);
    assert_eq!(tenants.longest_unused(5000), Some(1));
}

#[test]
fn a_tenant_at_its_quota_does_not_take_the_turn_of_those_that_have_aged() {
    let bed = Bed::full(1000);
    bed.bounds.set_order(Duration::from_secs(4), None);
    bed.tenant(1).entitle(Quota::default().at_most(1));
    bed.make_tenants();
    let at_its_quota = tag(Priority::Normal, 1);
    bed.cancel(10, Tag::NONE);
    bed.reserve(at_its_quota, 10).unwrap();
    // The oldest of all, and its turn does not come.
    let mut parked = bed.join(at_its_quota, 10);
    let other = bed.join(tag(Priority::Normal, 2), 10);
    let mut waiters = vec![("other", other)];
    bed.tick(2.0);
    let mut high = bed.join(tag(Priority::High, 0), 10);
    for round in 0..20 {
        let next = bed.join(tag(Priority::High, 0), 10);
        bed.cancel(10, Tag::NONE);
        if !granted(&mut waiters).is_empty() {
            assert!(!is_granted(&mut parked));
            return;
        }
        assert!(is_granted(&mut high), "round {round}");
        high = next;
    }
    panic!("it has one part of eight");
}

#[test]
fn a_probe_is_not_for_those_that_wait_for_their_tenant() {
    let bed = Bed::full(100);
    bed.tenant(1).entitle(Quota::default().at_most(1));
    let at_its_quota = tag(Priority::Normal, 1);
    bed.cancel(10, Tag::NONE);
    bed.reserve(at_its_quota, 10).unwrap();
    let mut waiters = vec![
        ("parked", bed.join(at_its_quota, 20)),
        ("other", bed.join(Tag::NONE, 10)),
    ];
    let next = bed.limiter.next_ask(&bed.bounds);
    assert_eq!(next.map(|ask| ask.kib), Some(10));
    let mut probed = |most_kib| {
        let found = bed.limiter.probe_oldest(&bed.bounds, most_kib);
        (found, granted(&mut waiters))
    };
    assert_eq!(probed(Some(20)), (true, vec!["other"]));
    assert_eq!(probed(Some(20)), (false, vec![]));
    assert!(bed.limiter.next_ask(&bed.bounds).is_none());
    // But where nobody would have had to wait, nor have they.
    assert_eq!(probed(None), (true, vec!["parked"]));
}

#[test]
fn those_that_wait_for_their_tenant_are_before_nobody() {
    let bed = Bed::full(1000);
    bed.tenant(1).entitle(Quota::default().at_most(1));
    let flood = tag(Priority::High, 1);
    bed.cancel(10, Tag::NONE);
    bed.reserve(flood, 10).unwrap();
    let mut waiting: Vec<Ticket> = (0..10).map(|_| bed.join(Tag::NONE, 10)).collect();
    bed.serve_a_hundred_at_a_time(&mut waiting);
    let expected_ms = |tag| {
        let need = Need::Known(ask(tag, 10));
        let expected = bed.limiter.expected_wait(&bed.bounds, need);
        expected.map_or(0, |wait| wait.as_millis())
    };
    let before = expected_ms(Tag::NONE);
    let parked: Vec<Ticket> = (0..100).map(|_| bed.join(flood, 10)).collect();
    bed.limiter.pump();
    assert_eq!(expected_ms(Tag::NONE), before);
    assert!(expected_ms(flood) >= 1_000, "its own backlog counts for it");
    drop(parked);
    assert_eq!(expected_ms(Tag::NONE), before);
}
