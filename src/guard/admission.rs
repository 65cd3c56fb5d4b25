//! From a request to a permit, a place in the queue, or a rejection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::permit::Permit;
use super::state::{State, WAITING_INTERVAL};
use super::waiting::Waiting;
use crate::class::Priority;
use crate::class::tag::Tag;
use crate::classify::labels::Demand;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Attempt, Need, Operation, Refusal, Refused};
use crate::pressure::Pressure;
use crate::telemetry::logs::say;

/// Somebody was told that a guard stands inside of one that only observes.
static TOLD: AtomicBool = AtomicBool::new(false);

pub(crate) enum Admission {
    Admitted(Permit),
    Waiting(Waiting),
    /// Neither counted nor said yet.
    Rejected(Refusal),
}

pub(crate) enum Verdict {
    /// It is admitted past the bounds.
    Force,
    Reject(Reason),
    Wait,
}

/// What a request's caller has said of how long it waits: asked only if it has to.
pub(crate) type CallersDeadline<'a> = &'a dyn Fn() -> Option<Duration>;

pub(crate) fn no_deadline() -> Option<Duration> {
    None
}

impl State {
    /// The fast path: a few loads and a compare-and-swap.
    ///
    /// Always inlined, so that the permit is made where it is to stay: moving it
    /// there cost more than the compare-and-swap.
    #[inline(always)]
    pub(crate) fn admit(&'static self, demand: Demand, callers: CallersDeadline<'_>) -> Admission {
        let tag = demand.need.tag();
        if self.sheds(tag) {
            return Self::rejected(Reason::LowPriority);
        }
        self.admit_unshed(demand, callers)
    }

    #[inline(always)]
    fn admit_unshed(&'static self, demand: Demand, callers: CallersDeadline<'_>) -> Admission {
        let ask = demand.need.ask(&self.bounds);
        match self
            .limiter
            .try_reserve(&self.bounds, ask, Operation::Newcomer, Attempt::First)
        {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => self.admit_slowly(demand, ask, refused, callers),
        }
    }

    #[inline(always)]
    fn sheds(&self, tag: Tag) -> bool {
        tag.priority != Priority::Normal && self.sheds_priority(tag.priority)
    }

    /// Admission by this guard's count alone: another one on the same ledger
    /// holds the bytes. `was_let_pass`: whatever the bounds are.
    pub(crate) fn admit_counted(
        &'static self,
        demand: Demand,
        was_let_pass: bool,
        callers: CallersDeadline<'_>,
    ) -> Admission {
        let tag = demand.tag();
        // The gate does not hold what another guard has admitted; closing does.
        if self.is_closed() {
            return Self::rejected(Reason::Closed);
        }
        if was_let_pass && !self.live.only_observes() {
            if !TOLD.swap(true, Ordering::Relaxed) {
                say!(
                    warn,
                    name = self.name.as_deref(),
                    "a memory guard stands inside of one that only observes: it goes by the gate \
                     and by counts alone, and pauses nobody; have the outer one skip what it guards"
                );
            }
            if self.turns_away() {
                return Self::rejected(Reason::CriticalPressure);
            }
        }
        let need = Need::Nested(tag);
        let ask = need.ask(&self.bounds);
        match self.reserve(ask, Operation::Nested, Attempt::First) {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => {
                let nested = Demand { need, ..demand };
                self.admit_slowly(nested, ask, refused, callers)
            }
        }
    }

    /// What was reserved before the request was known does for it as it is.
    #[inline(always)]
    pub(crate) fn does(&self, kib: u64, tag: Tag) -> bool {
        !tag.is_classified() && self.bounds.estimate(tag).kib <= kib
    }

