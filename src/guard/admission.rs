//! From a request to a permit, a place in the queue, or a rejection.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::controller::{Controller, WAITING_INTERVAL};
use super::permit::Permit;
use super::waiting::Waiting;
use crate::class::Priority;
use crate::class::tag::Tag;
use crate::classify::labels::Entry;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Attempt, Need, Operation, Refusal, Refused, Terms, Ticket};
use crate::memory::Moment;
use crate::pressure::Pressure;
use crate::running::Slot;
use crate::telemetry::outcome::Outcome;

use super::cost::Request;

/// What became of a request.
pub(crate) enum Admission {
    Admitted(Permit),
    Waiting(Waiting),
    /// Neither counted nor said yet.
    Rejected(Refusal),
}

/// What becomes of a request that does not fit now.
pub(crate) enum Verdict {
    /// It is admitted past the bounds.
    Force,
    Reject(Reason),
    Wait,
}

/// What a request's caller has said of how long it waits: asked only if it has to.
pub(crate) type CallersDeadline<'a> = &'a dyn Fn() -> Option<Duration>;

/// Its caller has not said.
pub(crate) fn no_deadline() -> Option<Duration> {
    None
}

impl Controller {
    /// The fast path: a few loads and a compare-and-swap.
    ///
    /// Always inlined, so that the permit is made where it is to stay: moving it
    /// there cost more than the compare-and-swap.
    #[inline(always)]
    pub(crate) fn admit(
        &'static self,
        request: Request,
        callers: CallersDeadline<'_>,
    ) -> Admission {
        let tag = request.need.tag();
        if self.sheds(tag) {
            return Self::rejected(Reason::LowPriority);
        }
        let ask = request.need.ask(&self.bounds);
        match self.limiter.try_admit(&self.bounds, ask) {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => self.admit_slowly(request, ask, refused, callers),
        }
    }

    /// Takes note of a priority; says whether such work is not taken at the moment.
    #[inline(always)]
    pub(crate) fn sheds(&self, tag: Tag) -> bool {
        tag.priority != Priority::Normal && self.sheds_priority(tag)
    }

    fn sheds_priority(&self, tag: Tag) -> bool {
        let bit = 1 << tag.priority as u8;
        if self.priorities.load(Ordering::Relaxed) & bit == 0 {
            self.priorities.fetch_or(bit, Ordering::Relaxed);
            // What it is entitled to is published with the next sample.
            self.sampler.wake_if_older(WAITING_INTERVAL);
        }
        let sheds = tag.priority == Priority::Low && self.live.sheds_low_at(self.pressure());
        if sheds && self.only_observes() {
            self.observe("reject: low_priority");
            return false;
        }
        sheds
    }

    /// Requests of a priority have come.
    pub(crate) fn has_seen(&self, priority: Priority) -> bool {
        self.priorities.load(Ordering::Relaxed) & 1 << priority as u8 != 0
    }

    /// Admission by this guard's count alone: another one on the same ledger
    /// holds the bytes.
    pub(crate) fn admit_counted(&'static self, entry: Entry) -> Admission {
        let tag = entry.tag;
        // The gate does not hold what another guard has admitted; closing does.
        if self.is_closed() {
            return Self::rejected(Reason::Closed);
        }
        let request = Request {
            need: Need::Nested(tag),
            deadline: entry.deadline,
        };
        let ask = request.need.ask(&self.bounds);
        match self.reserve(ask, Operation::Nested, Attempt::First) {
            Ok(first) => self.admitted(ask, first),
            Err(refused) => self.admit_slowly(request, ask, refused, &no_deadline),
        }
    }

    /// Makes what was reserved before the request was known fit the request.
    pub(crate) fn admit_reserved(&'static self, kib: u64, entry: Entry) -> Admission {
        let tag = entry.tag;
        let ask = self.bounds.estimate(tag);
        let retag = |attempt| self.limiter.retag(&self.bounds, kib, ask, attempt);
        if !self.sheds(tag) && self.resampling(retag).is_ok() {
            return Admission::Admitted(Permit::new(self, ask.kib, tag));
        }
        self.release(kib);
        self.admit(entry.into(), &no_deadline)
    }

    /// Keeps track of work for which so much is reserved.
    #[inline]
    pub(crate) fn track(&self, kib: u64, tag: Tag) -> Option<&Slot> {
        self.running.take(kib, tag, self.sampler.tick())
    }

    /// Gives back what was never used, and nobody classified.
    #[inline]
    pub(crate) fn release(&self, kib: u64) {
        self.limiter.cancel(&self.bounds, kib, Tag::NONE);
    }

    /// The work is over, and its memory free unless the allocator keeps it.
    #[inline]
    pub(crate) fn finish(
        &self,
        own_kib: Option<NonZeroU64>,
        tag: Tag,
        granted_at: Moment,
        slot: Option<&Slot>,
        outcome: Outcome,
    ) {
        if self.counters.outcomes.ended(outcome) {
            self.look_for_fork();
        }
        let kib = own_kib.map_or(0, NonZeroU64::get);
        let mut held_kib = kib;
        if granted_at != Moment::NONE {
            self.charge_actual(kib, tag, granted_at);
        }
        if let Some(slot) = slot {
            if slot.was_paused() {
                self.tell_pauses(slot, tag, outcome);
            }
            // It may have grown.
            held_kib = slot.reserved_kib();
            self.running.end(slot);
        }
        if own_kib.is_none() {
            self.limiter.end_nested(&self.bounds, tag);
            self.has_ended();
        } else if self.limiter.complete(&self.bounds, held_kib, tag) {
            self.sampler.request_sample();
        } else {
            self.has_ended();
        }
    }

