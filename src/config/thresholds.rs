//! What follows from settings that nobody gave.

use super::{Config, Policy};

/// Where WARNING, HIGH and CRITICAL begin with the ladder.
const LADDER_THRESHOLDS: [f64; 3] = [0.70, 0.80, 0.85];
/// Near the end: this policy runs full by design.
const PREDICTIVE_THRESHOLDS: [f64; 3] = [0.90, 0.95, 0.98];

/// Without what binary fractions add: 0.95 − 0.05 is 0.9.
fn rounded(fraction: f64) -> f64 {
    (fraction * 1e4).round() / 1e4
}

impl Config {
    /// Where WARNING, HIGH and CRITICAL begin, as far as somebody said so.
    fn said_thresholds(&self) -> [Option<f64>; 3] {
        [
            self.warning_fraction,
            self.high_fraction,
            self.critical_fraction,
        ]
    }

    /// What [`policy`](Self::policy) comes to: [`Policy::Ladder`] or
    /// [`Policy::Predictive`].
    ///
    /// ```
    /// use tower_memory_guard::{Config, Policy};
    ///
    /// let mut config = Config::default();
    /// assert_eq!(config.decided_policy(), Policy::Predictive);
    /// config.max_concurrent = Some(10);
    /// assert_eq!(config.decided_policy(), Policy::Ladder);
    /// ```
    pub fn decided_policy(&self) -> Policy {
        let said = self.said_thresholds().iter().any(Option::is_some);
        match self.policy {
            Policy::Auto if said || self.max_concurrent.is_some() => Policy::Ladder,
            Policy::Auto => Policy::Predictive,
            chosen => chosen,
        }
    }

    /// Where WARNING, HIGH and CRITICAL begin, as fractions of the limit: as far as nobody
    /// said so, where they do with the [policy](Self::decided_policy).
    pub fn thresholds(&self) -> [f64; 3] {
        let predictive = self.decided_policy() == Policy::Predictive;
        let defaults = match predictive {
            true => PREDICTIVE_THRESHOLDS,
            false => LADDER_THRESHOLDS,
        };
        let said = self.said_thresholds();
        let [mut warning, mut high, critical] =
            std::array::from_fn(|at| said[at].unwrap_or(defaults[at]));
        if predictive {
            // These lie so close together that the others have to make room.
            let [said_warning, said_high, _] = said;
            high = said_high.unwrap_or(high.min(rounded(critical - 0.03)));
            warning = said_warning.unwrap_or(warning.min(rounded(high - 0.05)));
        }
        [warning, high, critical]
    }
}
