//! The lanes of those who wait.

use crate::class::Priority;

/// Out of this many KiB that a lane is granted, the lanes behind it get one, for their
/// oldest waiter.
pub(super) const AGEING_ONE_IN: u64 = 8;

/// Who is to be tried next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: usize,
    /// The oldest of a lane behind.
    pub(super) aged: bool,
}

/// One for each priority, and before them one for those who need no bytes. Between
/// critical work and the rest, one for each priority of those who need more than they
/// have: what they hold is free only after their turn, so others wait for them anyway.
pub(super) const LANES: usize = 1 + Priority::ALL.len() + NEED_MORE;
pub(super) const NEED_MORE: usize = Priority::ALL.len() - 1;
/// The lane of those whose bytes another guard holds already.
pub(super) const NESTED: usize = 0;
pub(super) const CRITICAL: usize = 1;
