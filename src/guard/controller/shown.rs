//! [`Shown`]: what a decision leaves for whoever asks, so that nobody waits for the next.

use std::sync::PoisonError;

use super::{Control, Controller};
use crate::forecast::Outstanding;
use crate::policy::{limit_bytes, worst_fraction};

/// What the last decision says of memory, and of what may be admitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) concurrency: u32,
    pub(super) base_concurrency: u32,
    /// Memory in use, as a share of the limit, at the fullest level.
    pub(super) fraction: f64,
    pub(super) usage_bytes: u64,
    pub(super) process_bytes: u64,
    pub(super) limit_bytes: Option<u64>,
    /// What a request reserves, on average.
    pub(super) request_bytes: u64,
    pub(super) blind: bool,
    /// Memory leaves no room for the next in line.
    pub(super) kept_out: bool,
    pub(super) outstanding: Outstanding,
    pub(super) error_ratio: Option<f64>,
    pub(super) margin_deviations: Option<f64>,
    /// Forecasts that were checked, and those of them that were exceeded.
    pub(super) checked: (u64, u64),
}

impl Shown {
    pub(super) fn new(control: &Control) -> Self {
        let (decision, forecast) = (&control.decision, &control.forecast);
        let usage_bytes = control.levels.first().map_or(0, |level| level.usage_bytes);
        Self {
            concurrency: decision.concurrency,
            base_concurrency: decision.base_concurrency,
            fraction: worst_fraction(&control.levels),
            usage_bytes,
            process_bytes: control.process_bytes,
            limit_bytes: limit_bytes(&control.levels),
            request_bytes: control.request_bytes,
            blind: control.blind,
            kept_out: control.kept_out,
            outstanding: forecast.outstanding(),
            error_ratio: forecast.error_ratio(),
            margin_deviations: forecast.margin_deviations(),
            checked: forecast.checked(),
        }
    }
}

impl Controller {
    /// As of the last decision. Its lock is held for a copy alone, unlike the control's.
    pub(super) fn shown(&self) -> Shown {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A decision is made.
    pub(super) fn show(&self, control: &Control) {
        let shown = Shown::new(control);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::Controller;
    use crate::class::tag::Tag;
    use crate::limiter::{Ask, Attempt, Operation, Refused};
    use crate::{Guard, ManualSource, MemoryGuardLayer, Policy, Stats};

    fn full(mib: u64, policy: Policy) -> Guard {
        let memory = ManualSource::new(1 << 30);
        memory.set_usage_bytes(mib << 20);
        let builder = MemoryGuardLayer::builder().policy(policy);
        let layer = builder.memory_source(memory).build().unwrap();
        layer.guard().clone()
    }

    /// Whether a request is admitted while somebody holds what samples act on: as a sample
    /// does that looks at all requests in flight, or who saves what was learned.
    fn answered_beside_one_who_decides(guard: &Guard) -> (bool, Stats) {
        let deciding = guard.controller.control();
        let (done, answered) = channel();
        let caller = guard.clone();
        std::thread::spawn(move || {
            let answer = caller.try_acquire(1024).map(drop);
            let _ = done.send((answer.is_ok(), caller.stats()));
        });
        let answered = answered.recv_timeout(Duration::from_secs(20));
        drop(deciding);
        answered.expect("it does not wait")
    }

    #[test]
    fn a_rejection_waits_for_nobody_who_decides() {
        let guard = full(1 << 10, Policy::Ladder);
        let (admitted, stats) = answered_beside_one_who_decides(&guard);
        assert_eq!((admitted, stats.rejected_requests), (false, 1));
    }

    #[test]
    fn a_request_near_the_limit_waits_for_nobody_who_decides() {
        let guard = full(983, Policy::Predictive);
        let ask = Ask {
            kib: 1,
            low_kib: 1,
            tag: Tag::NONE,
        };
        let Controller {
            limiter, bounds, ..
        } = guard.controller;
        let now = limiter.try_reserve(bounds, ask, Operation::Newcomer, Attempt::First);
        assert_eq!(now, Err(Refused::Stale), "it is to look for itself");
        let (admitted, _) = answered_beside_one_who_decides(&guard);
        assert!(admitted, "by what was decided before");
    }
}
