//! The environment variables: which there are, and which setting each fills.

use std::path::PathBuf;

use super::parse::{
    boolean, count, file, fraction, mebibytes, one_of, seconds, seconds_or_none, size, waiting,
};
use super::{Config, Mode, OnSensorFailure, Policy};
use crate::error::{ConfigError, Problem};
use crate::memory::Source;

/// The variables that are read, in the order of the documentation.
const KNOWN: &[&str] = &[
    "MEMORY_GUARD_ENABLED",
    "MEMORY_GUARD_POLICY",
    "MEMORY_GUARD_MAX_CONCURRENT",
    "MEMORY_GUARD_MAX_PERCENT",
    "MEMORY_GUARD_WARNING_PERCENT",
    "MEMORY_GUARD_CRITICAL_PERCENT",
    "MEMORY_GUARD_CHECK_INTERVAL_SEC",
    "MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB",
    "MEMORY_GUARD_MAX_RESULT_SIZE",
    "MEMORY_GUARD_WAIT_TIMEOUT_SEC",
    "MEMORY_GUARD_MAX_WAITING",
    "MEMORY_GUARD_MODE",
    "MEMORY_GUARD_MEMORY_LIMIT",
    "MEMORY_GUARD_SHARE",
    "MEMORY_GUARD_SOURCE",
    "MEMORY_GUARD_CGROUP_PATH",
    "MEMORY_GUARD_ON_SENSOR_FAILURE",
    "MEMORY_GUARD_CANCEL",
    "MEMORY_GUARD_MAX_PAUSE_SEC",
    "MEMORY_GUARD_STATE",
];

/// The variables for where WARNING, HIGH and CRITICAL begin.
const THRESHOLDS: [&str; 3] = ["WARNING_PERCENT", "MAX_PERCENT", "CRITICAL_PERCENT"];

/// What Kubernetes injects for a Service that is called `memory-guard`.
const INJECTED: &[&str] = &["MEMORY_GUARD_PORT", "MEMORY_GUARD_SERVICE_"];

