//! Figures at the ends of what their types hold: one clear answer, and no overflow.

use std::pin::pin;
use std::time::Duration;

use crate::support::{LIMIT, MIB, assert_empty, poll_once, with};
use tower_memory_guard::{
    Class, Cost, Guard, ManualSource, MemoryGuardBuilder, MemoryGuardLayer, Policy, Priority,
    Reason, Tier,
};

const HUGE: [u64; 4] = [u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 53];
/// What version 1 says where there is no limit.
const NO_LIMIT: u64 = 9_223_372_036_854_771_712;

/// Neither has the guard's own code panicked while it sampled, which is caught.
fn assert_sound(guard: &Guard) {
    let stats = guard.stats();
    assert_eq!(stats.caught_panics, 0);
    for figure in [
        stats.memory_percent,
        stats.reserved_mib,
        stats.estimated_mem_per_req_mib,
    ] {
        assert!(figure.is_finite() && figure >= 0.0, "{stats:?}");
    }
}

/// A guard over so much memory.
fn over(
    limit: u64,
    set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder,
) -> (Guard, ManualSource) {
    let memory = ManualSource::new(limit);
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    (set(builder).build().unwrap().guard().clone(), memory)
}

#[tokio::test]
async fn a_cost_beyond_the_limit_never_fits() {
    for policy in [Policy::Predictive, Policy::Ladder] {
        let (layer, _) = with(|builder| builder.policy(policy));
        let guard = layer.guard();
        let held = guard.try_acquire(Cost::Bytes(MIB)).unwrap();
        for bytes in HUGE {
            let refused = guard.try_acquire(Cost::Bytes(bytes)).unwrap_err();
            assert_eq!(refused.reason(), Reason::NeverFits, "{bytes}");
            let refused = guard.acquire(Cost::Bytes(bytes)).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::NeverFits, "{bytes}");
            let class = Class::new("huge").cost(bytes);
            let refused = guard.acquire_for(&class).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::NeverFits, "{bytes}");
            guard.sample_now();
        }
        drop(held);
        drop(guard.try_acquire(Cost::Bytes(0)).unwrap());
        assert_empty(guard);
        assert_sound(guard);
    }
}

#[tokio::test]
async fn limits_that_are_none_bound_nothing() {
    for policy in [Policy::Predictive, Policy::Ladder] {
        for limit in HUGE.into_iter().chain([NO_LIMIT]) {
            let (guard, memory) = over(limit, |builder| builder.policy(policy));
            for usage in [0, limit / 2, limit] {
                memory.set_usage_bytes(usage);
                guard.sample_now();
                let stats = guard.stats();
                assert!(stats.memory_percent.is_finite(), "{limit} {usage}");
                let _ = guard.try_acquire(Cost::Estimated).map(drop);
                let _ = guard.try_acquire(Cost::Bytes(limit)).map(drop);
            }
            memory.set_usage_bytes(0);
            for _ in 0..3 {
                guard.sample_now();
            }
            let held: Vec<_> = (0..4)
                .map(|_| guard.try_acquire(Cost::Bytes(MIB)).unwrap())
                .collect();
            guard.sample_now();
            drop(held);
            guard.sample_now();
            assert_empty(&guard);
            assert_sound(&guard);
        }
    }
}

#[tokio::test]
async fn usage_beyond_everything_turns_away() {
    for policy in [Policy::Predictive, Policy::Ladder] {
        let (layer, memory) = with(|builder| builder.policy(policy));
        let guard = layer.guard();
        for bytes in HUGE {
            memory.set_usage_bytes(bytes);
            guard.sample_now();
            assert!(guard.try_acquire(Cost::Bytes(MIB)).is_err(), "{bytes}");
            assert!(guard.stats().memory_percent > 100.0);
        }
        memory.set_usage_bytes(LIMIT / 10);
        (0..3).for_each(|_| guard.sample_now());
        assert!(guard.try_acquire(Cost::Bytes(MIB)).is_ok());
        assert_sound(guard);
    }
}

