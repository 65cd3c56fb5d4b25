//! Through the servers that services are built on.

mod axum;
mod hyper;
#[path = "../support/mod.rs"]
mod support;
mod tonic;
