//! When memory is short: have some given back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Regulator};
use crate::forecast::BeforeTrim;
use crate::guard::state::allocated_bytes;
use crate::memory::release::{self, Means, PressureContext, Shortage, USEFUL_BYTES};
use crate::policy::{end_bytes, limit_bytes, worst};
use crate::telemetry::recent::EventKind;
use crate::units::mib;

/// What the allocator keeps was counted on; at this share of where memory ends it
/// is needed.
const URGENT_AT: f64 = 0.92;
const URGENT_BYTES: u64 = 2 << 20;
impl Regulator {
    pub(super) fn relieve(&'static self, now: Duration) {
        if self.state.live.only_observes() {
            return;
        }
        let (short, level, victims) = {
            let mut control = self.control();
            let victims = self.must_cancel(&mut control, now);
            let level = control.decision.pressure;
            (self.shortage(&control, now), level, victims)
        };
        let give_back = move |means| match means {
            Means::Allocators => self.trim_if_due(short),
            Means::Hooks => self.call_hooks(),
        };
        self.release.ask(short, level, give_back);
        victims.into_iter().for_each(|victim| self.cancel(victim));
    }

    fn shortage(&self, control: &Control, now: Duration) -> Shortage {
        if Self::is_stuck(control, now) && control.forecast.may_trim() {
            return Shortage::Stuck;
        }
        let counted_on = control.forecast.retained_bytes() >= URGENT_BYTES;
        if counted_on && !control.blind && worst(&control.levels, end_bytes) >= URGENT_AT {
            Shortage::Urgent
        } else if control.decision.gate || self.wanted_bytes(control) > 0 {
            Shortage::Some
        } else {
            Shortage::None
        }
    }

    /// Bytes to be freed for the next request to be admitted.
    fn wanted_bytes(&self, control: &Control) -> u64 {
        let reserved_bytes = self.state.limiter.reserved().kib() * 1024;
        let needed_bytes = reserved_bytes.saturating_add(control.next_bytes);
        let allowance_bytes = control.decision.allowance_bytes;
        allowance_bytes.map_or(0, |most_bytes| needed_bytes.saturating_sub(most_bytes))
    }

    fn pressure_context(&self) -> PressureContext {
        let control = self.control();
        PressureContext {
            level: control.decision.pressure,
            usage_bytes: control.shown_usage_bytes(),
            limit_bytes: limit_bytes(&control.levels),
            wanted_bytes: self.wanted_bytes(&control),
        }
    }

    /// Bytes in use, by a full sample.
    fn usage_now(&self) -> u64 {
        self.state.sampler.sample_now();
        self.control().own_bytes
    }

    fn call_hooks(&self) {
        let level = self.pressure_context().level();
        self.release.call_hooks(level, |hook| {
            let call = || hook(&self.pressure_context());
            self.measure("a hook", call).1
        });
    }

    fn trim_if_due(&self, shortage: Shortage) {
        if self.release.may_trim()
            && (shortage == Shortage::Stuck || self.control().forecast.is_worth_a_trim())
        {
            self.trim();
        }
    }

    fn trim(&self) {
        let trim = || {
            // Unlocked: samples go on meanwhile.
            let before = self.control().forecast.retained.before_trim();
            (before, release::trim())
        };
        let ((before, took), freed_bytes) = self.measure("the allocator", trim);
        let meanwhile_bytes = self.trimmed(before);
        let longest_us = &self.state.counters.longest_release_us;
        longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        self.release
            .trim_gave_back(took, freed_bytes, meanwhile_bytes);
    }

    /// How much `work` gave back, by full samples before and after; without what the other
    /// [`Means`] gave back meanwhile.
    fn measure<T>(&self, who: &str, work: impl FnOnce() -> T) -> (T, u64) {
        let counters = &self.state.counters;
        let released = || counters.released_bytes.load(Ordering::Relaxed);
        let (before_bytes, released_before) = (self.usage_now(), released());
        let done = work();
        let freed_bytes = before_bytes.saturating_sub(self.usage_now());
        let others_bytes = released().saturating_sub(released_before);
        let freed_bytes = freed_bytes.saturating_sub(others_bytes);
        counters.released(freed_bytes);
        if freed_bytes >= USEFUL_BYTES {
            let text = format!("{who} gave back {:.0} MiB", mib(freed_bytes));
            self.state.note(EventKind::Released, text, 0);
        }
        (done, freed_bytes)
    }

    /// The allocators have given back what they kept. Says how much was freed meanwhile, as
    /// far as it is known.
    fn trimmed(&self, before: BeforeTrim) -> u64 {
        let allocated_bytes = allocated_bytes();
        let Some(allocated_bytes) = allocated_bytes.or_else(release::allocated_bytes) else {
            return 0;
        };
        let kept_bytes = release::kept_bytes().unwrap_or(0);
        let mut control = self.control();
        control.braking.gave_back(kept_bytes);
        let usage_bytes = control.process_usage_bytes();
        let forecast = &mut control.forecast;
        forecast.trimmed(before, usage_bytes, allocated_bytes);
        before.freed_since(allocated_bytes)
    }
}
