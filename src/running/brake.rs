//! The brake, which pauses requests: one that is not polled does not grow.
//!
//! Who goes on and who is paused says [`who_goes_on`], after each full sample and of all
//! requests at once. Each has its [`turn`] from that until the next, by which its polls are
//! let through or held back here.
//!
//! One for each ledger. While it is *on*, each poll of a request in flight first takes
//! what it may add from the headroom, and gives back afterwards what it did not need:
//! how far growth may come (the *ceiling*, published from what had been counted before usage
//! was read) less how far it has come.
//!
//! Whoever finds too little is paused until a sweep after a sample finds headroom for it.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::place::Place;
use super::{Slot, SlotRef};
use crate::sync::foreign::{self, Code};
use crate::sync::optional::AtomicOption;
use crate::sync::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, fence, lock,
};

mod bounds;
mod gone;
mod parts;
mod sweep;
mod taken;
mod turn;
mod who_goes_on;

pub(crate) use bounds::{Bound, fills_at_once};
use parts::Parts;
pub(crate) use parts::{Ahead, UNTOLD};
pub(crate) use sweep::{Swept, Trust};
pub(crate) use taken::Taken;
pub(crate) use who_goes_on::{Growth, Runner, STEPS, Stuck};

/// Who may grow, on one ledger.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    /// Polls ask first.
    on: AtomicBool,
    /// And not only for guards that observe.
    enforced: AtomicBool,
    /// And have done so from then on.
    on_since_ms: AtomicU64,
    /// What polls have added, in bytes. Only rises.
    grown: AtomicI64,
    /// What polls under way may add.
    ongoing: AtomicI64,
    /// What those have really added that could have been held back. Only rises.
    let_grown: AtomicI64,
    /// What polls under way may add that nobody could hold back.
    unheld_ongoing: AtomicI64,
    /// What polls of newcomers that are under way may add beyond that at worst: no plan has
    /// them yet.
    rest: AtomicI64,
    /// What parts of work under way may add, of those that could be: it is in `grown` already.
    parts: Mutex<Parts>,
    /// What the two may come to.
    ceiling: AtomicI64,
    /// What of that the allocator keeps, and from where on a poll counts as a large one.
    kept: AtomicI64,
    large: AtomicI64,
    /// What of the reserve, which is beyond the headroom, is for those that are about to
    /// end.
    for_ending: AtomicI64,
    /// What is to be done with a request that no sweep has seen yet: a turn's bits.
    newcomer: AtomicU32,
    /// What it must leave free, in bytes, beside all that it needs itself.
    newcomer_least: AtomicI64,
    /// The guard and the kind of a request whose poll has added more than any was known to,
    /// and goes on: others of it may, too.
    outgrows: AtomicOption,
    paused: AtomicU32,
    /// Of those nobody polls so many, though they were woken.
    left: AtomicU32,
    /// Polls that found room.
    passed: AtomicU64,
    state: Mutex<State>,
    /// Of all requests, ever.
    pauses: AtomicU64,
    paused_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pausing: Slab<Pausing>,
    /// The place of the first of them: those below were others', see `leave_behind`.
    first_place: usize,
    /// Which process has left behind what was another's.
    process: u32,
    /// The guards that want it on.
    wanted: Vec<usize>,
    /// By guard: how far growth may come.
    bounds: Vec<(usize, Bound)>,
    /// By guard: its requests in flight, as it saw them last.
    runners: Vec<(usize, Vec<Running>)>,
    /// Whom all others leave what it needs to end.
    front: Option<SlotRef>,
    /// By guard: what those give back that were told to stop, and by when.
    told: Vec<(usize, u64, Duration)>,
}

/// Who is woken is polled before so much time has passed, and so many sweeps, of which there
/// are none while the process stands still.
const LEFT_AFTER: Duration = Duration::from_millis(250);
const LEFT_AFTER_SWEEPS: u32 = 10;

/// A poller that is paused.
#[derive(Debug)]
struct Pausing {
    request: SlotRef,
    /// That it runs for.
    guard: usize,
    /// Cloned under the lock, where nobody's code may run.
    waker: Arc<Waker>,
    /// When it was woken, if it was, and how many sweeps ago; it is not back since.
    woken: Option<(Duration, u32)>,
    /// It goes on whatever the headroom is.
    forced: bool,
}

impl Pausing {
    /// Whoever polls it does something else: it is not to hold up the others.
    fn is_left(&self, now: Duration) -> bool {
        self.woken
            .is_some_and(|(at, sweeps)| now >= at + LEFT_AFTER && sweeps >= LEFT_AFTER_SWEEPS)
    }

    /// Of whoever has that now.
    fn slot(&self) -> &'static Slot {
        self.request.slot()
    }
}

