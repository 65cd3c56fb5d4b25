//! Admission in two steps: for a request's body, and then for its work.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::admission::Verdict;
use super::permit::Permit;
use super::state::State;
use super::waiting::Waiting;
use crate::class::tag::Tag;
use crate::classify::labels::Demand;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Attempt, Need, Operation, Refusal};
use crate::running::{Fact, Slot};
use crate::telemetry::logs::say;
use crate::units::{MAX_KIB, kib};

/// The body is read; only its bytes are reserved.
const READING: u8 = 0;
/// The body was dropped before its end; nobody will wait for the rest.
const LET_GO: u8 = 1;
/// The rest is reserved, or the request turned away.
const SETTLED: u8 = 2;

/// Somebody was told that the layer is missing.
static TOLD: AtomicBool = AtomicBool::new(false);

/// A request that was admitted for its body, and how it comes to have the rest.
///
/// The body reads and finishes; the response future looks at what came of it. Its end, or
/// else its drop, takes it off those whose work has not begun.
pub(crate) struct Stage {
    permit: Permit,
    slot: &'static Slot,
    demand: Demand,
    /// When the request's caller gives up.
    callers: Option<Instant>,
    read_bytes: AtomicU64,
    /// From reading on.
    step: AtomicU8,
    taken: AtomicBool,
    rejected: OnceLock<Rejected>,
}

impl Stage {
    /// `None`: more than can be in flight, so its work begins at once.
    pub(crate) fn begin(
        permit: &mut Permit,
        demand: Demand,
        callers: Option<Instant>,
    ) -> Option<Arc<Self>> {
        permit.start_staged();
        let slot = permit.slot()?;
        permit.state().limiter.stage();
        Some(Arc::new(Self {
            permit: permit.clone(),
            slot,
            demand,
            callers,
            read_bytes: AtomicU64::new(0),
            step: AtomicU8::new(READING),
            taken: AtomicBool::new(false),
            rejected: OnceLock::new(),
        }))
    }

    /// The layer has it.
    pub(crate) fn is_taken(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// So many bytes of the body are there; the reservation grows if it has to.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), Rejected> {
        let (state, tag) = (self.permit.state(), self.demand.tag());
        let bytes = bytes as u64;
        let total_bytes = self.read_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        state.limiter.stage_read(bytes);
        let missing_kib = self.slot.claim_up_to(kib(total_bytes));
        if missing_kib == 0 {
            return Ok(());
        }
        let grown = state.grow_body(missing_kib, tag, total_bytes);
        if grown != Ok(true) {
            self.slot.unclaim(missing_kib);
        }
        let grown = grown.map_err(|reason| self.reject(reason.into()));
        grown.map(drop)
    }

