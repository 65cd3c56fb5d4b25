//! Settings of who goes first: [`MemoryGuardBuilder`]'s second half.

use std::time::Duration;

use http::HeaderName;

use super::MemoryGuardBuilder;
use crate::class::Tier;
use crate::pressure::Pressure;

/// The greatest weight of a tier.
const MOST_WEIGHT: u32 = 1000;

impl MemoryGuardBuilder {
    /// A tier that requests may name with [`Class::tier`](crate::Class::tier). A second
    /// one of the same name replaces the first.
    pub fn tier(mut self, tier: Tier) -> Self {
        let share = tier.max_share;
        let settings = &mut self.settings;
        let before = settings.problems.len();
        if tier.name.is_empty() {
            settings.problem("tier", "", "a name");
        }
        if !(1..=MOST_WEIGHT).contains(&tier.weight) {
            let expected = format!("from 1 to {MOST_WEIGHT}");
            settings.problem("tier.weight", tier.weight.to_string(), expected);
        }
        if !(share > 0.0 && share <= 1.0) {
            let expected = "a fraction above 0 and up to 1";
            settings.problem("tier.max_share", share.to_string(), expected);
        }
        if tier.max_in_flight == 0 {
            settings.problem("tier.max_in_flight", "0", "at least 1");
        }
        if settings.problems.len() == before {
            let tiers = &mut settings.config.tiers;
            tiers.retain(|other| other.name != tier.name);
            tiers.push(tier);
        }
        self
    }

    /// Memory that is kept free for [`Priority::Critical`](crate::Priority::Critical)
    /// work, as a fraction of the limit, from 0 to 0.5; from the first such request on.
    /// Default 0.02.
    ///
    /// Critical work that fits there never waits. 0 makes it as other work, but first.
    pub fn critical_reserve(mut self, fraction: f64) -> Self {
        if (0.0..=0.5).contains(&fraction) {
            self.settings.config.critical_reserve_fraction = fraction;
        } else {
            let expected = "a fraction from 0 to 0.5";
            self.settings
                .problem("critical_reserve", fraction.to_string(), expected);
        }
        self
    }

    /// From this level on, new work of [`Priority::Low`](crate::Priority::Low) is
    /// rejected with [`Reason::LowPriority`](crate::Reason::LowPriority). `None`: it
    /// waits like other work, after it. Default [`Pressure::Warning`].
    pub fn shed_low_at(mut self, level: impl Into<Option<Pressure>>) -> Self {
        self.settings.config.shed_low_at = level.into();
        self
    }

    /// From [`Pressure::High`] on, work of [`Priority::Normal`](crate::Priority::Normal)
    /// waits for this part of its deadline, if the guard has met work of
    /// [`Priority::High`](crate::Priority::High); above 0 and up to 1. Default 0.5.
    pub fn normal_wait_at_high(mut self, fraction: f64) -> Self {
        if fraction > 0.0 && fraction <= 1.0 {
            self.settings.config.normal_wait_at_high = fraction;
        } else {
            let expected = "a fraction above 0 and up to 1";
            self.settings
                .problem("normal_wait_at_high", fraction.to_string(), expected);
        }
        self
    }

    /// Once the oldest waiter of a class of priority and a tenant has waited for so
    /// long, the newest goes first, until the backlog is shorter: those who waited
    /// longest are the likeliest to have gone. Default `None`: always the oldest.
    pub fn newest_first_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        let wait = wait.into();
        if wait.is_none_or(|wait| self.positive("newest_first_after", wait)) {
            self.settings.config.newest_first_after = wait;
        }
        self
    }

    /// Rejections of one tenant up to so many have their usual Retry-After; for each
    /// further such number of them it doubles, up to sixteen times. Half of them are
    /// forgotten every ten seconds. Default `None`: it never does.
    pub fn retry_budget(mut self, rejections: impl Into<Option<u32>>) -> Self {
        match rejections.into() {
            Some(0) => self.settings.problem("retry_budget", "0", "at least 1"),
            budget => self.settings.config.retry_budget = budget,
        }
        self
    }

    /// One more header in which callers say how long they wait, beside `grpc-timeout`
    /// and `x-envoy-expected-rq-timeout-ms`: a whole number of milliseconds, or gRPC's
    /// form (`500m`, `2S`). It only makes the wait shorter. Response flavour only.
    pub fn deadline_header(mut self, name: HeaderName) -> Self {
        self.settings.config.deadline_headers.push(name);
        self
    }
}