/// A request in flight, where it stands in the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) request: SlotRef,
    pub(crate) place: Place,
    pub(crate) runner: Runner,
}

/// What must stay free when a newcomer takes some while others are in the midst of their first
/// polls: each may come to its worst before anybody can hold it back.
fn beside_newcomers(keep_bytes: i64, rest_bytes: i64, others_bytes: i64) -> i64 {
    match others_bytes {
        0 => keep_bytes,
        _ => keep_bytes.max(rest_bytes).saturating_add(others_bytes),
    }
}

impl Brake {
    /// Relaxed: whoever is a little late takes no more than one poll adds.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// For how long, in all, the one that has been paused longest of those that are.
    #[cfg(feature = "dashboard")]
    pub(crate) fn longest_paused(&self, now: Duration) -> Duration {
        let state = self.state();
        let paused = state.pausing.iter().map(|(_, one)| one.slot().paused(now));
        paused.max().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn paused(&self) -> u32 {
        self.paused.load(Ordering::Relaxed)
    }

    /// Somebody is paused, and would go on with more room.
    pub(crate) fn wants_room(&self) -> bool {
        self.paused() > self.left.load(Ordering::Relaxed)
    }

    /// How often pollers were paused so far.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }

    /// For how long requests were, all pauses that are over together.
    pub(crate) fn paused_for(&self) -> Duration {
        Duration::from_millis(self.paused_ms.load(Ordering::Relaxed))
    }

    /// What polls have added so far: to be read before usage is.
    pub(crate) fn grown_bytes(&self) -> i64 {
        self.grown.load(Ordering::Acquire)
    }

    /// The same while no poll is under way.
    pub(crate) fn grown_at_rest(&self) -> Option<i64> {
        let ongoing = self.ongoing.load(Ordering::Acquire);
        (ongoing == 0).then(|| self.grown_bytes())
    }

    /// What polls have added from `grown_bytes` on, and those under way may add.
    pub(crate) fn added_since(&self, grown_bytes: i64) -> u64 {
        let ongoing = self.ongoing.load(Ordering::Acquire);
        let added_bytes = self.grown_bytes() + ongoing - grown_bytes;
        added_bytes.max(0) as u64
    }

    pub(crate) fn headroom_bytes(&self) -> i64 {
        // In this order, the other way round than where they are counted: what a poll has
        // added by now is in one of the two.
        let ongoing = self.ongoing.load(Ordering::Acquire);
        let grown = self.grown.load(Ordering::Acquire);
        let ceiling = self.ceiling.load(Ordering::Acquire);
        ceiling.saturating_sub(grown + ongoing)
    }

    /// Takes what one poll may add, if it is there.
    pub(crate) fn take(&'static self, slot: &Slot, guard: usize, jump_bytes: u64) -> Option<Taken> {
        let mut keep_bytes = self.keep_bytes(slot, guard)?;
        let mut taken = self.begin(jump_bytes, true);
        if let Some(rest_bytes) = slot.rest_of_newcomer() {
            taken.rest_bytes = rest_bytes;
            let others_bytes = self.rest.fetch_add(rest_bytes, Ordering::AcqRel);
            keep_bytes = beside_newcomers(keep_bytes, rest_bytes, others_bytes);
        }
        // AcqRel, here and where it is counted: of two who take the last of it at once,
        // at least one sees the other's part.
        let headroom_bytes = self.headroom_bytes();
        let fits = headroom_bytes >= self.beside_kept(keep_bytes, taken.bytes);
        // By who goes on and never ends nobody else gets on.
        if fits && !slot.is_idle() {
            self.passed.fetch_add(1, Ordering::Relaxed);
        }
        fits.then_some(taken)
    }

    /// Takes what one poll may add, whether it is there or not.
    pub(crate) fn take_anyway(&'static self, jump_bytes: u64) -> Taken {
        let taken = self.begin(jump_bytes, false);
        let unheld = &self.unheld_ongoing;
        unheld.fetch_add(taken.bytes, Ordering::AcqRel);
        taken
    }

    fn begin(&'static self, jump_bytes: u64, was_let: bool) -> Taken {
        let bytes = jump_bytes.min(1 << 50) as i64;
        self.ongoing.fetch_add(bytes, Ordering::AcqRel);
        Taken {
            brake: self,
            bytes,
            was_let,
            rest_bytes: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Keeps a poller until there is room for it. `place`: where it stands already. One that
    /// has been cancelled is woken at once: whoever cancelled it may have looked before.
    pub(crate) fn park(
        &self,
        place: Option<usize>,
        slot: &'static Slot,
        guard: usize,
        waker: &Waker,
        now: Duration,
    ) -> usize {
        // Cloned outside of the lock: it may be anybody's.
        let kept = Arc::new(waker.clone());
        let mut state = self.state();
        let cancelled = slot.is_cancelled();
        let known = place.and_then(|place| Some((place, state.at(place)?)));
        let (place, before) = match known {
            Some((place, pausing)) => {
                pausing.woken = None;
                pausing.forced |= cancelled;
                // The poll that found no room was none.
                slot.stands_still();
                (place, Some(std::mem::replace(&mut pausing.waker, kept)))
            }
            None => {
                let key = state.pausing.insert(Pausing {
                    request: slot.request(),
                    guard,
                    waker: kept,
                    woken: None,
                    forced: cancelled,
                });
                self.paused.fetch_add(1, Ordering::Relaxed);
                self.pauses.fetch_add(1, Ordering::Relaxed);
                slot.pause(now);
                (state.first_place + key, None)
            }
        };
        drop(state);
        drop(before);
        // See where somebody is gone.
        fence(Ordering::SeqCst);
        if cancelled {
            foreign::call(Code::Waker, || waker.wake_by_ref());
        }
        place
    }

    /// A poller goes on, or is gone. Says for how long its request was paused, if it is not
    /// any more. That may be over, and another one have its slot.
    pub(crate) fn unpark(&self, place: usize, now: Duration) -> u64 {
        let mut state = self.state();
        let pausing = (state.key(place)).and_then(|key| state.pausing.try_remove(key));
        let ms = pausing.as_ref().map_or(0, |one| {
            self.paused.fetch_sub(1, Ordering::Relaxed);
            one.request.resume(now)
        });
        drop(state);
        self.paused_ms.fetch_add(ms, Ordering::Relaxed);
        drop(pausing);
        ms
    }

    /// It is to go on, whatever the headroom is.
    pub(crate) fn is_forced(&self, place: usize) -> bool {
        let mut state = self.state();
        state.at(place).is_some_and(|one| one.forced)
    }

    /// A guard's requests in flight, in its order.
    pub(crate) fn tell(&self, guard: usize, runners: Vec<Running>) {
        let mut state = self.state();
        state.runners.retain(|(key, _)| *key != guard);
        if !runners.is_empty() {
            state.runners.push((guard, runners));
        }
    }

    /// Of those of whose growth nothing is known, one goes before all others once it has
    /// been paused for so long.
    pub(crate) fn bring_forward(&self, guard: usize, longest: Duration, now: Duration) {
        let state = self.state();
        let paused = state.pausing.iter().map(|(_, one)| one);
        let unknown = paused.filter(|one| one.guard == guard && one.slot().turn().is_none());
        let first = unknown.min_by_key(|one| one.slot().place());
        if let Some(first) = first.filter(|one| one.slot().paused(now) >= longest) {
            first.slot().to_the_front();
        }
    }

    /// Somebody is gone, which was said before: has its request look again, if it is
    /// paused, whether it is still wanted.
    pub(crate) fn is_gone(&self, slot: &Slot) {
        // SeqCst, here and where somebody is paused: either this sees that it is, or who
        // looks after that sees what was said.
        fence(Ordering::SeqCst);
        if slot.is_paused() {
            self.wake(slot);
        }
    }

    #[cold]
    fn wake(&self, slot: &Slot) {
        let wakers: Vec<Arc<Waker>> = {
            let state = self.state();
            let of_slot = |(_, one): (usize, &Pausing)| {
                std::ptr::eq(one.slot(), slot).then(|| Arc::clone(&one.waker))
            };
            state.pausing.iter().filter_map(of_slot).collect()
        };
        wakers.into_iter().for_each(foreign::wake_kept);
    }

    /// A guard has told some of its requests to stop: by then so much is given back.
    pub(crate) fn told(&self, guard: usize, bytes: u64, until: Duration) {
        self.state().told.push((guard, bytes, until));
    }

    /// What other guards' requests still give back that were told to stop.
    pub(crate) fn told_by_others(&self, guard: usize, now: Duration) -> u64 {
        let told = &mut self.state().told;
        told.retain(|&(_, _, until)| now < until);
        let others = told.iter().filter(|&&(other, ..)| other != guard);
        others.map(|&(_, bytes, _)| bytes).sum()
    }

    /// A request that is paused is to be polled all the same: it was cancelled.
    pub(crate) fn force(&self, request: SlotRef) {
        let mut wakers = Vec::new();
        for (_, one) in &mut self.state().pausing {
            if one.request == request {
                one.forced = true;
                wakers.push(Arc::clone(&one.waker));
            }
        }
        wakers.into_iter().for_each(foreign::wake_kept);
    }
}
