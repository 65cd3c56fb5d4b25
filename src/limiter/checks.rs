//! What a reservation is checked against: by what asks, and by how it is tried.
//!
//! `docs/architecture.md` has the same table, and says why.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Newcomer,
    /// One that comes, whose bytes another guard on the ledger holds.
    Nested,
    /// What a request is estimated to need beyond these KiB, which it has for its body.
    Rest {
        held_kib: u64,
    },
    /// More for work that is under way.
    Growth,
    /// A body that is larger than its reservation: all that is reserved may come to the limit.
    Body {
        limit_kib: u64,
    },
    /// A request that has these KiB, which were reserved before it was known.
    Retag {
        held_kib: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// On the last sample.
    First,
    /// On a sample that was taken just now.
    Resampled,
    /// As the waiter whose turn it is (the queue is locked).
    FromQueue,
    /// Past the bounds: a probe, a guard that only observes, or what is there already.
    PastBounds,
}

/// What the KiB on the ledger are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Most {
    /// The allowance, and for critical work what is set aside for that beside it.
    Allowance,
    /// The limit, of which what has ended takes nothing.
    Limit(u64),
    /// What can be counted.
    Countable,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    pub(super) gate: bool,
    pub(super) waiters: bool,
    pub(super) staleness: bool,
    pub(super) count: bool,
    pub(super) quota: bool,
    pub(super) most: Most,
    /// With nothing in flight that could end it is enough that what is known to be needed
    /// is free.
    pub(super) alone: bool,
}

const NONE: Checks = Checks {
    gate: false,
    waiters: false,
    staleness: false,
    count: false,
    quota: false,
    most: Most::Countable,
    alone: false,
};

const ALL: Checks = Checks {
    gate: true,
    waiters: true,
    staleness: true,
    count: true,
    quota: true,
    most: Most::Allowance,
    alone: true,
};

impl Operation {
    const fn checks(self) -> Checks {
        match self {
            Self::Newcomer => ALL,
            Self::Nested => Checks {
                count: true,
                quota: true,
                ..NONE
            },
            Self::Rest { .. } => Checks {
                count: false,
                ..ALL
            },
            Self::Growth | Self::Retag { .. } => Checks {
                staleness: true,
                quota: true,
                most: Most::Allowance,
                ..NONE
            },
            Self::Body { limit_kib } => Checks {
                gate: true,
                most: Most::Limit(limit_kib),
                ..NONE
            },
        }
    }

    /// Its guard counts one request more.
    pub(super) const fn is_new(self) -> bool {
        matches!(self, Self::Newcomer | Self::Nested)
    }

    /// Its tenant has so many requests more.
    pub(super) const fn of_tenant(self) -> u32 {
        match self {
            Self::Newcomer | Self::Nested | Self::Retag { .. } => 1,
            Self::Rest { .. } | Self::Growth | Self::Body { .. } => 0,
        }
    }
}

impl Checks {
    /// `is_apart`: it is critical work, for which a slice is set aside.
    #[inline(always)]
    pub(super) const fn of(operation: Operation, attempt: Attempt, is_apart: bool) -> Self {
        let checks = match attempt {
            Attempt::PastBounds => NONE,
            _ => operation.checks(),
        };
        let in_turn = matches!(attempt, Attempt::FromQueue);
        let is_first = matches!(attempt, Attempt::First);
        Self {
            gate: checks.gate && !is_apart,
            waiters: checks.waiters && !is_apart && !in_turn,
            staleness: checks.staleness && !is_apart && is_first,
            count: checks.count && !is_apart,
            quota: checks.quota && !is_apart,
            ..checks
        }
    }
}
