//! What statistics, metrics and the dashboard say of a guard.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Loads, State, Summary, allocated_bytes};
#[cfg(feature = "dashboard")]
use crate::error::Reason;
use crate::sync::foreign;
#[cfg(feature = "dashboard")]
use crate::telemetry::recent::Event;
use crate::telemetry::stats::{Stats, bound};
use crate::units::{MAX_KIB, mib};

impl State {
    /// Waits for no sample: a rejection is logged with it.
    pub(crate) fn stats(&self) -> Stats {
        self.look_for_fork();
        let shown = self.shown.summary();
        let (wait_error, checked_waits) = self.limiter.wait_errors();
        // What has ended before what is in flight: one that ends in between is missed, and
        // not counted twice.
        let rejected = self.counters.all_rejected();
        let ended = self.counters.outcomes.totals();
        let before = self.beside();
        let active = u64::from(self.in_flight());
        let (waiting, need_more) = self.limiter.waits(&self.bounds);
        let beside = before.max(self.beside()) + need_more;
        let came = ended.sum(rejected) + (active + waiting).saturating_sub(beside);
        let most_came = self.counters.most_came.fetch_max(came, Ordering::Relaxed);
        Stats {
            total_requests: came.max(most_came),
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
            memory_percent: self.shown.memory_percent(),
            memory_alloc_mib: mib(allocated_bytes().unwrap_or(shown.process_bytes)),
            memory_sys_mib: mib(shown.usage_bytes),
            memory_limit_mib: self.shown.limit_bytes().map(mib),
            reserved_mib: mib(self.limiter.reserved().kib() * 1024),
            estimated_mem_per_req_mib: mib(shown.request_bytes),
            level: self.pressure(),
            sensor_ok: !shown.blind,
            expected_wait_ms: self.expected_wait(&shown).as_secs_f64() * 1e3,
            oldest_waiter_ms: self.oldest_wait().as_secs_f64() * 1e3,
            estimate_error_ratio: shown.error_ratio,
            demand_ratio: self.loads().demand,
            latched_seconds: self.latched_for().as_secs_f64(),
            wait_error_ms: wait_error.as_secs_f64() * 1e3,
            checked_waits,
            observed_requests: self.counters.observed.load(Ordering::Relaxed),
            stalled_responses: self.counters.stalled.load(Ordering::Relaxed),
            outstanding_mib: self.outstanding_mib(&shown),
            margin_deviations: shown.margin_deviations,
            checked_forecasts: shown.checked.0,
            exceeded_forecasts: shown.checked.1,
            paused_tasks: u64::from(self.brake.paused()),
            pauses: self.brake.pauses(),
            paused_seconds_total: self.brake.paused_for().as_secs_f64(),
            observed_pauses: self.counters.would_pause.load(Ordering::Relaxed),
            cancelled_requests: self.counters.cancelled.load(Ordering::Relaxed),
            releases: self.counters.releases.load(Ordering::Relaxed),
            released_mib: mib(self.counters.released_bytes.load(Ordering::Relaxed)),
            caught_panics: foreign::caught(),
            longest_release_ms: self.counters.longest_release_us.load(Ordering::Relaxed) as f64
                / 1e3,
        }
    }

    /// Twice among those that are active or wait, or there and no requests so far.
    fn beside(&self) -> u64 {
        self.ready.count() + self.counters.not_yet.load(Ordering::Relaxed)
    }

    fn outstanding_mib(&self, shown: &Summary) -> f64 {
        // What is forecast for requests that are over is nobody's.
        match self.limiter.all_in_flight() {
            0 => 0.0,
            _ => shown.outstanding_bytes as f64 / f64::from(1 << 20),
        }
    }

    pub(in crate::guard) fn oldest_wait(&self) -> Duration {
        self.limiter.oldest_wait(&self.bounds)
    }

    /// The expected wait of one more request: none, where it would be admitted.
    fn expected_wait(&self, shown: &Summary) -> Duration {
        let has_place = self.in_flight() < shown.concurrency;
        match self.limiter.waiting() == 0 && has_place && !shown.kept_out {
            true => Duration::ZERO,
            false => shown.backlog(self.limiter.waiting()),
        }
    }

    /// How much of what may be admitted is: of the bytes, or of the count if that is more.
    /// Never more than all: where nothing may be admitted, whatever is there is all.
    pub(in crate::guard) fn utilisation(&self) -> f64 {
        let caps = self.bounds.caps();
        let share = |used: u64, of: u64| (used as f64 / of.max(1) as f64).min(1.0);
        let in_flight = self.in_flight();
        let most = match caps.is_shut() {
            true => in_flight,
            false => caps.count(),
        };
        let count = share(in_flight.into(), most.into());
        match caps.kib() {
            MAX_KIB => count,
            kib => count.max(share(self.limiter.reserved().kib(), kib)),
        }
    }

    #[cfg(any(feature = "metrics", feature = "dashboard"))]
    pub(crate) fn ever_admitted(&self) -> u64 {
        // In this order: one that ends in between is not counted twice.
        let ended = self.counters.outcomes.all_ended();
        let ready = self.ready.count();
        let active = u64::from(self.in_flight());
        ended + active.saturating_sub(ready)
    }

    /// Counts by class and priority, those of plain requests first.
    #[cfg(any(feature = "metrics", feature = "dashboard"))]
    pub(crate) fn sorts(&self) -> Vec<crate::telemetry::tally::Entry> {
        self.counters.tally.entries(self.ever_admitted())
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn rejected_for(&self, reason: Reason) -> u64 {
        self.counters.rejected(reason)
    }

    /// Of those that are paused now, for how long the first has been.
    #[cfg(feature = "dashboard")]
    pub(crate) fn longest_paused(&self) -> Duration {
        self.brake.longest_paused(self.sampler.now())
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn recent(&self) -> Vec<Event> {
        self.recent.all()
    }

    pub(crate) fn loads(&self) -> Loads {
        self.shown.loads()
    }
}
