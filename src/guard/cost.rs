//! [`Cost`]: what a piece of work asks for that is no request.

use crate::classify::labels::Demand;
use crate::limiter::{Ask, Need};
use crate::units::kib;

/// How much memory a piece of work needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cost {
    /// What the guard estimates.
    #[default]
    Estimated,
    /// So many bytes.
    Bytes(u64),
}

impl From<u64> for Cost {
    fn from(bytes: u64) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Cost> for Demand {
    fn from(cost: Cost) -> Self {
        let mut demand = Self::NONE;
        if let Cost::Bytes(bytes) = cost {
            // A declared cost is known, so it is also the least.
            demand.need = Need::Known(Ask::exactly(kib(bytes), demand.tag()));
        }
        demand
    }
}
