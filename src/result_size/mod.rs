//! Refuse an oversized result before it is built.
//!
//! A result that may be larger than [`max_result_size_bytes`] is not built to
//! be measured. [`to_json`] counts first, in a pass that stops at the first byte
//! over the limit and holds nothing, and then writes into a buffer of just that
//! size. [`to_json_in_one_pass`] writes at once and gives up at the limit: it is
//! the faster of the two where results seldom exceed it, and holds up to three
//! times the limit while the buffer grows.
//!
//! | | oversized result costs | accepted result costs |
//! |---|---|---|
//! | [`to_json`] | counting up to the limit | formatting it twice |
//! | [`to_json_in_one_pass`] | writing up to the limit | formatting it once |
//! | [`ResultLimitLayer`] | what was built already | comparing lengths |
//!
//! [`max_result_size_bytes`]: crate::Config::max_result_size_bytes
//!
//! ```
//! use tower_memory_guard::result_size::{self, Error};
//!
//! let rows: Vec<u32> = (0..1_000_000).collect();
//! match result_size::to_json(&rows, 5 << 20) {
//!     Err(Error::TooLarge(error)) => assert_eq!(error.limit_bytes(), 5 << 20),
//!     other => panic!("{other:?}"),
//! }
//! assert_eq!(result_size::to_json(&rows[..3], 5 << 20)?, b"[0,1,2]");
//! # Ok::<(), Error>(())
//! ```

#[cfg(feature = "axum")]
mod axum;
mod body;
mod layer;
mod write;

use std::fmt;

#[cfg(feature = "axum")]
pub use self::axum::LimitedJson;
pub use body::LimitedBody;
pub use layer::{LimitFuture, ResultLimit, ResultLimitLayer};
pub use write::{json_len, to_json, to_json_in_one_pass};

/// Why there is no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// It is longer than the limit.
    TooLarge(ResultTooLarge),
    /// The value has no JSON form, such as a map whose keys are lists.
    Serialize(serde_json::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooLarge(error) => error.fmt(f),
            Error::Serialize(error) => write!(f, "the result has no JSON form: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::TooLarge(error) => Some(error),
            Error::Serialize(error) => Some(error),
        }
    }
}

/// A result is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultTooLarge {
    limit_bytes: u64,
    reached_bytes: u64,
}

impl ResultTooLarge {
    pub(crate) fn new(limit_bytes: u64, reached_bytes: u64) -> Self {
        Self {
            limit_bytes,
            reached_bytes,
        }
    }

    /// The limit.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// How far it got: the result has at least as many bytes.
    pub fn reached_bytes(&self) -> u64 {
        self.reached_bytes
    }
}

impl fmt::Display for ResultTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the result has at least {} bytes, more than the limit of {}",
            self.reached_bytes, self.limit_bytes
        )
    }
}

impl std::error::Error for ResultTooLarge {}
