//! Admission in two steps: for a request's body, and then for its work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::admission::Verdict;
use super::permit::Permit;
use super::state::State;
use super::waiting::Waiting;
use crate::class::tag::Tag;
use crate::classify::labels::Demand;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Attempt, Need, Operation};
use crate::running::{Fact, Slot};
use crate::units::{MAX_KIB, kib};

/// The rest of a request's estimate: reserved, or waited for.
pub(crate) enum Remainder {
    Reserved(u64),
    Waiting(Waiting),
}

/// A request that was admitted for its body, and whose work has not begun.
///
/// Its end, or else its drop, takes it off those whose work has not begun.
pub(crate) struct StagedWork {
    permit: Permit,
    slot: &'static Slot,
    demand: Demand,
    read_bytes: AtomicU64,
}

impl StagedWork {
    /// `None`: more than can be in flight, so its work begins at once.
    pub(crate) fn begin(permit: &mut Permit, demand: Demand) -> Option<Self> {
        permit.start_staged();
        let slot = permit.slot()?;
        permit.state().limiter.stage();
        Some(Self {
            permit: permit.clone(),
            slot,
            demand,
            read_bytes: AtomicU64::new(0),
        })
    }

    fn state(&self) -> &'static State {
        self.permit.state()
    }

    /// So many bytes of the body are there; the reservation grows if it has to.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), Rejected> {
        let (state, tag) = (self.state(), self.demand.tag());
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
        grown.map_err(|reason| state.reject(reason, tag))?;
        Ok(())
    }

    /// Reserves what is estimated for it beyond what it has for its body, or joins the queue
    /// for that.
    pub(crate) fn admit_rest(&self, callers: Option<Duration>) -> Result<Remainder, Rejected> {
        let (state, tag) = (self.state(), self.demand.tag());
        // In observe mode that was counted when it came.
        if state.would_shed(tag.priority) && !state.live.only_observes() {
            return Err(state.reject(Reason::LowPriority, tag));
        }
        let held_kib = self.slot.reserved_kib();
        let need = Need::More { tag, held_kib };
        let attempt = |attempt| {
            let ask = need.ask(&state.bounds);
            let reserved = state.reserve(ask, need.operation(), attempt);
            reserved.map(|_| ask.kib)
        };
        let refused = match state.resampling(attempt) {
            Ok(kib) => return Ok(Remainder::Reserved(kib)),
            Err(refused) => refused,
        };
        let ask = need.ask(&state.bounds);
        match state.judge(ask, held_kib, refused) {
            Verdict::Force => {
                state.observe_forced(ask, held_kib, refused);
                return Ok(Remainder::Reserved(state.force_more(ask.kib, tag)));
            }
            Verdict::Reject(reason) => return Err(state.reject(reason, tag)),
            Verdict::Wait => {}
        }
        let demand = Demand {
            need,
            ..self.demand
        };
        let waiting = state.wait(demand, &|| callers);
        (waiting.map(Remainder::Waiting)).map_err(|refusal| state.tell(refusal, tag))
    }

    pub(crate) fn has(&self, rest_kib: u64) {
        self.slot.top_up(rest_kib);
    }

    /// Reserves the same, past the bounds.
    pub(crate) fn force_rest(&self) {
        let (state, tag) = (self.state(), self.demand.tag());
        let held_kib = self.slot.reserved_kib();
        let rest = Need::More { tag, held_kib }.ask(&state.bounds);
        self.has(state.force_more(rest.kib, tag));
    }

    /// Its work begins, or never will.
    pub(crate) fn end(&self) {
        self.slot.unsay(Fact::Staged);
        self.unstage();
    }

    /// The same, as it is dropped: its slot says to the last that it has shown nothing of
    /// the work.
    pub(crate) fn unstage(&self) {
        let read_bytes = self.read_bytes.load(Ordering::Relaxed);
        self.state().limiter.unstage(read_bytes);
    }

    pub(crate) fn turn_away(&self) {
        self.permit.turn_away();
    }

    pub(crate) fn wake(&self) {
        self.slot.wake();
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
