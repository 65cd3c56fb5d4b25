//! When memory is short: give some back, and as a last resort cancel.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Control, Controller};
use crate::forecast::BeforeTrim;
use crate::memory::release::{self, PressureContext, Shortage, USEFUL_BYTES};
use crate::policy::{worst_end_fraction, worst_kill_fraction};
use crate::telemetry::recent::Kind;
use crate::units::mib;

/// Usage at which a request is cancelled, as a share of the hard limit. Late, since
/// a forecast that is only feared costs a request whose work was nearly done.
const CANCEL_AT: f64 = 0.97;
/// What the allocator keeps was counted on; at this share of where memory ends it
/// is needed.
const URGENT_AT: f64 = 0.92;
const URGENT_BYTES: u64 = 2 << 20;
/// Between two cancellations, so that the first can take effect.
const CANCEL_PAUSE: Duration = Duration::from_millis(30);
/// In each second at most one in so many requests, but one.
const CANCEL_ONE_IN: u32 = 4;

/// The cancellations of the present second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cancellations {
    second: u64,
    count: u32,
    last: Option<Duration>,
}

impl Cancellations {
    fn may(&mut self, in_flight: u32, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.count = 0;
        }
        let rested = self.last.is_none_or(|last| now >= last + CANCEL_PAUSE);
        let may = rested && self.count < (in_flight / CANCEL_ONE_IN).max(1);
        if may {
            self.count += 1;
            self.last = Some(now);
        }
        may
    }
}

impl Controller {
    /// Acts on what a full sample showed.
    pub(super) fn relieve(&'static self, now: Duration) {
        if self.only_observes() {
            return;
        }
        let (short, level, cancel) = {
            let mut control = self.control();
            let cancel = self.must_cancel(&mut control, now);
            let level = control.decision.pressure;
            (self.shortage(&control, now), level, cancel)
        };
        self.release
            .ask(short, level, move || self.give_back(short));
        if cancel {
            let victim = self.running.victim();
            // It may have ended meanwhile.
            if let Some((slot, generation)) = victim.filter(|(slot, it)| slot.cancel(*it)) {
                self.brake.force(slot, generation);
                self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
                let text = "a request was told to stop".into();
                self.note(Kind::Cancelled, text, 0);
            }
        }
    }

    fn shortage(&self, control: &Control, now: Duration) -> Shortage {
        if Self::is_stuck(control, now) && control.forecast.may_trim() {
            return Shortage::Stuck;
        }
        let counted_on = control.forecast.retained_bytes() >= URGENT_BYTES;
        if counted_on && !control.blind && worst_end_fraction(&control.levels) >= URGENT_AT {
            Shortage::Urgent
        } else if control.decision.gate || self.wanted_bytes(control) > 0 {
            Shortage::Some
        } else {
            Shortage::None
        }
    }

    /// Bytes to be freed for the next request to be admitted.
    fn wanted_bytes(&self, control: &Control) -> u64 {
        let reserved_bytes = self.limiter.reserved().kib() * 1024;
        let needed_bytes = reserved_bytes.saturating_add(control.next_bytes);
        needed_bytes.saturating_sub(control.decision.allowance_bytes)
    }

    fn must_cancel(&self, control: &mut Control, now: Duration) -> bool {
        self.live.may_cancel()
            && !control.blind
            && (Self::is_stuck(control, now) || worst_kill_fraction(&control.levels) >= CANCEL_AT)
            && control
                .cancellations
                .may(self.limiter.in_flight(&self.bounds), now)
    }

    /// What a hook is told.
    fn pressure_context(&self) -> PressureContext {
        let control = self.control();
        PressureContext {
            level: control.decision.pressure,
            usage_bytes: control.own_bytes,
            limit_bytes: crate::policy::limit_bytes(&control.levels),
            wanted_bytes: self.wanted_bytes(&control),
        }
    }

    /// Bytes in use, by a full sample.
    fn usage_now(&self) -> u64 {
        self.sampler.sample_now();
        self.control().own_bytes
    }

    /// Tries what is due. Takes full samples before and after.
    fn give_back(&self, shortage: Shortage) {
        let now = Instant::now();
        let level = self.pressure_context().level();
        for hook in self.release.due_hooks(level, now) {
            let before_bytes = self.usage_now();
            let took = hook.call(&self.pressure_context());
            let freed_bytes = before_bytes.saturating_sub(self.usage_now());
            self.note_freed("a hook", freed_bytes);
            self.release.hook_gave_back(&hook, took, freed_bytes);
        }
        let due = shortage > Shortage::None && self.release.may_trim(now);
        if due && (shortage == Shortage::Stuck || self.control().forecast.is_worth_a_trim()) {
            self.trim();
        }
    }

    fn trim(&self) {
        let before_bytes = self.usage_now();
        let before = self.control().forecast.before_trim();
        let took = release::trim();
        let after_bytes = self.usage_now();
        let meanwhile_bytes = self.trimmed(before, after_bytes);
        let freed_bytes = before_bytes.saturating_sub(after_bytes);
        self.note_freed("the allocator", freed_bytes);
        self.release
            .trim_gave_back(took, freed_bytes, meanwhile_bytes);
    }

    fn note_freed(&self, who: &str, freed_bytes: u64) {
        if freed_bytes >= USEFUL_BYTES {
            let text = format!("{who} gave back {:.0} MiB", mib(freed_bytes));
            self.note(Kind::Released, text, 0);
        }
    }

    /// The allocators have given back what they kept, and so much is in use. Says how
    /// much was freed meanwhile, as far as it is known.
    fn trimmed(&self, before: BeforeTrim, usage_bytes: u64) -> u64 {
        let allocated_bytes = self.allocated_bytes();
        let Some(allocated_bytes) = allocated_bytes.or_else(release::allocated_bytes) else {
            return 0;
        };
        let mut control = self.control();
        let usage_bytes = usage_bytes.min(control.process_usage_bytes());
        let forecast = &mut control.forecast;
        forecast.trimmed(before, usage_bytes, allocated_bytes);
        before.freed_since(allocated_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_cancelled_at_a_time() {
        let mut cancellations = Cancellations::default();
        let mut count = |in_flight, from: u64| {
            let ticks = (from..from + 1000).map(Duration::from_millis);
            ticks
                .filter(|&now| cancellations.may(in_flight, now))
                .count()
        };
        assert_eq!(count(3, 0), 1);
        assert_eq!(count(20, 1000), 5);
        assert!(count(4000, 2000) <= 34);
    }
}
