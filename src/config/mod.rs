//! Validated settings, from the environment or from a builder.
//!
//! All of them are rows of one [`variables`]. The environment and the builder fill the same
//! [`Settings`], which are checked before they become a [`Config`].

mod builder;
mod check;
mod kinds;
#[cfg(feature = "tracing")]
mod logged;
mod read;
#[cfg(test)]
mod read_tests;
mod thresholds;
mod variables;
#[cfg(test)]
mod variables_tests;

use crate::error::Problem;

pub use builder::MemoryGuardBuilder;
pub use variables::Config;
pub(crate) use variables::log_settings;

/// How much is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The ladder if a concurrency or a threshold is set, else predictive.
    #[default]
    Auto,
    /// Levels by thresholds, and a concurrency for each; memory is reserved up to
    /// where CRITICAL begins.
    Ladder,
    /// As much as is forecast to fit; levels report, and shed work of low priority.
    Predictive,
}

impl Policy {
    /// The name in settings and logs, such as `ladder`.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Auto => "auto",
            Policy::Ladder => "ladder",
            Policy::Predictive => "predictive",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the guard does with its decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Waits and rejects.
    #[default]
    Enforce,
    /// Decides and reports; every request passes.
    Observe,
}

/// What happens while memory cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnSensorFailure {
    /// Only the concurrency limit holds; without one, nothing does.
    #[default]
    Open,
    /// New work is rejected.
    Closed,
}

/// Settings as they are given, with what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    config: Config,
    problems: Vec<Problem>,
    /// Worth a line in the log, but no reason to stop.
    warnings: Vec<String>,
}
