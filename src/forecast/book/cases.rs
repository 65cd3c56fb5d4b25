//! Forecasts that are set aside, to be checked against what requests went on to need.

use std::time::Duration;

use super::{Book, Case};

/// A forecast is set aside, to be checked, this often.
const CASE_EVERY: Duration = Duration::from_millis(100);
const MOST_CASES: usize = 16;
/// And checked after so long at most: some requests never end.
const CASE_LASTS: Duration = Duration::from_secs(30);

impl Book {
    /// Sets the present forecast aside.
    pub(super) fn open_case(&mut self, now: Duration) {
        let due = self.case_opened.is_none_or(|at| now >= at + CASE_EVERY);
        let made = self.made;
        if made.needs.all.variance <= 0.0 || !due || self.cases.len() >= MOST_CASES {
            return;
        }
        self.case_opened = Some(now);
        self.cases.push(Case {
            opened: now,
            serial: self.serial,
            made,
            peaks: 0.0,
        });
    }

    /// Checks forecasts whose requests have all ended, or will not.
    pub(super) fn close_cases(&mut self, now: Duration) {
        let mut cases = std::mem::take(&mut self.cases);
        cases.retain(|case| {
            let over = case.made.in_flight == 0;
            if !over && now < case.opened + CASE_LASTS {
                return true;
            }
            let running = self.tracks.iter().flatten().flatten();
            let members =
                running.filter(|track| track.serial.is_some_and(|serial| serial <= case.serial));
            let peaks = case.peaks + members.map(|track| track.peak_bytes as f64).sum::<f64>();
            let needs = &case.made.needs;
            let margin_bytes = needs.margin_bytes(self.calibration.deviations);
            self.calibration
                .learn(peaks > needs.all.bytes + margin_bytes);
            false
        });
        self.cases = cases;
    }
}
