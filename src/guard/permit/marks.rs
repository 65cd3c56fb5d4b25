//! What became of the request that a permit was for.

use super::Permit;
use crate::error::{Reason, Rejected};
use crate::telemetry::outcome::Outcome;

impl Permit {
    /// What became of the request, if nothing else has become of it before.
    pub(crate) fn mark(&self, outcome: Outcome) {
        let shared = self.shared.get().map(|shared| &shared.own);
        shared.unwrap_or(&self.own).mark.set(outcome);
    }

    /// The service, or its response's body, returned an error.
    pub(crate) fn fails(&self) {
        self.mark(Outcome::Failed);
    }

    /// It is turned away, although it was admitted.
    pub(crate) fn turn_away(&self) {
        self.own.state.counters.outcomes.turned_away_late();
        self.mark(Outcome::TurnedAway);
    }

    /// What its caller is told once it was cancelled.
    pub(crate) fn reject_cancelled(&self) -> Rejected {
        self.turn_away();
        self.own.state.reject(Reason::Cancelled, self.own.tag)
    }
}
