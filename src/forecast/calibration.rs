//! How many standard deviations of margin a forecast needs.

use super::record::MOST_DEVIATIONS;

/// The margin before anything is known: what one in a thousand of a normal
/// distribution exceeds.
const FIRST: f64 = 3.0;
/// It stays above this.
const LEAST: f64 = 0.5;
/// How far one forecast that was exceeded moves it.
const STEP: f64 = 0.5;

/// Follows the quantile of forecast errors that the configured share exceeds.
///
/// A forecast that was exceeded raises the margin by `step·(1 − target)`, every
/// other one lowers it by `step·target`; the share of exceeded forecasts then
/// tends to the target whatever the errors look like, since the margin is bounded:
/// after n forecasts it is off by at most (range + step) / (step·n) (Gibbs and
/// Candès, *Adaptive conformal inference under distribution shift*, 2021).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calibration {
    /// The share of forecasts that may be exceeded.
    pub(super) target: f64,
    /// The margin, in standard deviations.
    pub(super) deviations: f64,
    /// Forecasts that were checked, and how many of them were exceeded.
    pub(super) counts: (u64, u64),
}

impl Calibration {
    pub(crate) fn new(target: f64) -> Self {
        Self {
            target,
            deviations: FIRST,
            ..Self::default()
        }
    }

    /// A forecast with this margin was exceeded, or not.
    pub(crate) fn learn(&mut self, exceeded: bool) {
        self.counts.0 += 1;
        self.counts.1 += u64::from(exceeded);
        let moved = f64::from(u8::from(exceeded)) - self.target;
        self.deviations = (self.deviations + STEP * moved).clamp(LEAST, MOST_DEVIATIONS);
    }

    pub(super) fn set_deviations(&mut self, deviations: f64) {
        if deviations.is_finite() {
            self.deviations = deviations.clamp(LEAST, MOST_DEVIATIONS);
        }
    }
}
