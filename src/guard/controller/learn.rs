//! What a sample teaches, and what requests are estimated to need by that.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Controller, Notice};
use crate::class::tag::Tag;
use crate::forecast::{Evidence, Forecast};
use crate::limiter::OpenBodies;
use crate::memory::{Detail, Sample};
use crate::policy::limit_bytes;
use crate::units::kib;

impl Controller {
    /// `active`: its own requests in flight.
    pub(super) fn learn(
        &self,
        control: &mut Control,
        sample: &Sample,
        detail: Detail,
        now: Duration,
        active: u32,
    ) {
        if std::mem::take(&mut control.blind) {
            control.notices.push(Notice::SensorRecovered);
        }
        control.last.good_at = now;
        self.take_levels(sample, control);
        let slack = 1.0 - control.strategy.theta();
        let limit = limit_bytes(&control.levels).unwrap_or(0);
        let slack_bytes = (limit as f64 * slack) as u64;
        control.forecast.set_slack(slack_bytes, limit);
        if detail == Detail::Full {
            let evidence = self.evidence(control, now, active);
            control.forecast.observe(evidence);
        } else {
            control.forecast.see_usage(control.own_bytes);
        }
    }

    fn evidence(&self, control: &mut Control, now: Duration, active: u32) -> Evidence {
        let staged = match self.accounted {
            true => OpenBodies::default(),
            false => self.limiter.staged(),
        };
        let allocated_bytes = match self.accounted {
            true => self.allocated_bytes(),
            false => self.ask_allocator(control, now),
        };
        Evidence {
            now,
            usage_bytes: control.own_bytes,
            process_bytes: control.process_usage_bytes(),
            allocated_bytes,
            polls_tell: !self.accounted && crate::memory::release::tells_quickly(),
            anonymous_bytes: self.anonymous_bytes(),
            grown_bytes: self.grown_before.load(Ordering::Relaxed),
            own_in_flight: active.saturating_sub(staged.requests),
            all_in_flight: (self.limiter.all_in_flight()).saturating_sub(staged.requests),
            body_bytes: staged.read_bytes,
            waiting: self.limiter.waiting() as u32,
            completed: control.completed,
        }
    }

    /// What requests ask for from here on.
    pub(super) fn publish_estimates(&self, forecast: &Forecast) {
        for (key, bytes, low_bytes) in forecast.by_kind() {
            self.bounds.set_estimate(key, kib(bytes), low_bytes / 1024);
        }
        let (bytes, low_bytes) = forecast.of_unknown_kind();
        self.bounds.set_unknown(kib(bytes), low_bytes / 1024);
        if !self.accounted {
            // No kinds are told apart: the first is found sooner.
            self.bounds
                .set_estimate(Tag::NONE.key, kib(bytes), low_bytes / 1024);
        }
    }
}