    /// The body is there: ready once the rest is reserved. Settled when it is ready.
    pub(crate) fn poll_rest(
        &self,
        waiting: &mut Option<Box<Waiting>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejected>> {
        let reserved = ready!(self.poll_reserved(waiting, cx));
        *waiting = None;
        Poll::Ready(match reserved {
            Ok(()) => {
                self.end(READING);
                Ok(())
            }
            Err(refusal) => Err(self.reject(refusal)),
        })
    }

    fn poll_reserved(
        &self,
        waiting: &mut Option<Box<Waiting>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if waiting.is_none() {
            *waiting = self.admit_rest()?.map(Box::new);
        }
        if let Some(waits) = waiting {
            let kib = ready!(waits.poll_reason(cx))?;
            self.slot.top_up(kib);
            self.permit.rest_is_granted(kib);
        }
        Poll::Ready(Ok(()))
    }

    /// Reserves what is estimated for it beyond what it has for its body, or joins the queue
    /// for that.
    fn admit_rest(&self) -> Result<Option<Waiting>, Refusal> {
        let (state, tag) = (self.permit.state(), self.demand.tag());
        // In observe mode that was counted when it came.
        if state.would_shed(tag.priority) && !state.live.only_observes() {
            return Err(Reason::LowPriority.into());
        }
        let held_kib = self.slot.reserved_kib();
        let need = Need::More { tag, held_kib };
        let attempt = |attempt| {
            let ask = need.ask(&state.bounds);
            let reserved = state.reserve(ask, need.operation(), attempt);
            reserved.map(|_| ask.kib)
        };
        let refused = match state.resampling(attempt) {
            Ok(kib) => {
                self.slot.top_up(kib);
                return Ok(None);
            }
            Err(refused) => refused,
        };
        let ask = need.ask(&state.bounds);
        match state.judge(ask, held_kib, refused) {
            Verdict::Force => {
                state.observe_forced(ask, held_kib, refused);
                self.slot.top_up(state.force_more(ask.kib, tag));
                return Ok(None);
            }
            Verdict::Reject(reason) => return Err(reason.into()),
            Verdict::Wait => {}
        }
        let demand = Demand {
            need,
            ..self.demand
        };
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        state.wait(demand, &|| self.callers.map(left)).map(Some)
    }

    /// Leaves the rejection to the response future.
    fn reject(&self, refusal: Refusal) -> Rejected {
        // Before it is counted as a rejection: it is in flight as well.
        self.permit.turn_away();
        let rejected = self.permit.state().tell(refusal, self.demand.tag());
        let _ = self.rejected.set(rejected.clone());
        // Before the future is woken, so that it sees the rejection.
        self.end(READING);
        self.slot.wake();
        rejected
    }

    pub(crate) fn rejected(&self) -> Option<&Rejected> {
        self.rejected.get()
    }

    /// Reading → let go: the body is dropped before its end.
    pub(crate) fn let_go(&self) {
        self.moves(READING, LET_GO);
    }

    /// Let go → settled: the handler works on without its body, and has the rest reserved past
    /// the bounds.
    pub(crate) fn catch_up(&self) {
        if self.step.load(Ordering::Acquire) == LET_GO && self.end(LET_GO) {
            let (state, tag) = (self.permit.state(), self.demand.tag());
            let held_kib = self.slot.reserved_kib();
            let rest = Need::More { tag, held_kib }.ask(&state.bounds);
            self.slot.top_up(state.force_more(rest.kib, tag));
        }
    }

    pub(crate) fn answered(&self) {
        let missing = !self.taken.load(Ordering::Relaxed);
        if missing && !TOLD.swap(true, Ordering::Relaxed) {
            say!(
                warn,
                "the memory guard stages bodies, and a request was answered that no \
                 StagedBodyLayer had seen; it has to be inside of the guard"
            );
        }
    }

    /// To settled: its work begins, or never will. `false` if it was not in the step `from`.
    fn end(&self, from: u8) -> bool {
        let ended = self.moves(from, SETTLED);
        if ended {
            self.slot.unsay(Fact::Staged);
            self.unstage();
        }
        ended
    }

    fn moves(&self, from: u8, to: u8) -> bool {
        let (moved, not) = (Ordering::AcqRel, Ordering::Acquire);
        self.step.compare_exchange(from, to, moved, not).is_ok()
    }

    fn unstage(&self) {
        let read_bytes = self.read_bytes.load(Ordering::Relaxed);
        self.permit.state().limiter.unstage(read_bytes);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Its slot says to the last that it has shown nothing of the work.
        if *self.step.get_mut() != SETTLED {
            self.unstage();
        }
    }
}

impl State {
    /// What a request that comes with a body asks for. Of a body that nobody holds back,
    /// whatever it says it is, no more than the whole request is expected to need: it grows
    /// as it is read, and what is only announced would shut out others.
    pub(crate) fn for_body(&self, demand: Demand) -> Demand {
        let (ask, tag) = (demand.need.ask(&self.bounds), demand.tag());
        let passes = self.live.only_observes() && self.never_fits(ask, 0);
        if passes && !self.would_shed(tag.priority) {
            // What would have been shed has been counted.
            self.observe("reject: never_fits");
        } else if !passes && self.bounds.caps().kib() < MAX_KIB {
            return demand;
        }
        let kib = ask.kib.min(self.bounds.estimate(tag).kib);
        let need = Need::Known(Ask::exactly(kib, tag));
        Demand { need, ..demand }
    }

    /// More of a staged request's body is there than was reserved for it. `Ok(false)`: it
    /// goes on, but that is more than can be counted.
    fn grow_body(&self, missing_kib: u64, tag: Tag, total_bytes: u64) -> Result<bool, Reason> {
        let limit_kib = self.shown.limit_bytes().map_or(MAX_KIB, kib);
        let body = Operation::Body { limit_kib };
        if self.live.only_observes() {
            let grown = self.reserve_more(missing_kib, tag, body, Attempt::PastBounds);
            return Ok(grown.is_ok());
        }
        if self.shown.never_fits(kib(total_bytes)) {
            return Err(Reason::NeverFits);
        }
        match self.reserve_more(missing_kib, tag, body, Attempt::First) {
            Ok(()) => Ok(true),
            Err(_) => Err(Reason::CriticalPressure),
        }
    }
}
