//! [`Permit`]: the right to use memory, and the duty to give it back.

mod grow;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::cost::Cost;
use super::state::{Reservation, State};
use crate::class::Priority;
use crate::class::tag::Tag;
use crate::error::{Reason, Rejected};
use crate::limiter::Limiter;
use crate::memory::Moment;
use crate::running::{Fact, Slot};
use crate::telemetry::outcome::{Mark, Outcome};

/// Memory that is reserved for one piece of work.
///
/// It is given back when the last clone is dropped. The response flavour puts
/// a clone into the request's extensions, so that work which outlives the
/// response can keep it:
///
/// ```
/// use axum::Extension;
/// use tower_memory_guard::Permit;
///
/// async fn render(Extension(permit): Extension<Permit>) -> String {
///     tokio::task::spawn_blocking(move || {
///         for _ in 0..3 {
///             if permit.cancelled() {
///                 return String::new();
///             }
///             // … a part of the work …
///         }
///         "done".to_string()
///     })
///     .await
///     .unwrap_or_default()
/// }
/// ```
pub struct Permit {
    own: Reservation,
    /// What the work holds, where the guard keeps track of it.
    slot: Option<&'static Slot>,
    /// Made by the first clone, so that a permit nobody clones allocates nothing.
    shared: OnceLock<Arc<Shared>>,
}

/// What the clones of a permit have in common. Once it exists it owns the reservation.
struct Shared {
    own: Reservation,
    slot: OnceLock<&'static Slot>,
    cancelled: AtomicBool,
    /// The permit of a guard further out, which this one took the place of.
    outer: OnceLock<Box<Permit>>,
    /// KiB that it was granted later, and when.
    rest: OnceLock<(u64, Moment)>,
}

impl Permit {
    /// Owns a reservation of `kib` that has been made; of none where a guard further out has
    /// the bytes.
    #[inline]
    pub(crate) fn new(state: &'static State, kib: u64, tag: Tag) -> Self {
        state.counters.tally.admitted(tag);
        Self {
            own: Reservation {
                state,
                kib: NonZeroU64::new(kib),
                tag,
                granted_at: Moment::NONE,
                mark: Mark::default(),
            },
            slot: None,
            shared: OnceLock::new(),
        }
    }

    /// [`new`](Self::new), for what had waited.
    pub(crate) fn queued(state: &'static State, kib: u64, tag: Tag) -> Self {
        let mut permit = Self::new(state, kib, tag);
        permit.own.granted_at = state.sampler.moment();
        permit
    }