#[tokio::test]
async fn a_permit_grows_by_no_more_than_can_be_counted() {
    let (layer, _) = with(|builder| builder);
    let guard = layer.guard();
    for bytes in HUGE {
        let permit = guard.try_acquire(Cost::Bytes(MIB)).unwrap();
        assert!(permit.try_grow(bytes).is_err(), "{bytes}");
        assert_eq!(permit.bytes(), MIB);
        assert!(permit.try_grow(0).is_ok());
        permit.report(bytes);
        guard.sample_now();
        permit.report(0);
        guard.sample_now();
        drop(permit);
        guard.sample_now();
    }
    assert_empty(guard);
    assert_sound(guard);
    // Nothing of that is in the way of those to come.
    (0..40).for_each(|_| {
        drop(guard.try_acquire(Cost::Bytes(MIB)).unwrap());
        guard.sample_now();
    });
    assert_sound(guard);
}

#[tokio::test]
async fn what_is_reported_beyond_everything_holds_back_others_until_it_is_over() {
    for limit in [LIMIT, NO_LIMIT, u64::MAX] {
        let (guard, _) = over(limit, |builder| builder.estimated_bytes_per_request(MIB));
        for priority in [Priority::Normal, Priority::Critical] {
            for bytes in HUGE {
                let class = Class::new("large").tenant("a").priority(priority);
                let mut held = Vec::new();
                for _ in 0..3 {
                    let mut admission = pin!(guard.acquire_for(&class));
                    if let std::task::Poll::Ready(permit) = poll_once(admission.as_mut()) {
                        held.extend(permit);
                    }
                }
                for permit in &held {
                    permit.report(bytes);
                    guard.sample_now();
                    let _ = (permit.bytes(), permit.peak_bytes(), permit.try_grow(bytes));
                }
                guard.sample_now();
                assert_sound(&guard);
                let is_full = limit == LIMIT && !held.is_empty();
                assert!(!is_full || guard.try_acquire(Cost::Bytes(MIB)).is_err());
                drop(held);
                (0..3).for_each(|_| guard.sample_now());
                assert_empty(&guard);
            }
        }
        let saved = guard.estimates();
        let (next, _) = over(limit, |builder| builder.estimates(saved));
        assert_sound(&next);
    }
}

#[tokio::test]
async fn what_no_limit_bounds_is_counted_up_to_what_can_be() {
    let (guard, _) = over(u64::MAX, |builder| builder);
    let mut held = Vec::new();
    for bytes in HUGE {
        held.extend(guard.try_acquire(Cost::Bytes(bytes)));
        let permit = guard.try_acquire(Cost::Bytes(MIB));
        if let Ok(permit) = &permit {
            let _ = permit.try_grow(bytes);
            permit.report(bytes);
        }
        held.extend(permit);
        guard.sample_now();
        let _ = guard.stats();
    }
    held.clear();
    guard.sample_now();
    assert_empty(&guard);
    assert_sound(&guard);
}

#[tokio::test]
async fn tiers_at_their_ends_are_shares_all_the_same() {
    let (layer, memory) = with(|builder| {
        builder
            .policy(Policy::Predictive)
            .tier(Tier::new("heavy").weight(1000).max_in_flight(u32::MAX))
            .tier(Tier::new("light").weight(1).max_share(f64::MIN_POSITIVE))
            .max_waiting(usize::MAX)
    });
    let guard = layer.guard();
    let filling = guard.try_acquire(Cost::Bytes(900 * MIB)).unwrap();
    let classes: Vec<_> = (0..32)
        .map(|number| {
            let tier = if number % 2 == 0 { "heavy" } else { "light" };
            let priority = [Priority::High, Priority::Normal, Priority::Low][number % 3];
            let class = Class::new("work").tenant(format!("{tier}-{}", number % 6));
            class.tier(tier).priority(priority).cost(400 * MIB)
        })
        .collect();
    let mut waiting: Vec<_> = classes
        .iter()
        .map(|class| Box::pin(guard.acquire_for(class)))
        .collect();
    for waiter in &mut waiting {
        let _ = poll_once(waiter.as_mut());
    }
    drop(filling);
    guard.sample_now();
    memory.set_usage_bytes(LIMIT / 100);
    let mut served = 0;
    for _ in 0..200 {
        guard.sample_now();
        waiting.retain_mut(|waiter| {
            let is_served = poll_once(waiter.as_mut()).is_ready();
            served += usize::from(is_served);
            !is_served
        });
    }
    assert_eq!((served, waiting.len()), (32, 0));
    assert_empty(guard);
    assert_sound(guard);
}