    /// Makes what was reserved before the request was known fit the request.
    pub(crate) fn admit_reserved(&'static self, kib: u64, demand: Demand) -> Admission {
        let tag = demand.tag();
        let ask = self.bounds.estimate(tag);
        let retag = |attempt| self.limiter.retag(&self.bounds, kib, ask, attempt);
        let sheds = self.sheds(tag);
        if !sheds && self.resampling(retag).is_ok() {
            return Admission::Admitted(Permit::new(self, ask.kib, tag));
        }
        self.release(kib);
        match sheds {
            true => Self::rejected(Reason::LowPriority),
            false => self.admit_unshed(demand, &no_deadline),
        }
    }

    #[inline]
    fn admitted(&'static self, ask: Ask, first: bool) -> Admission {
        if first {
            // Work begins: the sampler must not doze through it.
            self.sampler.kick();
        }
        Admission::Admitted(Permit::new(self, ask.kib, ask.tag))
    }

    /// What is reserved, if there is room now.
    #[cold]
    pub(crate) fn reserve_now(&'static self, demand: Demand) -> Option<Permit> {
        match self.admit_newcomer(demand.need.ask(&self.bounds)) {
            Some(Admission::Admitted(permit)) => Some(permit),
            _ => None,
        }
    }

    /// Admission, or a rejection in place of a wait.
    pub(crate) fn admit_now(&'static self, demand: Demand) -> Result<Permit, Rejected> {
        let ask = demand.need.ask(&self.bounds);
        let tag = ask.tag;
        if self.sheds(tag) {
            return Err(self.reject(Reason::LowPriority, tag));
        }
        match self.admit_newcomer(ask) {
            Some(Admission::Admitted(permit)) => return Ok(permit),
            Some(Admission::Rejected(refusal)) => return Err(self.tell(refusal, tag)),
            _ => {}
        }
        let need = Need::Known(ask);
        match self.limiter.reserve_in_turn(&self.bounds, need) {
            Some(kib) => Ok(Permit::queued(self, kib, tag)),
            None => Err(self.reject(Reason::NoRoom, tag)),
        }
    }

    #[cold]
    fn admit_slowly(
        &'static self,
        demand: Demand,
        ask: Ask,
        refused: Refused,
        callers: CallersDeadline<'_>,
    ) -> Admission {
        self.admit_at_once(ask, demand.need.operation(), refused)
            .unwrap_or_else(|| match self.wait(demand, callers) {
                Ok(waiting) => Admission::Waiting(waiting),
                Err(refusal) => Admission::Rejected(refusal),
            })
    }

    /// A newcomer, off the fast path. `None`: it has to wait.
    fn admit_newcomer(&'static self, ask: Ask) -> Option<Admission> {
        match self.reserve(ask, Operation::Newcomer, Attempt::First) {
            Ok(first) => Some(self.admitted(ask, first)),
            Err(refused) => self.admit_at_once(ask, Operation::Newcomer, refused),
        }
    }

    /// What can be said without waiting. `None`: it has to wait.
    fn admit_at_once(
        &'static self,
        ask: Ask,
        operation: Operation,
        mut refused: Refused,
    ) -> Option<Admission> {
        if refused == Refused::Stale {
            self.sampler.refresh();
        }
        // What keeps it out may have been so before the process was forked.
        if self.look_for_fork() || refused == Refused::Stale {
            match self.reserve(ask, operation, Attempt::Resampled) {
                Ok(first) => return Some(self.admitted(ask, first)),
                Err(again) => refused = again,
            }
        }
        match self.judge(ask, 0, refused) {
            Verdict::Force => {
                self.observe_forced(ask, 0, refused);
                Some(self.forced(ask, operation))
            }
            Verdict::Reject(reason) => Some(Self::rejected(reason)),
            Verdict::Wait => None,
        }
    }

