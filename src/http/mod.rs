//! The middleware: layers, services, futures and bodies, and what rejections look like.
//!
//! Here alone requests and responses are known. What they need is asked of the guard.
pub(crate) mod body;
pub(crate) mod deadline;
pub(crate) mod delivery;
pub(crate) mod error_future;
pub(crate) mod error_service;
pub(crate) mod fallback;
pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod reply;
pub(crate) mod respond;
pub(crate) mod service;
pub(crate) mod staged;
