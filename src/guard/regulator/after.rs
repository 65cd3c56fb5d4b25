//! What follows from a sample once what it decided is in force.

use std::sync::MutexGuard;
use std::time::Duration;

use super::{Control, Regulator};
use crate::guard::state::REPORT_INTERVAL;
use crate::sync::foreign::{self, Code};
use crate::units::MAX_KIB;

impl Regulator {
    /// Says and does what is to be done once no lock is held; says when to sample next.
    pub(super) fn pass_on(
        &'static self,
        mut control: MutexGuard<'_, Control>,
        full: bool,
        now: Duration,
    ) -> Duration {
        let notices = std::mem::take(&mut control.notices);
        let new_limit = control.new_limit.take();
        let free_kib = control
            .decision
            .free_bytes
            .map_or(MAX_KIB, |bytes| bytes / 1024);
        let due = (control.last.published).is_none_or(|at| now >= at + REPORT_INTERVAL);
        let publish_metrics =
            full && (due || !notices.is_empty() || !self.state.sampler.in_background());
        if publish_metrics {
            control.last.published = Some(now);
        }
        let (probes, interval) = match full {
            true => {
                let probes = std::mem::take(&mut control.probes);
                (probes, self.next_interval(&mut control, now))
            }
            false => (0, Duration::MAX),
        };
        drop(control);
        if let Some(limit_bytes) = new_limit {
            // Wakes whoever listens, who may ask for anything.
            foreign::call(Code::Waker, || self.limits.send_replace(limit_bytes));
        }
        if full {
            self.sweep(now);
            self.may_have_learned();
            self.relieve(now);
        }
        // A full sample always pumps, under the queue's lock: that is what makes
        // new bounds known to those who joined while they were published.
        if full || self.state.limiter.waiting() > 0 {
            self.state.limiter.pump();
        }
        if full {
            self.state.tidy_up(now);
        }
        self.state.let_probes_in(probes, free_kib);
        self.report(notices, publish_metrics, now);
        interval
    }
}
