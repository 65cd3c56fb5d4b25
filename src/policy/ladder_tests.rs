//! The ladder: a concurrency for each level.

use super::*;
use crate::config::Config;
use crate::memory::MemoryLevel;
use crate::policy::{Decision, Strategy, end_bytes, free_bytes, kill_bytes, worst};

fn ladder(base: u32) -> Strategy {
    let config = Config {
        max_concurrent: Some(base),
        ..Config::default()
    };
    Strategy::new(&config, true)
}

fn observe(ladder: &mut Strategy, percent: u64) -> Decision {
    decide(ladder, &[MemoryLevel::new(percent * 10, Some(1000))])
}

fn decide(ladder: &mut Strategy, levels: &[MemoryLevel]) -> Decision {
    ladder.decide(&Observation {
        active: 4,
        ..Observation::of(levels)
    })
}

#[test]
fn each_level_has_its_concurrency() {
    for (percent, level, concurrency) in [
        (50, Pressure::Normal, 10),
        (60, Pressure::Stable, 10),
        (70, Pressure::Warning, 7),
        (80, Pressure::High, 5),
        (85, Pressure::Critical, 4),
        (200, Pressure::Critical, 4),
    ] {
        let decision = observe(&mut ladder(10), percent);
        assert_eq!(
            (decision.pressure, decision.concurrency),
            (level, concurrency),
            "{percent}"
        );
        assert_eq!(decision.gate, level == Pressure::Critical);
    }
}

#[test]
fn cuts_never_go_below_one() {
    assert_eq!(observe(&mut ladder(1), 75).concurrency, 1);
    assert_eq!(observe(&mut ladder(1), 82).concurrency, 1);
}

#[test]
fn repeated_samples_at_one_level_cut_once() {
    let mut ladder = ladder(10);
    for _ in 0..10 {
        assert_eq!(observe(&mut ladder, 82).concurrency, 5);
    }
}

#[test]
fn stable_keeps_the_cut_that_it_finds() {
    let mut ladder = ladder(10);
    observe(&mut ladder, 75);
    assert_eq!(observe(&mut ladder, 65).concurrency, 7);
    observe(&mut ladder, 50);
    assert_eq!(observe(&mut ladder, 65).concurrency, 10);
    // But it is no stricter than further up.
    assert_eq!(observe(&mut ladder, 82).concurrency, 5);
    assert_eq!(observe(&mut ladder, 65).concurrency, 7);
}

#[test]
fn usage_around_a_threshold_does_not_flap() {
    let mut ladder = ladder(10);
    assert_eq!(observe(&mut ladder, 85).pressure, Pressure::Critical);
    assert_eq!(observe(&mut ladder, 84).pressure, Pressure::Critical);
    assert_eq!(observe(&mut ladder, 82).pressure, Pressure::High);
    assert_eq!(observe(&mut ladder, 79).pressure, Pressure::High);
    assert_eq!(observe(&mut ladder, 77).pressure, Pressure::Warning);
    assert_eq!(observe(&mut ladder, 30).pressure, Pressure::Normal);
}

#[test]
fn the_worst_level_decides_and_throttling_counts() {
    let sibling = [
        MemoryLevel::new(1, Some(1000)),
        MemoryLevel::new(1500, Some(2000)),
    ];
    assert_eq!(
        decide(&mut ladder(10), &sibling).pressure,
        Pressure::Warning
    );
    let throttled = MemoryLevel {
        high_bytes: Some(500),
        ..MemoryLevel::new(410, Some(1000))
    };
    let decision = decide(&mut ladder(10), &[throttled]);
    assert_eq!(decision.pressure, Pressure::High);
    assert_eq!(
        (decision.allowance_bytes, decision.free_bytes),
        (Some(425 - 410), Some(590))
    );
}

#[test]
fn where_nothing_is_killed_memory_ends_where_the_kernel_throttles() {
    let throttled = [MemoryLevel {
        high_bytes: Some(500),
        ..MemoryLevel::new(410, None)
    }];
    assert_eq!(free_bytes(&throttled), Some(90));
    assert_eq!(limit_bytes(&throttled), Some(500));
    // Release is urgent there, but nobody is cancelled, and nothing never fits.
    assert_eq!(worst(&throttled, end_bytes), 0.82);
    assert_eq!(worst(&throttled, |level| level.limit_bytes), 0.0);
    assert_eq!(kill_bytes(&throttled), None);
}

#[test]
fn base_concurrency_follows_the_estimate_where_none_is_set() {
    let config = Config {
        policy: crate::config::Policy::Ladder,
        ..Config::default()
    };
    let mut ladder = Strategy::new(&config, true);
    let decision = ladder.decide(&Observation {
        active: 0,
        request_bytes: 200 << 20,
        next_bytes: 200 << 20,
        ..Observation::of(&[MemoryLevel::new(0, Some(2 << 30))])
    });
    assert_eq!(decision.base_concurrency, 8);
}

#[test]
fn a_limit_of_ones_own_bounds_the_count_before_memory_has_been_seen() {
    let config = Config {
        policy: crate::config::Policy::Ladder,
        memory_limit_bytes: Some(2 << 30),
        ..Config::default()
    };
    assert_eq!(Strategy::new(&config, true).base_concurrency(), 8);
    let shared = Config {
        share_fraction: 0.25,
        ..config
    };
    assert_eq!(Strategy::new(&shared, true).base_concurrency(), 2);
}

#[test]
fn stalls_raise_the_level_but_never_reject() {
    let mut ladder = ladder(10);
    let levels = [MemoryLevel::new(750, Some(1000))];
    let mut observation = Observation {
        stall_percent: 60.0,
        active: 0,
        ..Observation::of(&levels)
    };
    assert_eq!(ladder.decide(&observation).pressure, Pressure::High);
    observation.levels = &[MemoryLevel {
        usage_bytes: 820,
        limit_bytes: Some(1000),
        high_bytes: None,
        swapped_bytes: 0,
    }];
    let decision = ladder.decide(&observation);
    assert_eq!((decision.pressure, decision.gate), (Pressure::High, false));
}