    /// The work begins: from now on the guard keeps track of what it holds. Without bytes
    /// of its own it is another permit's work, and tracked there.
    ///
    /// In place: moving a permit that was just made costs more than making it.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        if let Some(kib) = self.own.kib {
            if self.own.state.tracks() || self.own.tag.is_classified() {
                self.slot = self.own.state.track(kib.get(), self.own.tag);
            }
        }
    }

    /// [`start`](Self::start) for a request that is admitted for its body first.
    pub(crate) fn start_staged(&mut self) {
        self.slot = self.own.state.track(self.own.kib(), self.own.tag);
        if let Some(slot) = self.slot {
            slot.say(Fact::Staged);
        }
    }

    /// Such a one had waited for the rest as well.
    pub(crate) fn rest_is_granted(&self, kib: u64) {
        let granted_at = self.own.state.sampler.moment();
        let _ = self.share().rest.set((kib, granted_at));
    }

    #[inline]
    pub(crate) fn is_staged(&self) -> bool {
        self.slot.is_some_and(|slot| slot.is(Fact::Staged))
    }

    /// [`start`](Self::start) for work whose cost may have been declared.
    pub(crate) fn start_work(mut self, cost: Cost) -> Self {
        self.start();
        if let (Cost::Bytes(_), Some(slot)) = (cost, self.slot) {
            slot.say(Fact::Declared);
        }
        self
    }

    /// Leaves the reservation of a permit without clones to the caller, who
    /// must release so many KiB.
    #[inline]
    pub(crate) fn into_kib(self) -> u64 {
        debug_assert!(
            self.shared.get().is_none(),
            "its clones own the reservation"
        );
        debug_assert!(self.slot.is_none(), "the work has begun");
        let kib = self.own.kib();
        debug_assert!(!self.own.tag.is_classified(), "its class goes with it");
        std::mem::forget(self);
        kib
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        let holder = self.holder();
        holder.slot().map_or(holder.own.kib(), Slot::reserved_kib) * 1024
    }

    /// The most that the work has held so far: allocated while it was polled
    /// (with the `account` feature's allocator installed), and
    /// [`report`](Self::report)ed. Exact to 64 KiB for each thread that works for it, but
    /// for what is mapped past the allocator.
    pub fn peak_bytes(&self) -> u64 {
        self.slot().map_or(0, Slot::peak_bytes)
    }

    /// Allocations made while the work was polled; 0 without the `account`
    /// feature's allocator.
    pub fn allocations(&self) -> u64 {
        self.slot().map_or(0, Slot::allocations)
    }

    #[inline(always)]
    pub(crate) fn brakes(&self) -> bool {
        self.own.state.brake.is_on()
    }

    /// By whose guard's brake its work is paused, and what it holds. `is_first`: its work
    /// has not begun.
    pub(crate) fn braked(&self, is_first: bool) -> Option<(&'static State, &'static Slot)> {
        // Else a guard further out brakes it.
        self.own.kib?;
        if let Some(slot) = self.slot() {
            return Some((self.own.state, slot));
        }
        let slot = self.slot_or_take()?;
        if !is_first {
            // What it has touched before, nobody knows.
            slot.say(Fact::Declared);
        }
        Some((self.own.state, slot))
    }

    pub(crate) fn priority(&self) -> Priority {
        self.own.tag.priority
    }

    #[inline]
    pub(crate) fn slot(&self) -> Option<&'static Slot> {
        self.own_slot().or_else(|| self.covering()?.slot())
    }

    #[inline]
    fn own_slot(&self) -> Option<&'static Slot> {
        let shared = || self.shared.get()?.slot.get().copied();
        self.slot.or_else(shared)
    }

    /// Of a guard further out, whichever memory it watches.
    fn outer(&self) -> Option<&Permit> {
        Some(self.shared.get()?.outer.get()?)
    }

    /// The permit that holds the bytes, if a guard further out has them.
    pub(crate) fn holder(&self) -> &Self {
        self.covering().unwrap_or(self)
    }

    /// The permit of a guard further out that has its bytes.
    fn covering(&self) -> Option<&Self> {
        match self.own.kib {
            Some(_) => None,
            None => self.outer()?.holder_on(&self.own.state.limiter),
        }
    }

    /// The one that holds what it, or a guard further out, has on this ledger. Between guards
    /// on it there may be one of other memory.
    fn holder_on(&self, limiter: &Arc<Limiter>) -> Option<&Self> {
        match Arc::ptr_eq(&self.own.state.limiter, limiter) {
            true => Some(self.holder()),
            false => self.outer()?.holder_on(limiter),
        }
    }

    fn slot_or_take(&self) -> Option<&'static Slot> {
        self.slot().or_else(|| {
            let shared = self.share();
            if let Some(slot) = shared.slot.get() {
                return Some(slot);
            }
            let taken = self.own.state.track(self.own.kib(), self.own.tag)?;
            if shared.slot.set(taken).is_err() {
                // Another clone was faster.
                taken.say(Fact::Abandoned);
                self.own.state.running.end(taken);
            }
            shared.slot.get().copied()
        })
    }

    /// Whether the work should stop: nobody waits for its result any more, or the
    /// guard needs its memory (with
    /// [`cancel`](crate::MemoryGuardBuilder::cancel)).
    ///
    /// Set once the caller is gone (the response future or its body was dropped
    /// before its end, or the peer stalled past
    /// [`body_timeout`](crate::MemoryGuardBuilder::body_timeout)); never for a permit
    /// of [`Guard::acquire`](crate::Guard::acquire). A flag to poll in synchronous work, which nothing else
    /// can interrupt.
    pub fn cancelled(&self) -> bool {
        let abandoned = |shared: &Arc<Shared>| shared.cancelled.load(Ordering::Relaxed);
        self.shared.get().is_some_and(abandoned) || self.slot().is_some_and(Slot::is_cancelled)
    }

    /// Tells the clones that nobody waits for the result.
    pub(crate) fn abandon(&self) {
        // What has failed, or the guard has turned away, its caller has not given up.
        if self.mark(Outcome::Abandoned) {
            self.own.state.counters.outcomes.given_up();
        }
        if let Some(shared) = self.shared.get() {
            shared.cancelled.store(true, Ordering::Relaxed);
        }
        // Not of a guard further out: what is between them may answer in this one's place.
        if let Some(slot) = self.own_slot() {
            slot.say(Fact::Abandoned);
        }
        // But whoever is paused at a checkpoint for this one is told, for whomever it is held.
        if let Some(slot) = self.slot() {
            self.own.state.brake.is_gone(slot);
        }
    }

    /// What became of the request, if nothing else has become of it before: says whether.
    pub(crate) fn mark(&self, outcome: Outcome) -> bool {
        let shared = self.shared.get().map(|shared| &shared.own);
        shared.unwrap_or(&self.own).mark.set(outcome)
    }

    pub(crate) fn fails(&self) {
        self.mark(Outcome::Failed);
    }

    pub(crate) fn turn_away(&self) {
        self.own.state.counters.outcomes.turned_away_late();
        self.mark(Outcome::TurnedAway);
    }

    /// What its caller is told once it was cancelled.
    pub(crate) fn reject_cancelled(&self) -> Rejected {
        self.turn_away();
        self.own.state.reject(Reason::Cancelled, self.own.tag)
    }

    /// The guard may take its memory back while it works.
    #[inline]
    pub(crate) fn can_be_cancelled(&self) -> bool {
        self.slot.is_some() && self.own.state.live.may_cancel()
    }

    /// Its response has begun. Settings may come to allow that it is cancelled, so this goes
    /// by whether it can be told to stop.
    #[inline]
    pub(crate) fn answered(&self) {
        if let Some(slot) = self.slot.filter(|slot| slot.is(Fact::Watched)) {
            slot.say(Fact::Answered);
        }
    }

    pub(crate) fn goes_into_extensions(&self) -> bool {
        self.own.state.live.puts_permit_in_extensions()
    }

    pub(crate) fn state(&self) -> &'static State {
        self.own.state
    }

    /// Keeps the permit of a guard further out for as long as this one.
    pub(crate) fn keep(&self, outer: Permit) {
        let _ = self.share().outer.set(Box::new(outer));
    }

    /// The same guard admitted it, itself or further out.
    pub(crate) fn is_of(&self, state: &State) -> bool {
        std::ptr::eq(self.own.state, state) || self.outer().is_some_and(|outer| outer.is_of(state))
    }

    /// Where its bytes are: told apart from others by its address.
    #[cfg(feature = "account")]
    #[inline]
    pub(crate) fn ledger(&self) -> usize {
        Arc::as_ptr(&self.own.state.limiter) as usize
    }

    /// The permit that holds its bytes on a guard's ledger, where they need not be reserved
    /// again. A guard that is disabled reserves none.
    pub(crate) fn holder_for(&self, state: &State) -> Option<&Self> {
        let holder = self.holder_on(&state.limiter);
        holder.filter(|holder| holder.own.state.live.is_enabled())
    }

    /// Its guard has let it pass whatever the bounds are.
    pub(crate) fn was_let_pass(&self) -> bool {
        self.own.state.live.only_observes()
    }

    fn share(&self) -> &Arc<Shared> {
        self.shared.get_or_init(|| {
            Arc::new(Shared {
                own: self.own.clone(),
                slot: self.slot.map_or_else(OnceLock::new, OnceLock::from),
                cancelled: AtomicBool::new(false),
                outer: OnceLock::new(),
                rest: OnceLock::new(),
            })
        })
    }
}

impl Clone for Permit {
    fn clone(&self) -> Self {
        Self {
            own: self.own.clone(),
            slot: self.slot,
            shared: OnceLock::from(Arc::clone(self.share())),
        }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        // With clones, the last one releases.
        if self.shared.get().is_none() {
            self.own.end(self.slot);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(&mut (kib, granted_at)) = self.rest.get_mut() {
            self.own.charge_actual(kib, granted_at);
        }
        self.own.end(self.slot.get().copied());
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("bytes", &self.bytes())
            .field("cancelled", &self.cancelled())
            .finish_non_exhaustive()
    }
}
