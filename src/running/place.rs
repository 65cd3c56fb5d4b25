//! Where a request stands in the order of those that may grow.

use crate::class::Priority;

/// A place in the order: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Priority and its tenant's share, or before all if it has been paused for as long as
    /// it may be.
    pub(super) rank: u8,
    pub(super) began_ms: u64,
    pub(super) shard: u8,
    pub(super) index: u32,
}

impl Place {
    /// It goes before all others.
    pub(crate) fn is_front(&self) -> bool {
        self.rank == FRONT
    }
}

/// The rank of critical work, which is never paused; and of what has been paused for as
/// long as it may be.
pub(crate) const CRITICAL: u8 = 0;
pub(super) const FRONT: u8 = 1;

/// Of each priority beside critical work two: behind the others stand those whose tenant
/// has more than its share.
pub(super) fn rank(priority: Priority, is_beyond: bool) -> u8 {
    match priority {
        Priority::Critical => CRITICAL,
        other => FRONT + 2 * other.place() as u8 - u8::from(!is_beyond),
    }
}
