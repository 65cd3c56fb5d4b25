//! From usage to a pressure level.

use crate::config::Config;
use crate::pressure::Pressure;

/// How far usage falls below a threshold before the level does.
const BAND: f64 = 0.02;
/// STABLE begins this far below WARNING.
const STABLE_BELOW_WARNING: f64 = 0.10;

/// Where levels begin, as fractions of the limit.
pub(crate) fn thresholds(config: &Config) -> [(Pressure, f64); 4] {
    let [warning, high, critical] = config.thresholds();
    [
        (Pressure::Stable, warning - STABLE_BELOW_WARNING),
        (Pressure::Warning, warning),
        (Pressure::High, high),
        (Pressure::Critical, critical),
    ]
}

/// The level, up at once and down with a band, so that it does not flap.
#[derive(Debug, Default)]
pub(super) struct Levels {
    /// Where STABLE, WARNING, HIGH and CRITICAL begin.
    thresholds: [f64; 4],
    level: Pressure,
}

impl Levels {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            thresholds: thresholds(config).map(|(_, fraction)| fraction),
            level: Pressure::Normal,
        }
    }

    /// Where CRITICAL begins.
    pub(super) fn critical(&self) -> f64 {
        self.thresholds[3]
    }

    /// The level at this share of the limit.
    pub(super) fn next(&mut self, fraction: f64) -> Pressure {
        let reached = |band: f64| {
            let passed = |&threshold: &&f64| fraction >= threshold - band;
            let count = self.thresholds.iter().take_while(passed).count();
            Pressure::from_index(count as u8)
        };
        // Up to what is reached; down no further than what is reached with the band.
        self.level = reached(0.0).max(self.level.min(reached(BAND)));
        self.level
    }
}
