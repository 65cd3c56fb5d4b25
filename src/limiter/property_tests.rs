use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{Waiter, admit, limiter, publish};
use super::{MAX_KIB, Packed};
use crate::tag::Tag;

#[derive(Clone, Debug)]
enum Operation {
    Arrive { kib: u64 },
    GiveBack { nth: usize },
    Finish { nth: usize },
    Sample,
    Poll { nth: usize },
    GiveUp { nth: usize },
    Bound { count: u32, kib: u64, gate: bool },
    PassOn,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1..60_u64).prop_map(|kib| Operation::Arrive { kib }),
        1 => any::<usize>().prop_map(|nth| Operation::GiveBack { nth }),
        2 => any::<usize>().prop_map(|nth| Operation::Finish { nth }),
        2 => Just(Operation::Sample),
        2 => any::<usize>().prop_map(|nth| Operation::Poll { nth }),
        1 => any::<usize>().prop_map(|nth| Operation::GiveUp { nth }),
        1 => (0..6_u32, 0..120_u64, any::<bool>())
            .prop_map(|(count, kib, gate)| Operation::Bound { count, kib, gate }),
        1 => Just(Operation::PassOn),
    ]
}

proptest! {
    /// Whatever happens: an admission stays within the bounds of its moment,
    /// and in the end everything is given back.
    #[test]
    fn nothing_passes_the_bounds_and_nothing_is_lost(
        operations in prop::collection::vec(operation(), 1..200)
    ) {
        let (limiter, bounds) = limiter(3, 100);
        let mut allowed = Packed::new(false, 3, 100);
        let mut active: Vec<u64> = Vec::new();
        let mut waiters: Vec<(Waiter, u64)> = Vec::new();
        let mut unsettled_kib = 0;
        let mut now = Duration::ZERO;
        for operation in operations {
            let before = limiter.reserved();
            match operation {
                Operation::Arrive { kib } => match admit(&limiter, &bounds, kib) {
                    Ok(_) => active.push(kib),
                    Err(_) => {
                        let mut waiter = Waiter::join(&limiter, &bounds, kib);
                        match waiter.poll() {
                            Poll::Ready(_) => active.push(kib),
                            Poll::Pending => waiters.push((waiter, kib)),
                        }
                    }
                },
                Operation::GiveBack { nth } if !active.is_empty() => {
                    let kib = active.swap_remove(nth % active.len());
                    limiter.release(&bounds, kib, Tag::NONE);
                }
                Operation::Finish { nth } if !active.is_empty() => {
                    let kib = active.swap_remove(nth % active.len());
                    unsettled_kib += kib;
                    limiter.finish(&bounds, kib, Tag::NONE);
                }
                Operation::Sample => {
                    limiter.settle(limiter.finished_kib());
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
                Operation::Bound { count, kib, gate } => {
                    allowed = Packed::new(gate, count, kib);
                    publish(&limiter, &bounds, allowed, MAX_KIB, 0);
                }
                Operation::PassOn => {
                    now += Duration::from_secs(1);
                    limiter.pass_on_unclaimed(now);
                }
                _ => {}
            }
            let after = limiter.reserved();
            // Bounds may shrink below what is in flight; nothing is added then.
            prop_assert!(after.count() <= before.count().max(allowed.count()));
            let free_kib = allowed.kib().saturating_sub(unsettled_kib);
            prop_assert!(after.kib() <= before.kib().max(free_kib));
            // Who asked is either waiting or counted.
            let in_hand: u64 = active.iter().sum();
            prop_assert!(after.kib() >= in_hand);
        }
        drop(waiters);
        for kib in active {
            limiter.release(&bounds, kib, Tag::NONE);
        }
        prop_assert_eq!(limiter.reserved(), Packed::new(false, 0, 0));
        prop_assert_eq!(limiter.waiting(), 0);
    }
}
