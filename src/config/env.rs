//! The environment variables: which there are, and which setting each fills.

use std::path::PathBuf;

use super::parse::{
    boolean, cancel, count, fraction, mebibytes, one_of, policy, seconds, size, waiting,
};
use super::{Config, Mode, OnSensorFailure, Source};
use crate::error::{ConfigError, Problem};

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
];

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
            "POLICY" => policy(value),
            "MAX_CONCURRENT" => put(&mut config.max_concurrent, count(value).map(Some)),
            "MAX_PERCENT" => put(&mut config.high_fraction, fraction(value)),
            "WARNING_PERCENT" => put(&mut config.warning_fraction, fraction(value)),
            "CRITICAL_PERCENT" => put(&mut config.critical_fraction, fraction(value)),
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
            "CANCEL" => cancel(value),
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

    /// What no single value shows: values that do not go together.
    pub(crate) fn check(mut self) -> Result<(Config, Vec<String>), ConfigError> {
        let config = &self.config;
        let (warning, high, critical) = (
            config.warning_fraction,
            config.high_fraction,
            config.critical_fraction,
        );
        let good = |problem: &Problem| {
            !problem.setting.ends_with("_PERCENT") && problem.setting != "thresholds"
        };
        if self.problems.iter().all(good) && !(warning < high && high < critical) {
            self.problem(
                "MEMORY_GUARD_WARNING_PERCENT, MEMORY_GUARD_MAX_PERCENT, MEMORY_GUARD_CRITICAL_PERCENT",
                format!("{warning}, {high}, {critical}"),
                "rising thresholds: warning below max below critical",
            );
        }
        let config = &self.config;
        if config.source == Source::Process && config.memory_limit_bytes.is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Settings {
        Settings::from_vars(vars.iter().map(|(n, v)| (n.to_string(), v.to_string())))
    }

    fn config(vars: &[(&str, &str)]) -> Config {
        read(vars).check().expect("good settings").0
    }

    #[test]
    fn a_share_is_a_fraction_up_to_one_and_a_percentage_above() {
        for text in ["0.75", "75", "75%", "75 %"] {
            assert_eq!(
                config(&[("MEMORY_GUARD_MAX_PERCENT", text)]).high_fraction,
                0.75
            );
        }
        let everything = config(&[
            ("MEMORY_GUARD_CRITICAL_PERCENT", "1"),
            ("MEMORY_GUARD_MAX_PERCENT", "0.9"),
        ]);
        assert_eq!(everything.critical_fraction, 1.0);
        assert_eq!(config(&[("MEMORY_GUARD_SHARE", "1%")]).share_fraction, 0.01);
    }

    #[test]
    fn sizes_take_bytes_and_binary_units() {
        let limit = |text| config(&[("MEMORY_GUARD_MEMORY_LIMIT", text)]).memory_limit_bytes;
        assert_eq!(limit("536870912"), Some(512 << 20));
        assert_eq!(limit("512M"), Some(512 << 20));
        assert_eq!(limit("512MB"), Some(512 << 20));
        assert_eq!(limit("0.5GiB"), Some(512 << 20));
        assert_eq!(limit("512 Mi"), Some(512 << 20));
        let prior = config(&[("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "1.5")]);
        assert_eq!(prior.estimated_bytes_per_request, 3 << 19);
    }

    #[test]
    fn the_prefixed_name_wins_over_the_short_one() {
        let both = [
            ("MEMORY_GUARD_MAX_CONCURRENT", "7"),
            ("MAX_CONCURRENT", "3"),
        ];
        assert_eq!(config(&both).max_concurrent, Some(7));
        assert_eq!(config(&[("MAX_CONCURRENT", "3")]).max_concurrent, Some(3));
        assert_eq!(
            config(&[("MAX_RESULT_SIZE", "10")]).max_result_size_bytes,
            10
        );
    }

    #[test]
    fn empty_values_count_as_unset() {
        let empty = [("MEMORY_GUARD_MAX_PERCENT", ""), ("MAX_CONCURRENT", " ")];
        assert_eq!(config(&empty), Config::default());
    }

    #[test]
    fn every_bad_variable_is_listed_with_its_value() {
        let bad = [
            ("MEMORY_GUARD_MAX_PERCENT", "NaN"),
            ("MEMORY_GUARD_CRITICAL_PERCENT", "-5"),
            ("MEMORY_GUARD_WARNING_PERCENT", "101%"),
            ("MEMORY_GUARD_CHECK_INTERVAL_SEC", "0"),
            ("MEMORY_GUARD_WAIT_TIMEOUT_SEC", "1e300"),
            ("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "inf"),
            ("MAX_CONCURRENT", "99999999999999999999"),
            ("MEMORY_GUARD_MAX_WAITING", "-1"),
            ("MEMORY_GUARD_MEMORY_LIMIT", "lots"),
            ("MEMORY_GUARD_MAX_RESULT_SIZE", "99999999T"),
            ("MEMORY_GUARD_ENABLED", "maybe"),
            ("MEMORY_GUARD_SOURCE", "numa"),
            ("MEMORY_GUARD_POLICY", "predictive"),
            ("MEMORY_GUARD_CANCEL", "true"),
        ];
        let error = read(&bad).check().unwrap_err();
        let text = error.to_string();
        assert_eq!(error.problems().len(), bad.len(), "{text}");
        for (name, value) in bad {
            assert!(
                text.contains(&format!("{name} = {value:?}: expected ")),
                "{text}"
            );
        }
    }

    #[test]
    fn thresholds_must_rise() {
        let error = read(&[("MEMORY_GUARD_WARNING_PERCENT", "0.9")])
            .check()
            .unwrap_err();
        assert!(error.to_string().contains("0.9, 0.8, 0.85"), "{error}");
    }

    #[test]
    fn a_typo_is_named_with_the_nearest_variable_and_what_kubernetes_injects_is_not() {
        let settings = read(&[
            ("MEMORY_GUARD_MAX_PERCENTAGE", "80"),
            ("MEMORY_GUARD_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("MEMORY_GUARD_SERVICE_HOST", "10.0.0.1"),
        ]);
        let (_, warnings) = settings.check().unwrap();
        assert_eq!(
            warnings,
            [
                "MEMORY_GUARD_MAX_PERCENTAGE is not a setting of the memory guard; \
              did you mean MEMORY_GUARD_MAX_PERCENT?"
            ]
        );
    }

    #[test]
    fn the_process_source_needs_a_limit() {
        let error = read(&[("MEMORY_GUARD_SOURCE", "process")])
            .check()
            .unwrap_err();
        assert!(
            error.to_string().contains("MEMORY_GUARD_MEMORY_LIMIT"),
            "{error}"
        );
    }
}
