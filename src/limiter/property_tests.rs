use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Waiter, admit, limiter, publish};
use super::word::InUse;
use super::{Bounds, Caps, Limiter};
use crate::class::tag::Tag;
use crate::units::MAX_KIB;

const GUARDS: usize = 3;
const ALL_KIB: u64 = 100;

/// `by`: one of the guards on the ledger.
#[derive(Clone, Debug)]
enum Operation {
    Arrive {
        by: usize,
        kib: u64,
    },
    GiveBack {
        nth: usize,
    },
    Finish {
        nth: usize,
    },
    Sample,
    Poll {
        nth: usize,
    },
    GiveUp {
        nth: usize,
    },
    Bound {
        by: usize,
        count: u32,
        kib: u64,
        gate: bool,
    },
    PassOn,
}

fn operation() -> impl Strategy<Value = Operation> {
    let by = || 0..GUARDS;
    prop_oneof![
        4 => (by(), 1..60_u64).prop_map(|(by, kib)| Operation::Arrive { by, kib }),
        1 => any::<usize>().prop_map(|nth| Operation::GiveBack { nth }),
        2 => any::<usize>().prop_map(|nth| Operation::Finish { nth }),
        2 => Just(Operation::Sample),
        2 => any::<usize>().prop_map(|nth| Operation::Poll { nth }),
        1 => any::<usize>().prop_map(|nth| Operation::GiveUp { nth }),
        1 => (by(), 0..6_u32, 0..120_u64, any::<bool>())
            .prop_map(|(by, count, kib, gate)| Operation::Bound { by, count, kib, gate }),
        1 => Just(Operation::PassOn),
    ]
}

/// Reserved for a request of the guard `by`.
#[derive(Clone, Copy)]
struct Held {
    by: usize,
    kib: u64,
}

/// Everybody who waits is let in once there is room, and all of it comes back.
fn wind_down(limiter: &Arc<Limiter>, guards: &[Arc<Bounds>], waiters: Vec<(Waiter, Held)>) {
    limiter.confirm_freed(limiter.ended_kib());
    for bounds in guards {
        publish(limiter, bounds, Caps::new(false, 1000, ALL_KIB), MAX_KIB, 0);
    }
    let mut waiters = waiters;
    while !waiters.is_empty() {
        let before = waiters.len();
        let mut active = Vec::new();
        waiters.retain_mut(|(waiter, held)| {
            let granted = matches!(waiter.poll(), Poll::Ready(Ok(_)));
            active.extend(granted.then_some(*held));
            !granted
        });
        assert!(waiters.len() < before, "nobody is let in: {limiter:#?}");
        for held in active {
            limiter.cancel(&guards[held.by], held.kib, Tag::NONE);
        }
    }
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
    assert_eq!((limiter.waiting(), limiter.all_in_flight()), (0, 0));
    for bounds in guards {
        assert_eq!((limiter.in_flight(bounds), bounds.waiting()), (0, 0));
        assert_eq!(limiter.waits(bounds), (0, 0));
    }
}

proptest! {
    /// Whatever happens in several guards on one ledger: an admission stays within the
    /// bounds of its moment, and in the end everybody is served and everything given back.
    #[test]
    fn nothing_passes_the_bounds_and_nothing_is_lost(
        operations in prop::collection::vec(operation(), 1..200)
    ) {
        let (limiter, first) = limiter(3, ALL_KIB);
        let mut guards = vec![first];
        let mut allowed = [Caps::new(false, 3, ALL_KIB); GUARDS];
        while guards.len() < GUARDS {
            let bounds = limiter.join(Arc::default());
            publish(&limiter, &bounds, allowed[0], MAX_KIB, 0);
            guards.push(bounds);
        }
        let mut active: Vec<Held> = Vec::new();
        let mut waiters: Vec<(Waiter, Held)> = Vec::new();
        let mut unsettled_kib = 0;
        let mut now = Duration::ZERO;
        for operation in operations {
            let before = limiter.reserved();
            let counts = [0, 1, 2].map(|by| limiter.in_flight(&guards[by]));
            match operation {
                Operation::Arrive { by, kib } => match admit(&limiter, &guards[by], kib) {
                    Ok(_) => active.push(Held { by, kib }),
                    Err(_) => {
                        let mut waiter = Waiter::join(&limiter, &guards[by], kib);
                        match waiter.poll() {
                            Poll::Ready(_) => active.push(Held { by, kib }),
                            Poll::Pending => waiters.push((waiter, Held { by, kib })),
                        }
                    }
                },
                Operation::GiveBack { nth } if !active.is_empty() => {
                    let held = active.swap_remove(nth % active.len());
                    limiter.cancel(&guards[held.by], held.kib, Tag::NONE);
                }
                Operation::Finish { nth } if !active.is_empty() => {
                    let held = active.swap_remove(nth % active.len());
                    unsettled_kib += held.kib;
                    limiter.complete(&guards[held.by], held.kib, Tag::NONE);
                }
                Operation::Sample => {
                    limiter.confirm_freed(limiter.ended_kib());
                    limiter.pump();
                    unsettled_kib = 0;
                }
                Operation::Poll { nth } if !waiters.is_empty() => {
                    let nth = nth % waiters.len();
                    if let Poll::Ready(Ok(_)) = waiters[nth].0.poll() {
                        active.push(waiters.swap_remove(nth).1);
                    }
                }
                Operation::GiveUp { nth } if !waiters.is_empty() => {
                    let nth = nth % waiters.len();
                    waiters.swap_remove(nth);
                }
                Operation::Bound { by, count, kib, gate } => {
                    allowed[by] = Caps::new(gate, count, kib);
                    publish(&limiter, &guards[by], allowed[by], MAX_KIB, 0);
                }
                Operation::PassOn => {
                    now += Duration::from_secs(1);
                    limiter.pass_on_unclaimed(now);
                }
                _ => {}
            }
            // Bounds may shrink below what is in flight; nothing is added then.
            let after = limiter.reserved();
            let most_kib = allowed.iter().map(|bounds| bounds.kib()).max().unwrap();
            let free_kib = most_kib.saturating_sub(unsettled_kib);
            prop_assert!(after.kib() <= before.kib().max(free_kib));
            for (by, bounds) in guards.iter().enumerate() {
                let most = allowed[by].count().max(counts[by]);
                prop_assert!(limiter.in_flight(bounds) <= most);
            }
            // Who asked is either waiting or counted.
            let in_hand: u64 = active.iter().map(|held| held.kib).sum();
            prop_assert!(after.kib() >= in_hand);
            prop_assert!(limiter.all_in_flight() as usize >= active.len());
        }
        for held in active {
            limiter.cancel(&guards[held.by], held.kib, Tag::NONE);
        }
        wind_down(&limiter, &guards, waiters);
    }
}
