//! What the guard says of itself: statistics, log events, metrics, rejections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::shown::Shown;
use super::{Controller, Notice};
use crate::class::tag::Tag;
use crate::config::OnSensorFailure;
use crate::error::{Reason, Rejected};
use crate::limiter::{MAX_COUNT, Refusal};
use crate::pressure::Pressure;
use crate::running::Slot;
use crate::sync::foreign::{self, Code};
use crate::telemetry::logs::{self, LongPause};
use crate::telemetry::outcome::Outcome;
use crate::telemetry::recent::EventKind;
use crate::telemetry::stats::{Stats, bound};
use crate::units::mib;

/// The most that a tenant's Retry-After is doubled.
const MOST_DOUBLINGS: u32 = 4;
/// A request that was paused for longer is worth a line.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two publications of metrics, and two log lines of one kind.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl Controller {
    /// Counts a rejection, logs it (at most once a second), and says when to come back.
    pub(crate) fn reject(&self, reason: Reason, tag: Tag) -> Rejected {
        self.reject_for(reason, tag, None)
    }

    /// [`reject`](Self::reject) for what would have waited for so long.
    pub(crate) fn reject_for(
        &self,
        reason: Reason,
        tag: Tag,
        expected: Option<Duration>,
    ) -> Rejected {
        self.counters.reject(reason, tag);
        let mut rejected = self.rejection(reason);
        if let Some(at_once) = &mut rejected.retry_after {
            let wait = expected.unwrap_or_else(|| self.time_to_retry(reason));
            *at_once = self.retry_after(tag, wait);
        }
        self.log_rejection(&rejected);
        rejected
    }

    /// Counts and says that a request is turned away.
    #[cold]
    pub(crate) fn tell(&self, refusal: Refusal, tag: Tag) -> Rejected {
        self.reject_for(refusal.reason, tag, refusal.expected)
    }

    /// A rejection that is neither counted nor logged.
    pub(crate) fn rejection(&self, reason: Reason) -> Rejected {
        let retry_after = || self.jittered(self.time_to_retry(reason));
        Rejected {
            reason,
            pressure: self.pressure(),
            memory_percent: f64::from_bits(self.percent_bits.load(Ordering::Relaxed)),
            retry_after: (!reason.is_permanent()).then(retry_after),
        }
    }

    fn log_rejection(&self, rejected: &Rejected) {
        let reason = rejected.reason.as_str();
        logs::decided(reason);
        if let Some(suppressed) = self.rejection_lines.may_say(self.sampler.tick()) {
            self.note(EventKind::Rejected, reason.to_owned(), suppressed);
            let name = self.name.as_deref();
            logs::rejected(rejected, &self.stats(), suppressed, name);
        }
    }

    /// In observe mode: a request passes that would not have.
    pub(crate) fn observe(&self, would: &'static str) {
        if !self.config().enabled {
            return;
        }
        self.counters.observed.fetch_add(1, Ordering::Relaxed);
        logs::decided(would);
        if let Some(suppressed) = self.rejection_lines.may_say(self.sampler.tick()) {
            self.note(EventKind::Observed, would.to_owned(), suppressed);
            let name = self.name.as_deref();
            logs::observed(would, &self.stats(), suppressed, name);
        }
    }

    /// A request ends that was paused: says so, at most once a second, if it was for long.
    #[cold]
    pub(crate) fn tell_pauses(&self, slot: &Slot, tag: Tag, outcome: Outcome) {
        let paused = slot.paused(self.sampler.now());
        if paused <= LONG_PAUSE {
            return;
        }
        let Some(suppressed) = self.pause_lines.may_say(self.sampler.tick()) else {
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
        logs::paused(&LongPause {
            paused,
            class,
            outcome,
            level: self.pressure(),
            memory_percent: f64::from_bits(self.percent_bits.load(Ordering::Relaxed)),
            paused_tasks: self.brake.paused(),
            suppressed,
            name: self.name.as_deref(),
        });
    }

    /// When to come back: later and later, if the tenant is over its retry budget.
    fn retry_after(&self, tag: Tag, wait: Duration) -> Duration {
        let retry_after = self.jittered(wait);
        let Some(account) = self.bounds.tenants().get(tag.tenant) else {
            return retry_after;
        };
        let Some(budget) = self.config().retry_budget else {
            return retry_after;
        };
        let doublings = (account.strike() / budget.max(1)).min(MOST_DOUBLINGS);
        retry_after * (1 << doublings)
    }

    /// When what was turned away may expect to be admitted.
    fn time_to_retry(&self, reason: Reason) -> Duration {
        match reason {
            Reason::CriticalPressure => {
                Duration::from_millis(self.critical_ms.load(Ordering::Relaxed))
            }
            _ => self.backlog(),
        }
    }

    /// The expected wait of one more request: none, where it would be admitted.
    fn expected_wait(&self, shown: &Shown) -> Duration {
        let has_place = self.limiter.in_flight(&self.bounds) < shown.concurrency;
        match self.limiter.waiting() == 0 && has_place && !shown.kept_out {
            true => Duration::ZERO,
            false => self.backlog(),
        }
    }

    /// The expected wait of one more waiter.
    fn backlog(&self) -> Duration {
        match self.backlog_ms.load(Ordering::Relaxed) {
            u64::MAX => {
                let drain = Duration::from_nanos(self.drain_ns.load(Ordering::Relaxed));
                drain.saturating_mul(self.limiter.waiting() as u32 + 1)
            }
            wait_ms => Duration::from_millis(wait_ms),
        }
    }

    /// With up to half of it added at random, so that those who were turned away
    /// together do not return together.
    fn jittered(&self, wait: Duration) -> Duration {
        let jittered = wait.as_secs_f64().max(1.0) * (1.0 + fastrand::f64() / 2.0);
        Duration::from_secs(jittered.ceil().clamp(1.0, 60.0) as u64)
    }

    /// Waits for no sample: a rejection is logged with it.
    pub(crate) fn stats(&self) -> Stats {
        self.look_for_fork();
        let shown = self.shown();
        let waits = self.limiter.waits();
        let rejected = self.counters.all_rejected();
        let ready = self.ready.count();
        let active = u64::from(self.limiter.in_flight(&self.bounds));
        let (waiting, unheard) = (
            self.limiter.waiting_for(&self.bounds),
            self.limiter.unheard(&self.bounds),
        );
        let waiting = (waiting + unheard) as u64;
        // What has ended before what is in flight: one that ends in between is missed, and
        // not counted twice.
        let ended = self.counters.outcomes.totals();
        // Twice among those that are active or wait, or there and no requests so far.
        let need_more = self.limiter.need_more(&self.bounds) as u64;
        let beside = ready + self.counters.not_yet.load(Ordering::Relaxed) + need_more;
        Stats {
            total_requests: ended.sum(rejected) + (active + waiting).saturating_sub(beside),
            rejected_requests: rejected,
            completed_requests: ended.answered,
            failed_requests: ended.failed,
            abandoned_requests: ended.abandoned,
            abandoned_waiting_requests: ended.abandoned_waiting,
            active_tasks: active,
            queued_requests: self.counters.queued.load(Ordering::Relaxed),
            waiting_requests: waiting,
            current_concurrency: bound(shown.concurrency),
            base_concurrency: bound(shown.base_concurrency),
            memory_percent: shown.fraction * 100.0,
            memory_alloc_mib: mib(self.allocated_bytes().unwrap_or(shown.process_bytes)),
            memory_sys_mib: mib(shown.usage_bytes),
            memory_limit_mib: shown.limit_bytes.map(mib),
            reserved_mib: mib(self.limiter.reserved().kib() * 1024),
            estimated_mem_per_req_mib: mib(shown.request_bytes),
            level: self.pressure(),
            sensor_ok: !shown.blind,
            expected_wait_ms: self.expected_wait(&shown).as_secs_f64() * 1e3,
            oldest_waiter_ms: self.oldest_wait().as_secs_f64() * 1e3,
            estimate_error_ratio: shown.error_ratio,
            demand_ratio: self.loads().demand,
            latched_seconds: self.latched_for().as_secs_f64(),
            wait_error_ms: waits.error.as_secs_f64() * 1e3,
            checked_waits: waits.checked,
            observed_requests: self.counters.observed.load(Ordering::Relaxed),
            stalled_responses: self.counters.stalled.load(Ordering::Relaxed),
            outstanding_mib: self.outstanding_bytes(&shown) as f64 / f64::from(1 << 20),
            margin_deviations: shown.margin_deviations,
            checked_forecasts: shown.checked.0,
            exceeded_forecasts: shown.checked.1,
            paused_tasks: u64::from(self.brake.paused()),
            pauses: self.brake.pauses.load(Ordering::Relaxed),
            paused_seconds_total: self.brake.paused_ms.load(Ordering::Relaxed) as f64 / 1e3,
            observed_pauses: self.counters.would_pause.load(Ordering::Relaxed),
            cancelled_requests: self.counters.cancelled.load(Ordering::Relaxed),
            releases: self.release.attempts(),
            released_mib: mib(self.release.freed_bytes()),
            caught_panics: foreign::caught(),
            longest_release_ms: self.release.longest().as_micros() as f64 / 1e3,
        }
    }

    fn outstanding_bytes(&self, shown: &Shown) -> i64 {
        // What is forecast for requests that are over is nobody's.
        if self.limiter.all_in_flight() == 0 {
            return 0;
        }
        let reserved_bytes = self.limiter.reserved().kib() * 1024;
        shown.outstanding.bytes(reserved_bytes)
    }

    pub(crate) fn oldest_wait(&self) -> Duration {
        self.limiter.oldest_wait(&self.bounds)
    }

    /// Keeps a decision for whoever asks.
    pub(crate) fn note(&self, kind: EventKind, text: String, suppressed: u64) {
        let percent = f64::from_bits(self.percent_bits.load(Ordering::Relaxed));
        let level = self.pressure();
        self.recent.push(kind, text, level, percent, suppressed);
    }

    pub(super) fn report(&self, notices: Vec<Notice>, publish_metrics: bool, now: Duration) {
        for notice in notices {
            self.say(notice);
        }
        #[cfg(feature = "metrics")]
        if publish_metrics {
            foreign::call(Code::Recorder, || self.publish_metrics(now));
        }
        let _ = (publish_metrics, now);
    }

    fn say(&self, notice: Notice) {
        let name = self.name.as_deref();
        match notice {
            Notice::Adjusted { from } => {
                let stats = self.stats();
                let action = match stats.level.cmp(&from.pressure) {
                    _ if stats.level == Pressure::Critical => "reject",
                    std::cmp::Ordering::Greater => "reduce",
                    _ => "restore",
                };
                let (old, new) = (bound(from.concurrency), stats.current_concurrency);
                let number = |count: Option<u64>| match count {
                    Some(count) => count.to_string(),
                    None => "any number".into(),
                };
                let text = match old == new {
                    true => format!("{action}: {} to {}", from.pressure, stats.level),
                    false => format!(
                        "{action}: {} to {}, {} to {} at once",
                        from.pressure,
                        stats.level,
                        number(old),
                        number(new)
                    ),
                };
                self.note(EventKind::Adjusted, text, 0);
                logs::adjusted(&stats, action, old, name);
                // Wakes whoever listens.
                foreign::call(Code::Waker, || self.levels.send_replace(stats.level));
            }
            Notice::SensorFailed(error) => {
                let closed = self.config().on_sensor_failure == OnSensorFailure::Closed;
                let counts = self.bounds.caps().count() < MAX_COUNT;
                self.note(EventKind::SensorFailed, error.to_string(), 0);
                logs::sensor_failed(&error, closed, counts);
            }
            Notice::SensorRecovered => {
                self.note(EventKind::SensorRecovered, "memory is read again".into(), 0);
                logs::sensor_recovered();
            }
            Notice::LimitChanged { from, to } => {
                let (from, to) = (mib(from), mib(to));
                let text = format!("from {from:.0} to {to:.0} MiB");
                self.note(EventKind::LimitChanged, text, 0);
                logs::limit_changed(from, to);
            }
            Notice::NoLimit => logs::no_limit(),
        }
    }
}