/// Every setting that is a time.
fn as_long_as(longest: Duration) -> MemoryGuardBuilder {
    MemoryGuardLayer::builder()
        .check_interval(longest)
        .wait_timeout(longest)
        .body_timeout(longest)
        .max_pause(longest)
        .newest_first_after(longest)
}

#[test]
fn settings_beyond_a_year_are_refused_together() {
    for longest in [Duration::MAX, Duration::from_millis(u64::MAX)] {
        let error = as_long_as(longest)
            .tier(Tier::new("heavy").weight(u32::MAX))
            .build()
            .unwrap_err()
            .to_string();
        let settings = ["check_interval", "wait_timeout", "body_timeout"];
        let others = ["max_pause", "newest_first_after", "tier.weight"];
        for setting in settings.into_iter().chain(others) {
            assert!(error.contains(setting), "{setting}: {error}");
        }
    }
}

#[tokio::test]
async fn whoever_waits_may_be_as_patient_as_there_is() {
    for policy in [Policy::Predictive, Policy::Ladder] {
        for deadline in [Duration::MAX, Duration::from_millis(u64::MAX)] {
            let memory = ManualSource::new(LIMIT);
            let layer = as_long_as(Duration::from_secs(365 * 86_400))
                .policy(policy)
                .memory_source(memory.clone())
                .retry_budget(1)
                .build()
                .unwrap();
            let guard = layer.guard();
            memory.set_usage_bytes(LIMIT / 2);
            guard.sample_now();
            let filling = guard.try_acquire(Cost::Bytes(300 * MIB)).unwrap();
            let class = Class::new("patient").tenant("a").cost(400 * MIB);
            let class = class.deadline(deadline);
            let mut waiter = pin!(guard.acquire_for(&class));
            assert!(poll_once(waiter.as_mut()).is_pending());
            guard.sample_now();
            memory.set_usage_bytes(LIMIT);
            guard.sample_now();
            for _ in 0..80 {
                let refused = guard.try_acquire(Cost::Bytes(100 * MIB)).unwrap_err();
                let _ = (refused.to_string(), refused.retry_after(), guard.stats());
            }
            drop(filling);
            memory.set_usage_bytes(0);
            (0..3).for_each(|_| guard.sample_now());
            assert!(poll_once(waiter).is_ready(), "{deadline:?}");
            guard.sample_now();
            assert_empty(guard);
            assert_sound(guard);
        }
    }
}

#[tokio::test]
async fn estimates_and_limits_of_ones_own_at_their_ends_are_one_answer() {
    for bytes in HUGE {
        let memory = ManualSource::new(LIMIT);
        let built = MemoryGuardLayer::builder()
            .memory_source(memory)
            .estimated_bytes_per_request(bytes)
            .memory_limit_bytes(bytes)
            .share(f64::MIN_POSITIVE)
            .max_concurrent(u32::MAX)
            .build();
        match built {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(layer) => {
                let guard = layer.guard();
                guard.sample_now();
                let _ = guard.try_acquire(Cost::Estimated).map(drop);
                assert_sound(guard);
            }
        }
    }
}
