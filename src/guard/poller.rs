//! [`Poller`]: whoever polls for a request, and may be paused.

mod mark;
mod polling;
mod shared;

use std::cell::Cell;
use std::task::{Context, Poll, ready};

use super::permit::Permit;
use super::state::State;
use crate::class::tag::ClassKey;
use crate::running::brake::Taken;
use crate::running::{Fact, Slot, SlotRef};
use crate::telemetry::logs::RequestSpan;
pub(crate) use mark::Mark;
pub(crate) use polling::Polling;
pub(crate) use shared::allocated_bytes;

thread_local! {
    /// How many polls are under way on this thread, one within another.
    static UNDER_WAY: Cell<u32> = const { Cell::new(0) };
}

/// This thread polls: it must not be blocked.
pub(crate) fn is_polling() -> bool {
    UNDER_WAY.get() > 0
}

/// One that polls for a request: its future, its response's body, work that follows it.
/// Each is paused by itself. Boxed, as most are never paused and all are moved.
#[derive(Debug, Default)]
pub(crate) struct Poller(Option<Box<Paused>>);

/// It was paused, and may be so now. Dropped, it is not any more.
#[derive(Debug)]
struct Paused {
    state: &'static State,
    request: SlotRef,
    key: ClassKey,
    /// Where it waits for room to grow into; `None`: it went on.
    place: Option<usize>,
    /// In which it was first.
    span: Option<RequestSpan>,
}

impl Paused {
    fn is_forced(&self) -> bool {
        let brake = self.state.brake;
        self.place.is_some_and(|place| brake.is_forced(place))
    }

    /// Paused → polled, or gone.
    fn go_on(&mut self) {
        if let Some(place) = self.place.take() {
            let now = self.state.sampler.now();
            let ms = self.state.brake.unpark(place, now);
            self.state.counters.tally.paused(self.key, ms);
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.go_on();
        if let Some(span) = &self.span {
            if !self.request.is_over() {
                tell(span, self.request.slot());
            }
        }
    }
}

/// Says for how long the request was paused, if that was not said before.
fn tell(span: &RequestSpan, slot: &Slot) {
    if !span.listens() {
        return;
    }
    if let Some(ms) = slot.untold_ms() {
        span.paused(ms);
    }
}

/// Leave to grow, as far as was taken from the headroom.
pub(crate) struct Leave {
    pub(crate) state: &'static State,
    pub(crate) slot: &'static Slot,
    pub(crate) taken: Taken,
    /// It seems to be about to end.
    pub(crate) ending: bool,
}

impl Leave {
    /// `None`: nobody keeps track of it. `is_first`: its work has not begun. `forced`: whether
    /// there is room or not. Where there is none for it now, what waits for that.
    #[cold]
    pub(crate) fn ask(
        permit: &Permit,
        is_first: bool,
        forced: bool,
    ) -> Result<Option<Self>, (&'static State, &'static Slot)> {
        let Some((state, slot)) = permit.braked(is_first) else {
            return Ok(None);
        };
        let taken = state.may_grow(slot, permit.priority(), forced);
        let ending = slot.ends();
        let leave = taken.map(|taken| Self {
            state,
            slot,
            taken,
            ending,
        });
        leave.map(Some).ok_or((state, slot))
    }

    /// Whether there is room or not.
    #[cold]
    pub(crate) fn take(permit: &Permit, is_first: bool) -> Option<Self> {
        Self::ask(permit, is_first, true).ok().flatten()
    }
}

/// What a poll adds while the brake is on. Dropped, it is known.
///
/// Whoever polls keeps a place for it, in which it is begun: moving it about would cost
/// polls while the brake is off more than all the rest.
pub(crate) struct Growth {
    leave: Option<Leave>,
    from: Mark,
    reported_bytes: u64,
}

impl Growth {
    /// For a poll that takes place now or not at all, and does if this says so. `forced`: nobody
    /// can hold it back.
    #[inline(always)]
    pub(crate) fn try_begin(
        permit: Option<&Permit>,
        forced: bool,
        growth: &mut Option<Self>,
    ) -> bool {
        match permit {
            Some(permit) if permit.brakes() => Self::try_begin_braked(permit, forced, growth),
            _ => true,
        }
    }

    #[cold]
    #[inline(never)]
    fn try_begin_braked(permit: &Permit, forced: bool, growth: &mut Option<Self>) -> bool {
        let leave = Leave::ask(permit, true, forced);
        let has_room = leave.is_ok();
        let leave = leave.ok().flatten();
        *growth = leave.map(|leave| Self::begin(leave, Mark::of_poll));
        has_room
    }

    /// It is this request's.
    #[cfg(feature = "account")]
    pub(crate) fn is_of(&self, slot: &Slot) -> bool {
        let own = self.leave.as_ref().map(|leave| leave.slot);
        own.is_some_and(|own| std::ptr::eq(own, slot))
    }

    /// For a closure, which nobody polls, and which may run for long.
    #[cfg(feature = "account")]
    #[cold]
    pub(crate) fn begin_closure(permit: &Permit) -> Option<Self> {
        // Within a poll it ends with that, at the latest.
        let mark = match is_polling() {
            true => Mark::of_poll,
            false => Mark::of_closure,
        };
        Leave::take(permit, false).map(|leave| Self::begin(leave, mark))
    }

