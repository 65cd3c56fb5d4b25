//! What a guard that is gone leaves behind.

use super::Brake;
use crate::sync::{Ordering, lock};

impl Brake {
    /// A guard is gone, and with it all that it had in flight.
    pub(crate) fn leave(&self, guard: usize) {
        self.set_on(guard, false);
        self.tell(guard, Vec::new());
    }

    /// One that works for this guard is paused.
    pub(crate) fn holds_for(&self, guard: usize) -> bool {
        let state = self.state();
        state.pausing.iter().any(|(_, one)| one.guard == guard)
    }

    /// Nothing is in flight: as if nothing had ever been.
    pub(crate) fn forget(&self) {
        let Self {
            on: _,
            ongoing: _,
            unheld_ongoing: _,
            paused: _,
            left: _,
            grown,
            unheld,
            ceiling,
            for_ending,
            newcomer,
            newcomer_least,
            passed,
            state,
            pauses,
            paused_ms,
        } = self;
        lock(state).front = None;
        for bytes in [grown, unheld, ceiling, for_ending, newcomer_least] {
            bytes.store(0, Ordering::Relaxed);
        }
        for count in [passed, pauses, paused_ms] {
            count.store(0, Ordering::Relaxed);
        }
        newcomer.store(0, Ordering::Relaxed);
    }
}
