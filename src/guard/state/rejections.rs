//! Whoever is turned away, or was paused for long: counted, said, and told when to come back.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::State;
use crate::class::tag::Tag;
use crate::error::{Reason, Rejected};
use crate::limiter::Refusal;
use crate::running::Slot;
use crate::telemetry::logs::{decided, say};
use crate::telemetry::outcome::Outcome;
use crate::telemetry::recent::EventKind;

/// The most that a tenant's Retry-After is doubled.
const MOST_DOUBLINGS: u32 = 4;
/// A request that was paused for longer is worth a line.
const LONG_PAUSE: Duration = Duration::from_secs(1);

impl State {
    /// Counts a rejection, logs it (at most once a second), and says when to come back.
    pub(crate) fn reject(&self, reason: Reason, tag: Tag) -> Rejected {
        self.tell(reason.into(), tag)
    }

    /// [`reject`](Self::reject) for what is known of the wait that it would have been.
    #[cold]
    pub(crate) fn tell(&self, refusal: Refusal, tag: Tag) -> Rejected {
        let Refusal { reason, expected } = refusal;
        self.counters.reject(reason, tag);
        let mut rejected = self.rejection(reason);
        if let Some(at_once) = &mut rejected.retry_after {
            let wait = expected.unwrap_or_else(|| self.time_to_retry(reason));
            *at_once = self.retry_after(tag, wait);
        }
        self.log_rejection(&rejected);
        rejected
    }

    /// A rejection that is neither counted nor logged.
    pub(crate) fn rejection(&self, reason: Reason) -> Rejected {
        let retry_after = || self.jittered(self.time_to_retry(reason));
        Rejected {
            reason,
            pressure: self.pressure(),
            memory_percent: self.shown.memory_percent(),
            retry_after: (!reason.is_permanent()).then(retry_after),
        }
    }

    fn log_rejection(&self, rejected: &Rejected) {
        let reason = rejected.reason.as_str();
        decided(reason);
        if let Some(suppressed) = self.rejection_lines.may_say(self.sampler.now()) {
            self.note(EventKind::Rejected, reason.to_owned(), suppressed);
            let stats = self.stats();
            say!(
                warn,
                reason,
                level = stats.level.as_str(),
                memory_percent = stats.memory_percent,
                active_tasks = stats.active_tasks,
                waiting_requests = stats.waiting_requests,
                current_concurrency = stats.current_concurrency,
                total_requests = stats.total_requests,
                rejected_requests = stats.rejected_requests,
                suppressed,
                name = self.name.as_deref(),
                "memory guard rejected a request"
            );
        }
    }

    /// In observe mode: a request passes that would not have.
    pub(crate) fn observe(&self, would: &'static str) {
        if !self.config().enabled {
            return;
        }
        self.counters.observed.fetch_add(1, Relaxed);
        decided(would);
        if let Some(suppressed) = self.rejection_lines.may_say(self.sampler.now()) {
            self.note(EventKind::Observed, would.to_owned(), suppressed);
            let stats = self.stats();
            say!(
                warn,
                would,
                level = stats.level.as_str(),
                memory_percent = stats.memory_percent,
                active_tasks = stats.active_tasks,
                observed_requests = stats.observed_requests,
                suppressed,
                name = self.name.as_deref(),
                "memory guard would have held back a request"
            );
        }
    }

    /// A request ends that was paused: says so, at most once a second, if it was for long.
    #[cold]
    pub(crate) fn tell_pauses(&self, slot: &Slot, tag: Tag, outcome: Outcome) {
        let paused = slot.paused(self.sampler.now());
        if paused <= LONG_PAUSE {
            return;
        }
        let Some(suppressed) = self.pause_lines.may_say(self.sampler.now()) else {
            return;
        };
        let class = self.labels.name(tag.key);
        let outcome = outcome.as_str();
        let text = format!("for {:.1} s, then {outcome}", paused.as_secs_f64());
        let of_class = if class.is_empty() { "" } else { " " };
        self.note(
            EventKind::Paused,
            format!("{class}{of_class}{text}"),
            suppressed,
        );
        // No statistics: whoever ends a request may hold a lock.
        say!(
            warn,
            paused_ms = paused.as_millis() as u64,
            class,
            outcome,
            level = self.pressure().as_str(),
            memory_percent = self.shown.memory_percent(),
            paused_tasks = self.brake.paused(),
            suppressed,
            name = self.name.as_deref(),
            "memory guard paused a request for long"
        );
    }

    /// When to come back: later and later, if the tenant is over its retry budget.
    fn retry_after(&self, tag: Tag, wait: Duration) -> Duration {
        let retry_after = self.jittered(wait);
        let Some(budget) = self.config().retry_budget else {
            return retry_after;
        };
        let account = self.bounds.tenants().get(tag.tenant);
        let doublings = ((account.strike() - 1) / budget.max(1)).min(MOST_DOUBLINGS);
        retry_after * (1 << doublings)
    }

    /// When what was turned away may expect to be admitted.
    fn time_to_retry(&self, reason: Reason) -> Duration {
        match reason {
            Reason::CriticalPressure => self.shown.summary().critical,
            _ => self.shown.summary().backlog(self.limiter.waiting()),
        }
    }

    /// With up to half of it added at random, so that those who were turned away
    /// together do not return together.
    fn jittered(&self, wait: Duration) -> Duration {
        let jittered = wait.as_secs_f64().max(1.0) * (1.0 + fastrand::f64() / 2.0);
        Duration::from_secs(jittered.ceil().clamp(1.0, 60.0) as u64)
    }

    /// Keeps a decision for whoever asks.
    pub(crate) fn note(&self, kind: EventKind, text: String, suppressed: u64) {
        let percent = self.shown.memory_percent();
        let level = self.pressure();
        self.recent.push(kind, text, level, percent, suppressed);
    }
}
