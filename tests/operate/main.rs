//! What operators see and do: probes, figures, files to deploy, and the examples.

mod deploy;
mod examples;
mod health;
mod observability;
mod operators;
#[path = "../support/mod.rs"]
mod support;
mod totals;
