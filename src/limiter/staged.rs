//! Requests that are admitted for their bodies first, and for their work later.

use super::Limiter;
use super::bounds::Need;
use super::ledger::OpenBodies;

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
    pub(crate) fn staged(&self) -> OpenBodies {
        self.ledger.staged()
    }

    /// No release can help somebody in the queue: nothing is in flight, or only others
    /// that wait for the same.
    pub(super) fn nothing_will_end(&self, need: Need) -> bool {
        let more = matches!(need, Need::More { .. });
        self.ledger.is_idle() || (more && self.ledger.only_staged())
    }
}
