//! What a guard does: admits, has others wait, watches what it admitted, and answers for it.
//!
//! [`handle`] is what services hold; behind it are two halves: the [`regulator`], which samples
//! drive, and the [`state`], which requests touch. [`admission`] turns a request into a
//! [`permit`] or a place in the queue.
pub(crate) mod admission;
pub(crate) mod charged;
pub(crate) mod checkpoint;
pub(crate) mod cost;
pub(crate) mod handle;
pub(crate) mod held;
pub(crate) mod keeper;
pub(crate) mod permit;
pub(crate) mod poller;
pub(crate) mod pool;
pub(crate) mod ready;
pub(crate) mod regulator;
pub(crate) mod scope;
pub(crate) mod staged;
pub(crate) mod stalls;
pub(crate) mod state;
pub(crate) mod waiting;