    /// What becomes of a request that does not fit now, and has `held_kib` already.
    pub(crate) fn judge(&self, ask: Ask, held_kib: u64, refused: Refused) -> Verdict {
        if self.is_closed() {
            return Verdict::Reject(Reason::Closed);
        }
        if self.live.only_observes() {
            return Verdict::Force;
        }
        if self.never_fits(ask, held_kib) {
            return Verdict::Reject(Reason::NeverFits);
        }
        let held_back = matches!(refused, Refused::Gate | Refused::Bytes);
        if held_back && self.bounds.take_probe(ask.low_kib) {
            return Verdict::Force;
        }
        match refused {
            Refused::Gate => Verdict::Reject(Reason::CriticalPressure),
            _ => Verdict::Wait,
        }
    }

    pub(super) fn never_fits(&self, ask: Ask, held_kib: u64) -> bool {
        self.shown.never_fits(ask.low_kib.saturating_add(held_kib))
    }

    /// Counts what passes in observe mode alone.
    pub(super) fn observe_forced(&self, ask: Ask, held_kib: u64, refused: Refused) {
        // What would have been shed has been counted.
        if self.live.only_observes() && !self.would_shed(ask.tag.priority) {
            self.observe(self.would(ask, held_kib, refused));
        }
    }

    /// What enforce would do with what observe lets pass.
    fn would(&self, ask: Ask, held_kib: u64, refused: Refused) -> &'static str {
        match refused {
            _ if self.never_fits(ask, held_kib) => "reject: never_fits",
            Refused::Gate => "reject: critical_pressure",
            _ => "wait",
        }
    }

    /// Admits past the bounds, as long as the ledger's word can count it.
    fn forced(&'static self, ask: Ask, operation: Operation) -> Admission {
        match self.reserve(ask, operation, Attempt::PastBounds) {
            Ok(first) => self.admitted(ask, first),
            Err(_) => Self::rejected(Reason::QueueFull),
        }
    }

    fn rejected(reason: Reason) -> Admission {
        Admission::Rejected(reason.into())
    }

    /// The least of what the guard, the request's class and its caller allow.
    fn deadline(&self, demand: &Demand, callers: Option<Duration>) -> Duration {
        let allowed = [demand.deadline, callers].into_iter().flatten();
        let config = self.config();
        let deadline = allowed.fold(config.wait_timeout, Duration::min);
        let gives_way = demand.tag().priority == Priority::Normal
            && self.pressure() >= Pressure::High
            && self.has_seen(Priority::High);
        match gives_way {
            true => deadline.mul_f64(config.normal_wait_at_high),
            false => deadline,
        }
    }

    pub(crate) fn wait(
        &'static self,
        demand: Demand,
        callers: CallersDeadline<'_>,
    ) -> Result<Waiting, Refusal> {
        let need = demand.need;
        let deadline = self.deadline(&demand, callers());
        let key = (self.limiter).wait(&self.bounds, need, self.sampler.now(), Some(deadline))?;
        self.counters.queued.fetch_add(1, Ordering::Relaxed);
        self.sampler.wake_if_older(WAITING_INTERVAL);
        Ok(Waiting::new(self, key, need, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualSource, MemoryGuardLayer};

    #[tokio::test]
    async fn what_an_outer_guard_has_admitted_passes_the_inner_one_at_critical_pressure() {
        let memory = ManualSource::new(1 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let layer = builder.estimated_bytes_per_request(1024).build().unwrap();
        let state = layer.guard().state();
        let Admission::Admitted(outer) = state.admit(Demand::NONE, &no_deadline) else {
            panic!("there is room");
        };
        memory.set_usage_bytes(1 << 30);
        layer.guard().sample_now();
        let newcomer = state.admit(Demand::NONE, &no_deadline);
        assert!(matches!(newcomer, Admission::Rejected(_)));
        let inner = state.admit_counted(Demand::NONE, false, &no_deadline);
        assert!(matches!(inner, Admission::Admitted(_)));
        // Where nothing may be admitted, whatever is there is all.
        assert_eq!(state.utilisation(), 1.0);
        drop((outer, inner));
        assert_eq!(state.utilisation(), 0.0);
    }
}
