//! Requests, responses and their bodies: what the layers make of them, polled by hand and
//! through real servers.

mod body;
mod error_flavour;
mod head;
mod response;
mod result_size;
mod staged;
#[path = "../support/mod.rs"]
mod support;
