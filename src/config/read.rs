//! The settings of the environment.

use super::Settings;
use super::variables::SETTINGS;

/// What Kubernetes injects for a Service that is called `memory-guard`.
const INJECTED: &[&str] = &["MEMORY_GUARD_PORT", "MEMORY_GUARD_SERVICE_"];

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
        let mut vars: Vec<_> = vars.into_iter().collect();
        vars.retain(|(_, value)| !value.trim().is_empty());
        for setting in SETTINGS {
            for &name in setting.variables {
                if let Some((_, value)) = vars.iter().find(|(given, _)| given == name) {
                    let value = value.trim();
                    if let Err(expected) = (setting.read)(&mut settings.config, value) {
                        settings.problem(name, value, expected);
                    }
                }
            }
        }
        let names = vars.iter().map(|(name, _)| name.as_str());
        settings.warnings.extend(names.filter_map(unknown));
        settings
    }
}

/// What is said of a name that looks like one of ours and is none.
fn unknown(name: &str) -> Option<String> {
    let mut known = SETTINGS.iter().flat_map(|setting| setting.variables);
    let injected = INJECTED.iter().any(|prefix| name.starts_with(prefix));
    if !name.starts_with("MEMORY_GUARD_") || injected || known.clone().any(|&one| one == name) {
        return None;
    }
    let nearest = known
        .by_ref()
        .min_by_key(|known| strsim::damerau_levenshtein(known, name))?;
    Some(format!(
        "{name} is not a setting of the memory guard; did you mean {nearest}?"
    ))
}
