//! When to sample next, and what goes with time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Regulator};
use crate::class::tag::Tag;
use crate::guard::state::WAITING_INTERVAL;
use crate::limiter::{Need, TenantAccount};
use crate::memory::Subscriber;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
/// And while little is known of requests: one that is unlike those before it is to be seen
/// before the next such begins.
const NEW_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time between samples while memory cannot be read.
const BLIND_INTERVAL: Duration = Duration::from_secs(1);
/// Half of each tenant's rejections are forgotten this often.
const FORGIVES_EVERY: Duration = Duration::from_secs(10);
/// Memory is taken to grow at least this fast (bytes per second) while
/// requests run, and while none does.
const BUSY_RATE: f64 = (1u64 << 30) as f64;
const IDLE_RATE: f64 = (1u64 << 25) as f64;

impl Regulator {
    pub(super) fn forgive(&self, control: &mut Control, now: Duration) {
        if now >= control.forgives_at && self.state.config().retry_budget.is_some() {
            control.forgives_at = now + FORGIVES_EVERY;
            let tenants = self.state.bounds.tenants().all();
            tenants.for_each(TenantAccount::forgive);
        }
    }

    /// Serves the newest first where callers of the oldest give up.
    pub(super) fn order(&self, control: &mut Control) {
        let config = self.state.config();
        if config.newest_first_after.is_some() {
            return;
        }
        let given_up = self.state.counters.outcomes.all_given_up();
        let waited = self.state.oldest_wait().as_secs_f64() / config.wait_timeout.as_secs_f64();
        let patience = &mut control.patience;
        let newest_first = patience.observe(given_up, control.completed, waited);
        let newest_first_after = newest_first.then_some(config.wait_timeout / 4);
        (self.state.bounds).set_order(config.wait_timeout, newest_first_after);
    }

    /// Keeps the mean time between completions, for `Retry-After`.
    /// Says whether there were any.
    fn measure_drain(&self, control: &mut Control, now: Duration) -> bool {
        let completed = control.completed;
        let finished = completed.saturating_sub(control.last.completed);
        let elapsed = now.saturating_sub(control.last.counted_at).as_nanos() as u64;
        if let Some(latest) = elapsed.checked_div(finished) {
            control.drain_ns = match control.drain_ns {
                0 => latest,
                known => (known / 8) * 7 + latest / 8,
            };
            control.last.completed = completed;
        }
        // While nothing runs, time says nothing about completions.
        if finished > 0 || self.state.in_flight() == 0 {
            control.last.counted_at = now;
        }
        let need = Need::Estimated(Tag::NONE);
        let expected = self.state.limiter.expected_wait(&self.state.bounds, need);
        self.state.shown.change(|shown| {
            shown.next_wait = expected;
            shown.drain_ns = control.drain_ns;
        });
        finished > 0
    }

    /// When the next full sample is due, from how fast memory can fill what is free.
    pub(super) fn next_interval(&self, control: &mut Control, now: Duration) -> Duration {
        let usage_bytes = control.levels.first().map_or(0, |level| level.usage_bytes);
        let last = control.last;
        let elapsed = now.saturating_sub(last.at).as_secs_f64();
        let rise = usage_bytes.saturating_sub(last.usage_bytes) as f64 / elapsed.max(1e-4);
        control.last.at = now;
        control.last.usage_bytes = usage_bytes;
        let finished = self.measure_drain(control, now);
        let busy = finished || self.has_work();
        self.was_idle.store(!busy, Ordering::Relaxed);
        let floor = if busy { BUSY_RATE } else { IDLE_RATE };
        let free_bytes = control.decision.free_bytes;
        let free = free_bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
        let mut longest = self.state.config().check_interval;
        if control.is_blind() {
            longest = longest.min(BLIND_INTERVAL);
        } else if control.blind {
            longest = longest.min(NEW_INTERVAL);
        } else if self.state.limiter.waiting() > 0 {
            // Each look at requests makes the forecast sharper.
            longest = longest.min(match self.state.is_accounted() {
                true => SHORTEST_INTERVAL,
                false => WAITING_INTERVAL,
            });
        }
        let outgrown_bytes = control.forecast.outgrown_bytes();
        let outgrows = self.state.brake.may_come_to_much(outgrown_bytes);
        if self.state.brake.paused() > 0 || outgrows {
            longest = longest.min(SHORTEST_INTERVAL);
        } else if busy && control.forecast.is_new() {
            longest = longest.min(NEW_INTERVAL);
        }
        // A quarter of the time it would take.
        let due = (free / rise.max(floor) / 4.0).min(longest.as_secs_f64());
        Duration::from_secs_f64(due).clamp(SHORTEST_INTERVAL.min(longest), longest)
    }
}
