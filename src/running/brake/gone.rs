//! What a guard that is gone leaves behind, or a process that was forked.

use std::sync::TryLockError;
use std::time::Duration;

use super::{Brake, Pausing, State};
use crate::sync::{Ordering, lock};

impl State {
    /// `None`: it was a place in the process that this one was forked from.
    pub(super) fn key(&self, place: usize) -> Option<usize> {
        place.checked_sub(self.first_place)
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut Pausing> {
        let key = self.key(place)?;
        self.pausing.get_mut(key)
    }
}

impl Brake {
    /// A guard is gone, and with it all that it had in flight.
    pub(crate) fn leave(&self, guard: usize) {
        self.set_on(guard, None);
        self.tell(guard, Vec::new());
        self.state().bounds.retain(|(key, _)| *key != guard);
    }

    /// One that works for this guard is paused.
    pub(crate) fn holds_for(&self, guard: usize) -> bool {
        let state = self.state();
        state.pausing.iter().any(|(_, one)| one.guard == guard)
    }

    /// Those that were paused when this process was forked are polled by nobody here, as far as
    /// can be told; whoever is all the same, is paused anew. Once in each process.
    pub(crate) fn leave_behind(&self, now: Duration) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // By one of the parent's threads, for ever.
            Err(TryLockError::WouldBlock) => return,
        };
        if std::mem::replace(&mut state.process, std::process::id()) == std::process::id() {
            return;
        }
        // Nobody has one of their places again.
        state.first_place += state.pausing.capacity();
        for (_, one) in std::mem::take(&mut state.pausing) {
            one.request.resume(now);
            // What it would do, or its drop, may wait for what is not here.
            std::mem::forget(one.waker);
        }
        self.paused.store(0, Ordering::Relaxed);
    }

    /// Nothing is in flight: as if nothing had ever been.
    pub(crate) fn forget(&self) {
        {
            let mut state = lock(&self.state);
            state.front = None;
            state.bounds.clear();
            state.told.clear();
        }
        for bytes in [
            &self.grown,
            &self.let_grown,
            &self.for_ending,
            &self.newcomer_least,
            &self.ceiling,
            &self.kept,
            &self.large,
        ] {
            bytes.store(0, Ordering::Relaxed);
        }
        for count in [&self.passed, &self.pauses, &self.paused_ms] {
            count.store(0, Ordering::Relaxed);
        }
        self.newcomer.store(0, Ordering::Relaxed);
        self.outgrows.set(None);
    }
}
