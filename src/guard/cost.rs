//! What a request asks for.

use std::time::Duration;

use crate::class::tag::Tag;
use crate::classify::labels::Entry;
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

/// What a request asks for, and how long it may wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) need: Need,
    pub(crate) deadline: Option<Duration>,
}

impl From<Entry> for Request {
    #[inline]
    fn from(entry: Entry) -> Self {
        Self {
            need: Need::Estimated(entry.tag),
            deadline: entry.deadline,
        }
    }
}

impl From<Cost> for Request {
    fn from(cost: Cost) -> Self {
        let tag = Tag::NONE;
        let need = match cost {
            Cost::Estimated => Need::Estimated(tag),
            // A declared cost is known, so it is also the least.
            Cost::Bytes(bytes) => Need::Known(Ask::exactly(kib(bytes), tag)),
        };
        Self {
            need,
            deadline: None,
        }
    }
}
