//! How long CRITICAL lasts: when to come back for those that it turned away.
//!
//! The queue's forecast says nothing of that: nobody waits, and what is in flight need
//! not be what fills memory.

use std::time::Duration;

/// The latest counts for a quarter.
const STEP: u32 = 4;

/// Times of CRITICAL, the present one and those before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Critical {
    since: Option<Duration>,
    mean: Option<Duration>,
}

impl Critical {
    pub(super) fn observe(&mut self, is_critical: bool, now: Duration) {
        match (self.since, is_critical) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                let lasted = now.saturating_sub(since);
                let mean = self.mean.unwrap_or(lasted);
                self.mean = Some((mean * (STEP - 1) + lasted) / STEP);
                self.since = None;
            }
            _ => {}
        }
    }

    /// How much longer it may be expected to last: what is left of the mean; once that is
    /// over, as long as it has lasted.
    pub(super) fn remaining(&self, now: Duration) -> Duration {
        let Some(since) = self.since else {
            return self.mean.unwrap_or_default();
        };
        let lasted = now.saturating_sub(since);
        let left = self.mean.and_then(|mean| mean.checked_sub(lasted));
        left.unwrap_or(lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_lasted_long_is_expected_to_last_longer() {
        let second = Duration::from_secs;
        let mut critical = Critical::default();
        assert_eq!(critical.remaining(second(0)), Duration::ZERO);
        critical.observe(true, second(10));
        critical.observe(true, second(14));
        assert_eq!(critical.remaining(second(14)), second(4));
        critical.observe(false, second(18));
        critical.observe(true, second(100));
        assert_eq!(critical.remaining(second(102)), second(6));
        assert_eq!(critical.remaining(second(130)), second(30));
        critical.observe(false, second(104));
        assert_eq!(critical.mean, Some(second(7)));
    }
}