/// Settings as they are given, with what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) problems: Vec<Problem>,
    /// Worth a line in the log, but no reason to stop.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    pub(crate) fn from_env() -> Self {
        Self::from_vars(std::env::vars_os().filter_map(|(name, value)| {
            // A name that is not text cannot be one of ours; a value that is
            // not text must be reported, not skipped.
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        }))
    }

    pub(crate) fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut settings = Self::default();
        let mut prefixed = Vec::new();
        for (name, value) in vars {
            if value.trim().is_empty() {
                continue;
            }
            // The prefixed name of the two that have a short form counts.
            if matches!(name.as_str(), "MAX_CONCURRENT" | "MAX_RESULT_SIZE") {
                prefixed.insert(0, (name, value));
            } else if name.starts_with("MEMORY_GUARD_") {
                prefixed.push((name, value));
            }
        }
        for (name, value) in prefixed {
            settings.set(&name, value.trim());
        }
        settings
    }

    fn set(&mut self, name: &str, value: &str) {
        let suffix = name.strip_prefix("MEMORY_GUARD_").unwrap_or(name);
        let config = &mut self.config;
        let outcome = match suffix {
            "ENABLED" => put(&mut config.enabled, boolean(value)),
            "POLICY" => put(
                &mut config.policy,
                one_of(
                    value,
                    &[
                        ("auto", Policy::Auto),
                        ("ladder", Policy::Ladder),
                        ("predictive", Policy::Predictive),
                    ],
                ),
            ),
            "MAX_CONCURRENT" => put(&mut config.max_concurrent, count(value).map(Some)),
            "WARNING_PERCENT" => put(&mut config.warning_fraction, fraction(value).map(Some)),
            "MAX_PERCENT" => put(&mut config.high_fraction, fraction(value).map(Some)),
            "CRITICAL_PERCENT" => put(&mut config.critical_fraction, fraction(value).map(Some)),
            "CHECK_INTERVAL_SEC" => put(&mut config.check_interval, seconds(value)),
            "ESTIMATED_MEM_PER_REQ_MB" => {
                put(&mut config.estimated_bytes_per_request, mebibytes(value))
            }
            "MAX_RESULT_SIZE" => put(&mut config.max_result_size_bytes, size(value)),
            "WAIT_TIMEOUT_SEC" => put(&mut config.wait_timeout, seconds(value)),
            "MAX_WAITING" => put(&mut config.max_waiting, waiting(value)),
            "MODE" => put(
                &mut config.mode,
                one_of(
                    value,
                    &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
                ),
            ),
            "MEMORY_LIMIT" => put(&mut config.memory_limit_bytes, size(value).map(Some)),
            "SHARE" => put(&mut config.share_fraction, fraction(value)),
            "SOURCE" => put(
                &mut config.source,
                one_of(
                    value,
                    &[
                        ("auto", Source::Auto),
                        ("cgroup", Source::Cgroup),
                        ("process", Source::Process),
                        ("host", Source::Host),
                    ],
                ),
            ),
            "CGROUP_PATH" => put(&mut config.cgroup_path, Ok(Some(PathBuf::from(value)))),
            "ON_SENSOR_FAILURE" => put(
                &mut config.on_sensor_failure,
                one_of(
                    value,
                    &[
                        ("open", OnSensorFailure::Open),
                        ("closed", OnSensorFailure::Closed),
                    ],
                ),
            ),
            "CANCEL" => put(&mut config.cancel, boolean(value)),
            "MAX_PAUSE_SEC" => put(&mut config.max_pause, seconds_or_none(value)),
            "STATE" => put(&mut config.state, file(PathBuf::from(value)).map(Some)),
            _ => {
                if !INJECTED.iter().any(|prefix| name.starts_with(prefix)) {
                    self.warnings.push(unknown(name));
                }
                Ok(())
            }
        };
        if let Err(expected) = outcome {
            self.problem(name, value, expected);
        }
    }

    pub(crate) fn problem(
        &mut self,
        setting: impl Into<String>,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.problems.push(Problem {
            setting: setting.into(),
            value: value.into(),
            expected: expected.into(),
        });
    }

    fn is_unreadable(&self, suffix: &str) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| problem.setting.strip_prefix("MEMORY_GUARD_") == Some(suffix))
    }

    /// Thresholds rise. One that cannot be read hides no fault of the others.
    fn check_thresholds(&mut self) {
        if self.problems.iter().any(|one| one.setting == "thresholds") {
            return;
        }
        let (values, said) = (self.config.thresholds(), self.config.said_thresholds());
        let readable = THRESHOLDS.map(|suffix| !self.is_unreadable(suffix));
        // What nobody said follows from the policy, and there from the others.
        let decided = self.config.decided_policy();
        let ladder = decided == Policy::Ladder && !self.is_unreadable("POLICY");
        let follows = ladder || readable == [true; 3];
        let known = |&at: &usize| readable[at] && (follows || said[at].is_some());
        let known: Vec<usize> = (0..3).filter(known).collect();
        // NaN is no smaller than anything.
        if known.windows(2).all(|two| values[two[0]] < values[two[1]]) {
            return;
        }
        let list = |text: &dyn Fn(usize) -> String| {
            let texts: Vec<String> = known.iter().map(|&at| text(at)).collect();
            texts.join(", ")
        };
        let settings = list(&|at| format!("MEMORY_GUARD_{}", THRESHOLDS[at]));
        let given = list(&|at| values[at].to_string());
        let expected = "rising thresholds: warning below max below critical";
        self.problem(settings, given, expected);
    }

    /// What no single value shows: values that do not go together.
    pub(crate) fn check(mut self) -> Result<(Config, Vec<String>), ConfigError> {
        self.check_thresholds();
        let config = &self.config;
        let no_limit = config.memory_limit_bytes.is_none() && !self.is_unreadable("MEMORY_LIMIT");
        if config.source == Source::Process && no_limit {
            self.problem(
                "MEMORY_GUARD_SOURCE",
                "process",
                "MEMORY_GUARD_MEMORY_LIMIT beside it, such as 2GiB",
            );
        }
        let config = &self.config;
        if config.cgroup_path.is_some() && matches!(config.source, Source::Process | Source::Host) {
            self.problem(
                "MEMORY_GUARD_CGROUP_PATH",
                config
                    .cgroup_path
                    .clone()
                    .unwrap_or_default()
                    .to_string_lossy(),
                "MEMORY_GUARD_SOURCE to be auto or cgroup when a path is given",
            );
        }
        if self.problems.is_empty() {
            Ok((self.config, self.warnings))
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }
}

fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn unknown(name: &str) -> String {
    let nearest = KNOWN
        .iter()
        .min_by_key(|known| strsim::damerau_levenshtein(known, name));
    match nearest {
        Some(nearest) => {
            format!("{name} is not a setting of the memory guard; did you mean {nearest}?")
        }
        None => format!("{name} is not a setting of the memory guard"),
    }
}
