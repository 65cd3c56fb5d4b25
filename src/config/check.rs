//! Whether settings can be used, however they were given.

use super::kinds::{AT_LEAST_ONE, FRACTION, WEIGHT};
use super::variables::SETTINGS;
use super::{Config, MemoryGuardBuilder, Settings};
use crate::class::Tier;
use crate::error::{ConfigError, Problem};
use crate::memory::Source;

const THRESHOLDS: [&str; 3] = [
    "MEMORY_GUARD_WARNING_PERCENT",
    "MEMORY_GUARD_MAX_PERCENT",
    "MEMORY_GUARD_CRITICAL_PERCENT",
];

impl MemoryGuardBuilder {
    /// Checks the settings without starting a guard: for
    /// [`Guard::reload`](crate::Guard::reload).
    ///
    /// # Errors
    ///
    /// Lists every setting that cannot be used.
    pub fn build_config(self) -> Result<Config, ConfigError> {
        let (config, warnings) = self.settings.check()?;
        crate::telemetry::logs::warnings(&warnings);
        Ok(config)
    }
}

impl Config {
    /// The settings of the environment, for [`Guard::reload`](crate::Guard::reload).
    ///
    /// # Errors
    ///
    /// Every variable that cannot be used, its value, and what would be right.
    pub fn from_env() -> Result<Self, ConfigError> {
        MemoryGuardBuilder::default().read_env().build_config()
    }

    /// These settings, if they can be put into force instead of others.
    pub(crate) fn checked(self, in_force: &Self) -> Result<Self, ConfigError> {
        let mut settings = Settings {
            config: self,
            ..Settings::default()
        };
        settings.check_fixed(in_force);
        Ok(settings.check()?.0)
    }
}

impl Settings {
    pub(super) fn problem(
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

    fn has_problem(&self, setting: &str) -> bool {
        self.problems.iter().any(|one| one.setting == setting)
    }

    /// Each value for itself, and then what they say together.
    pub(crate) fn check(mut self) -> Result<(Config, Vec<String>), ConfigError> {
        for setting in SETTINGS {
            if let Some((value, expected)) = (setting.wrong)(&self.config) {
                self.problem(setting.name, value, expected);
            }
        }
        self.check_tiers();
        self.check_thresholds();
        self.check_source();
        if self.problems.is_empty() {
            Ok((self.config, self.warnings))
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    /// What is shared with other guards, or labels what has been published, cannot change
    /// while the guard runs.
    fn check_fixed(&mut self, in_force: &Config) {
        for setting in SETTINGS.iter().filter(|setting| setting.is_fixed) {
            let (new, old) = ((setting.shown)(&self.config), (setting.shown)(in_force));
            if new != old {
                let why = "as at the start: this cannot change while the guard runs";
                self.problem(setting.name, new, format!("{old}, {why}"));
            }
        }
    }

    fn check_tiers(&mut self) {
        for Tier { name, quota } in self.config.tiers.clone() {
            let no_name = name.is_empty().then(|| (String::new(), "a name"));
            let in_flight = AT_LEAST_ONE.wrong(&quota.max_in_flight);
            for (setting, wrong) in [
                ("tier", no_name),
                ("tier.weight", WEIGHT.wrong(&quota.weight)),
                ("tier.max_share", FRACTION.wrong(&quota.max_share)),
                ("tier.max_in_flight", in_flight),
            ] {
                if let Some((value, expected)) = wrong {
                    self.problem(setting, value, expected);
                }
            }
        }
    }

    /// Thresholds rise, as far as it is sure what they are.
    fn check_thresholds(&mut self) {
        let settings = ["thresholds", "MEMORY_GUARD_POLICY"];
        let mut settings = settings.iter().chain(&THRESHOLDS);
        let unsure = settings.any(|setting| self.has_problem(setting));
        let values = self.config.thresholds();
        if unsure || values.is_sorted_by(|a, b| a < b) {
            return;
        }
        let given = values.map(|value| value.to_string()).join(", ");
        let expected = "rising thresholds: warning below max below critical";
        self.problem(THRESHOLDS.join(", "), given, expected);
    }

    fn check_source(&mut self) {
        let source = self.config.source;
        let no_limit = self.config.memory_limit_bytes.is_none();
        if source == Source::Process && no_limit && !self.has_problem("MEMORY_GUARD_MEMORY_LIMIT") {
            let expected = "MEMORY_GUARD_MEMORY_LIMIT beside it, such as 2GiB";
            self.problem("MEMORY_GUARD_SOURCE", "process", expected);
        }
        let path = self.config.cgroup_path.as_ref();
        let path = path.map(|path| path.to_string_lossy().into_owned());
        if let (Some(path), Source::Process | Source::Host) = (path, source) {
            let expected = "MEMORY_GUARD_SOURCE to be auto or cgroup when a path is given";
            self.problem("MEMORY_GUARD_CGROUP_PATH", path, expected);
        }
    }
}