    fn begin(leave: Leave, mark: fn(bool) -> Mark) -> Self {
        leave.slot.begin_poll();
        Self {
            from: mark(leave.state.is_accounted()),
            reported_bytes: leave.slot.reported_bytes(),
            leave: Some(leave),
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let Some(leave) = self.leave.take() else {
            return;
        };
        let Leave { state, slot, .. } = leave;
        let added = self.from.count();
        if !self.from.is_told() {
            slot.say(Fact::Untold);
            shared::ends_untold(slot.request(), added.bytes);
        }
        let grown_bytes = added.bytes.max(0);
        state.grew(slot, grown_bytes as u64, leave.ending);
        slot.end_poll();
        // Who says what it maps is not charged for that twice.
        let has_said = slot.reported_bytes() > 0 || self.reported_bytes > 0;
        let says = state.is_accounted() && has_said;
        let said_bytes = slot.reported_bytes() as i64 - self.reported_bytes as i64;
        if let Some(bytes) = added.uncharged_bytes.filter(|_| !says) {
            slot.charge(added.unsaid(bytes, said_bytes), 1);
        }
        leave.taken.charge(grown_bytes);
        state.has_polled();
    }
}

impl Poller {
    /// Ready if the request may be polled now, for the first time if it `is_first`; else it
    /// is woken when it may. What it adds is in `growth`.
    #[inline(always)]
    pub(crate) fn poll<'a>(
        &mut self,
        permit: Option<&'a Permit>,
        is_first: bool,
        growth: &mut Option<Growth>,
        cx: &Context<'_>,
    ) -> Poll<Polling<'a>> {
        ready!(self.poll_growth(permit, is_first, growth, cx));
        Poll::Ready(Polling::begin(permit, growth))
    }

    /// The same, for what is charged to `permit` and paused with the one that holds the
    /// bytes. Within a poll of the same request it goes on: that has asked for both, and
    /// counts what both add.
    #[cfg(feature = "account")]
    pub(crate) fn poll_followed<'a>(
        &mut self,
        permit: Option<&'a Permit>,
        growth: &mut Option<Growth>,
        cx: &Context<'_>,
    ) -> Poll<Polling<'a>> {
        let holder = permit.map(Permit::holder);
        // In the innermost of this thread's polls.
        let slot = holder.filter(|_| is_polling()).and_then(Permit::slot);
        if slot.is_some_and(crate::running::charge::charges) {
            self.0.iter_mut().for_each(|paused| paused.go_on());
            return Poll::Ready(Polling::within(permit));
        }
        ready!(self.poll_growth(holder, false, growth, cx));
        Poll::Ready(Polling::begin(permit, growth))
    }

    #[inline(always)]
    fn poll_growth(
        &mut self,
        permit: Option<&Permit>,
        is_first: bool,
        growth: &mut Option<Growth>,
        cx: &Context<'_>,
    ) -> Poll<()> {
        match permit {
            Some(permit) if permit.brakes() || self.is_paused() => {
                self.poll_braked(permit, is_first, growth, cx)
            }
            None if self.0.is_some() => {
                // Paused → polled: nobody keeps track of it any more.
                self.0 = None;
                Poll::Ready(())
            }
            _ => Poll::Ready(()),
        }
    }

    #[inline(always)]
    fn is_paused(&self) -> bool {
        matches!(&self.0, Some(paused) if paused.place.is_some())
    }

    /// What it polls is at its end: the request's span is told for how long it was paused,
    /// here or elsewhere.
    #[inline(always)]
    pub(crate) fn ended(&mut self, slot: Option<&'static Slot>) {
        if let Some(slot) = slot.filter(|slot| slot.was_paused()) {
            self.tell(slot);
        }
    }

    #[cold]
    fn tell(&mut self, slot: &Slot) {
        // First in the span in which it was paused itself.
        self.0 = None;
        tell(&RequestSpan::current(), slot);
    }

    /// In the request's span, if it has one.
    #[cold]
    #[inline(never)]
    fn poll_braked(
        &mut self,
        permit: &Permit,
        is_first: bool,
        growth: &mut Option<Growth>,
        cx: &Context<'_>,
    ) -> Poll<()> {
        let leave = self.poll_leave(permit, is_first, cx);
        if let Some(paused) = &mut self.0 {
            paused.span.get_or_insert_with(RequestSpan::current);
        }
        *growth = ready!(leave).map(|leave| Growth::begin(leave, Mark::of_poll));
        Poll::Ready(())
    }

    /// Ready once there is room for what comes next; `None`: nobody keeps track of it.
    #[cold]
    pub(crate) fn poll_leave(
        &mut self,
        permit: &Permit,
        is_first: bool,
        cx: &Context<'_>,
    ) -> Poll<Option<Leave>> {
        let is_forced = self.0.as_ref().is_some_and(|paused| paused.is_forced());
        match Leave::ask(permit, is_first, is_forced) {
            Ok(leave) => {
                if let Some(paused) = &mut self.0 {
                    paused.go_on();
                }
                Poll::Ready(leave)
            }
            Err((state, slot)) => {
                let paused = self.0.get_or_insert_with(|| {
                    Box::new(Paused {
                        state,
                        request: slot.request(),
                        key: slot.class_key(),
                        place: None,
                        span: None,
                    })
                });
                let again = paused.place.is_some();
                let now = state.sampler.now();
                let guard = state.board_key();
                let place = (state.brake).park(paused.place, slot, guard, cx.waker(), now);
                paused.place = Some(place);
                state.pauses(again);
                Poll::Pending
            }
        }
    }
}
