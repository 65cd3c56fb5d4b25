//! Who is admitted, and when.

mod churn;
mod classes;
mod extremes;
mod newest_first;
mod order;
mod reload;
mod report;
mod reserving;
#[path = "../support/mod.rs"]
mod support;