    /// Now, if its tenant is to pay for the time that it takes.
    pub(crate) fn granted_at(&self, tag: Tag) -> Moment {
        match self.bounds.tenants().get(tag.tenant) {
            Some(_) => self.sampler.moment(),
            None => Moment::NONE,
        }
    }

    /// Its tenant pays for the time that it took.
    #[cold]
    fn charge_actual(&self, kib: u64, tag: Tag, granted_at: Moment) {
        let tenants = self.bounds.tenants();
        if tenants.get(tag.tenant).is_some() {
            let elapsed = granted_at.until(self.sampler.moment());
            tenants.charge_actual(tag.tenant, kib, elapsed);
        }
    }

    /// Within the bounds, or past them.
    pub(super) fn reserve(
        &self,
        ask: Ask,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        let (limiter, bounds) = (&self.limiter, &self.bounds);
        limiter.try_reserve(bounds, ask, operation, attempt)
    }

    /// An attempt, and another one on a new sample if the last one is too old for it.
    pub(super) fn resampling<T>(
        &self,
        attempt: impl Fn(Attempt) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        match attempt(Attempt::First) {
            Err(Refused::Stale) => {
                self.sampler.refresh();
                attempt(Attempt::Resampled)
            }
            outcome => outcome,
        }
    }

    #[inline]
    fn permit(&'static self, ask: Ask, first: bool) -> Permit {
        if first {
            // Work begins: the sampler must not doze through it.
            self.sampler.kick();
        }
        Permit::new(self, ask.kib, ask.tag)
    }

    #[inline]
    fn admitted(&'static self, ask: Ask, first: bool) -> Admission {
        Admission::Admitted(self.permit(ask, first))
    }

    /// What is reserved, if there is room now.
    #[cold]
    pub(crate) fn reserve_now(&'static self, request: Request) -> Option<Permit> {
        let ask = request.need.ask(&self.bounds);
        let refused = match self.reserve(ask, Operation::Newcomer, Attempt::First) {
            Ok(first) => return Some(self.permit(ask, first)),
            Err(refused) => refused,
        };
        match self.admit_at_once(ask, Operation::Newcomer, refused) {
            Some(Admission::Admitted(permit)) => Some(permit),
            _ => None,
        }
    }

    /// Admission, or a rejection in place of a wait.
    pub(crate) fn admit_now(&'static self, request: Request) -> Result<Permit, Rejected> {
        let ask = request.need.ask(&self.bounds);
        let tag = ask.tag;
        if self.sheds(tag) {
            return Err(self.reject(Reason::LowPriority, tag));
        }
        let refused = match self.reserve(ask, Operation::Newcomer, Attempt::First) {
            Ok(first) => return Ok(self.permit(ask, first)),
            Err(refused) => refused,
        };
        match self.admit_at_once(ask, Operation::Newcomer, refused) {
            Some(Admission::Admitted(permit)) => return Ok(permit),
            Some(Admission::Rejected(refusal)) => return Err(self.tell(refusal, tag)),
            _ => {}
        }
        // Those who wait may all be another guard's: only the queue knows.
        let terms = Terms {
            most_waiting: usize::MAX,
            deadline: Duration::MAX,
        };
        let ticket = Ticket::join(&self.limiter, &self.bounds, Need::Known(ask), terms);
        match ticket.ok().and_then(Ticket::claim) {
            Some(kib) => Ok(Permit::queued(self, kib, tag)),
            None => Err(self.reject(Reason::NoRoom, tag)),
        }
    }

    #[cold]
    fn admit_slowly(
        &'static self,
        request: Request,
        ask: Ask,
        refused: Refused,
        callers: CallersDeadline<'_>,
    ) -> Admission {
        self.admit_at_once(ask, request.need.operation(), refused)
            .unwrap_or_else(|| self.wait(request, callers))
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
                if self.only_observes() {
                    self.observe(self.would(ask, refused));
                }
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
        if self.only_observes() {
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

    fn never_fits(&self, ask: Ask, held_kib: u64) -> bool {
        ask.low_kib.saturating_add(held_kib) > self.kill_bytes().div_ceil(1024)
    }

    /// What enforce would do with what observe lets pass.
    fn would(&self, ask: Ask, refused: Refused) -> &'static str {
        match refused {
            _ if self.never_fits(ask, 0) => "reject: never_fits",
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
    fn deadline(&self, request: &Request, callers: Option<Duration>) -> Duration {
        let allowed = [request.deadline, callers].into_iter().flatten();
        let config = self.config();
        let deadline = allowed.fold(config.wait_timeout, Duration::min);
        let gives_way = request.need.tag().priority == Priority::Normal
            && self.pressure() >= Pressure::High
            && self.has_seen(Priority::High);
        match gives_way {
            true => deadline.mul_f64(config.normal_wait_at_high),
            false => deadline,
        }
    }

    pub(crate) fn wait(&'static self, request: Request, callers: CallersDeadline<'_>) -> Admission {
        let Request { need, .. } = request;
        let deadline = self.deadline(&request, callers());
        let terms = Terms {
            most_waiting: self.config().max_waiting,
            deadline,
        };
        match Ticket::join(&self.limiter, &self.bounds, need, terms) {
            Ok(ticket) => {
                self.counters.queued.fetch_add(1, Ordering::Relaxed);
                self.sampler.wake_if_older(WAITING_INTERVAL);
                let waiting = Waiting::new(self, ticket, need, deadline);
                Admission::Waiting(waiting)
            }
            Err(refusal) => Admission::Rejected(refusal),
        }
    }
}
