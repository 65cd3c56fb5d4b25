//! Whatever comes in whatever order: nothing is admitted past the bounds, and
//! everything that was reserved comes back.

#[path = "../support/mod.rs"]
mod support;

use proptest::prelude::*;
use support::{LIMIT, MIB, assert_empty, with};
use tower_memory_guard::{Guard, Permit, Policy};

#[derive(Clone, Debug)]
enum Operation {
    Arrive { mib: u64 },
    Grow { of: usize, mib: u64 },
    Report { of: usize, mib: u64 },
    Clone { of: usize },
    Complete { of: usize },
    Sample { usage_mib: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1..300_u64).prop_map(|mib| Operation::Arrive { mib }),
        1 => (any::<usize>(), 1..200_u64).prop_map(|(of, mib)| Operation::Grow { of, mib }),
        1 => (any::<usize>(), 0..400_u64).prop_map(|(of, mib)| Operation::Report { of, mib }),
        1 => any::<usize>().prop_map(|of| Operation::Clone { of }),
        3 => any::<usize>().prop_map(|of| Operation::Complete { of }),
        2 => (0..1100_u64).prop_map(|usage_mib| Operation::Sample { usage_mib }),
    ]
}

fn mib(of: f64) -> u64 {
    of.round() as u64
}

/// The forecast is past θ, even without what is added for those in flight when
/// estimates have risen: up to half of what is reserved.
fn is_past(guard: &Guard, usage_mib: u64, theta: f64) -> bool {
    guard.sample_now();
    let stats = guard.stats();
    let forecast_mib = usage_mib as f64 + stats.outstanding_mib - stats.reserved_mib / 2.0;
    forecast_mib > LIMIT as f64 / MIB as f64 * theta + 1.0
}

fn run(policy: Policy, theta: f64, operations: Vec<Operation>) {
    let (layer, memory) = with(|builder| builder.policy(policy).max_concurrent(1000));
    let guard = layer.guard();
    let mut permits: Vec<Permit> = Vec::new();
    let mut usage_mib = 0;
    for operation in operations {
        let count = permits.len().max(1);
        match operation {
            Operation::Arrive { mib } => {
                let idle = guard.stats().active_tasks == 0;
                if let Ok(permit) = guard.try_acquire(mib * MIB) {
                    assert!(
                        idle || !is_past(guard, usage_mib, theta),
                        "{mib} MiB at {usage_mib}: {:?}",
                        guard.stats()
                    );
                    permits.push(permit);
                }
            }
            Operation::Grow { of, mib } => {
                if let Some(permit) = permits.get(of % count) {
                    let before = permit.bytes();
                    if permit.try_grow(mib * MIB).is_ok() {
                        assert!(!is_past(guard, usage_mib, theta), "{:?}", guard.stats());
                        assert_eq!(permit.bytes(), before + mib * MIB);
                    }
                }
            }
            Operation::Report { of, mib } => {
                if let Some(permit) = permits.get(of % count) {
                    permit.report(mib * MIB);
                    assert!(permit.bytes() >= mib * MIB);
                }
            }
            Operation::Clone { of } => {
                if let Some(permit) = permits.get(of % count) {
                    permits.push(permit.clone());
                }
            }
            Operation::Complete { of } => {
                if !permits.is_empty() {
                    permits.swap_remove(of % count);
                }
            }
            Operation::Sample { usage_mib: now } => {
                usage_mib = now;
                memory.set_usage_bytes(usage_mib * MIB);
                guard.sample_now();
            }
        }
        assert!(
            mib(guard.stats().reserved_mib) < 1 << 20,
            "it went below nothing"
        );
    }
    drop(permits);
    assert_empty(guard);
    guard.close();
}

proptest! {
    #![proptest_config(support::cases(200))]

    #[test]
    fn predictive_admits_nothing_past_the_forecast(
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        run(Policy::Predictive, 0.96, operations);
    }

    #[test]
    fn the_ladder_admits_nothing_past_its_critical_threshold(
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        run(Policy::Ladder, 0.85, operations);
    }
}
