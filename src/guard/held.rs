//! [`InFlight`]: a permit whose work is under way.

use std::task::Context;

use http::Method;

use super::permit::Permit;
use crate::running::Slot;
use crate::sync::foreign;
use crate::telemetry::outcome::Outcome;

/// A permit whose work is under way: dropped before it is taken, the permit's
/// clones are told that nobody waits for the result any more.
#[derive(Debug)]
pub(crate) struct InFlight {
    permit: Option<Permit>,
    /// Nobody reads more of the answer than its head.
    for_head: bool,
    /// And that is there: nobody waits for more.
    is_read: bool,
}

impl InFlight {
    #[inline]
    pub(crate) fn new(permit: Option<Permit>) -> Self {
        Self {
            permit,
            for_head: false,
            is_read: false,
        }
    }

    /// For a request of this method.
    #[inline]
    pub(crate) fn of(permit: Option<Permit>, method: &Method) -> Self {
        Self {
            permit,
            for_head: method == Method::HEAD,
            is_read: false,
        }
    }

    /// The head of the answer is there. To be dropped then is to be given up, unless nobody
    /// reads more than that, as where it promises no body.
    #[inline]
    pub(crate) fn with_head(&mut self, is_all: bool) -> Self {
        Self {
            permit: self.permit.take(),
            for_head: false,
            is_read: self.for_head || is_all,
        }
    }

    #[inline(always)]
    pub(crate) fn start(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.start();
        }
    }

    #[inline]
    pub(crate) fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    #[inline]
    pub(crate) fn slot(&self) -> Option<&'static Slot> {
        self.permit().and_then(Permit::slot)
    }

    /// The guard needs the memory; if not, `cx` is woken when it does.
    #[inline]
    pub(crate) fn is_cancelled(&self, cx: &Context<'_>) -> bool {
        let Some(slot) = self.slot() else {
            return false;
        };
        // The waker first: a cancellation after it wakes, one before it shows.
        slot.register(cx.waker());
        slot.is_cancelled()
    }

    /// The response has begun: it is not cancelled any more.
    #[inline]
    pub(crate) fn answered(&self) {
        if let Some(permit) = self.permit() {
            permit.answered();
        }
    }

    /// The work came to its end, and something else holds on.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// The response stands in the place of a result that a guard refused, and counted then.
    #[cold]
    pub(crate) fn result_is_refused(&self, by: usize) {
        let own = |permit: &&Permit| permit.state().board_key() == by;
        if let Some(permit) = self.permit().filter(own) {
            permit.mark(Outcome::TurnedAway);
        }
    }

    pub(crate) fn fail(&mut self) {
        if let Some(permit) = self.permit() {
            permit.fails();
        }
        self.end();
    }

    /// Runs a part of the work. A panic is its failure, whoever catches that.
    #[inline(always)]
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        foreign::watch(work, || {
            self.permit().into_iter().for_each(Permit::fails);
        })
    }

    #[inline]
    pub(crate) fn end(&mut self) {
        self.permit = None;
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        if let Some(permit) = self.permit.as_ref().filter(|_| !self.is_read) {
            permit.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::InFlight;
    use crate::{ManualSource, MemoryGuardLayer};

    #[test]
    fn who_is_turned_away_or_has_failed_has_not_given_up() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
        let layer = builder.build().unwrap();
        let guard = layer.guard();
        let in_flight = || InFlight::new(Some(guard.try_acquire(1024).unwrap()));
        let turned_away = in_flight();
        turned_away.permit().unwrap().turn_away();
        drop(turned_away);
        let failed = in_flight();
        failed.permit().unwrap().fails();
        drop(failed);
        let given_up = || guard.state().counters.outcomes.all_given_up();
        assert_eq!(given_up(), 0);
        drop(in_flight());
        assert_eq!(given_up(), 1);
    }
}
