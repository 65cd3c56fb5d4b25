//! Requests that are admitted for their bodies first, and for their work later.

use super::Limiter;
use super::bounds::{Ask, Bounds, Need};
use super::lanes::Candidate;
use super::ledger::{Mode, Refused, Staged};
use super::queue::Queue;

impl Limiter {
    /// A request was admitted for its body alone.
    pub(crate) fn stage(&self) {
        self.ledger.stage();
    }

    /// It has read so much more of it.
    pub(crate) fn stage_read(&self, bytes: u64) {
        self.ledger.stage_read(bytes);
    }

    /// Its work begins, or never will; it had read so much.
    pub(crate) fn unstage(&self, read_bytes: u64) {
        self.ledger.unstage(read_bytes);
    }

    /// Requests of all guards whose work has not begun.
    pub(crate) fn staged(&self) -> Staged {
        self.ledger.staged()
    }

    /// Reserves what is estimated beyond `held_kib` for a request that has those.
    pub(crate) fn try_more(
        &self,
        bounds: &Bounds,
        ask: Ask,
        held_kib: u64,
        mode: Mode,
    ) -> Result<(), Refused> {
        let reserved = self.ledger.try_more(bounds, ask, held_kib, mode);
        if reserved.is_err() {
            self.took_for_a_moment(bounds, ask.tag);
        }
        reserved
    }

    /// An attempt to let a waiter in.
    pub(super) fn attempt(
        &self,
        queue: &Queue,
        candidate: Candidate,
        ask: Ask,
        mode: Mode,
    ) -> Result<(), Refused> {
        let bounds = queue.bounds(candidate);
        match queue.need(candidate) {
            Need::More { held_kib, .. } => self.ledger.try_more(bounds, ask, held_kib, mode),
            _ => self.ledger.try_reserve(bounds, ask, mode).map(drop),
        }
    }

    /// No release can help somebody in the queue: nothing is in flight, or only others
    /// that wait for the same.
    pub(super) fn nothing_will_end(&self, need: Need) -> bool {
        let more = matches!(need, Need::More { .. });
        self.ledger.is_idle() || (more && self.ledger.only_staged())
    }
}
