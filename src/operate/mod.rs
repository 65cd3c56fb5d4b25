//! For those who operate a service: probes, load for balancers, a dashboard.
pub(crate) mod agent_check;
#[cfg(feature = "dashboard")]
pub(crate) mod dashboard;
pub(crate) mod health;
pub(crate) mod load_report;
