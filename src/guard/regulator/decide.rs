//! From a sample to bounds, and when to sample next.

use std::io;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{BLIND_AFTER, Control, LevelWas, Notice, Regulator};
use crate::class::Priority;
use crate::config::OnSensorFailure;
use crate::guard::state::REPORT_INTERVAL;
use crate::limiter::Caps;
use crate::memory::{Detail, Sample, Subscriber};
use crate::policy::{Decision, Observation, are_within};
use crate::pressure::Pressure;
use crate::sync::foreign::{self, Code};
use crate::units::MAX_KIB;

impl Regulator {
    fn publish(&self, decision: &Decision, blind: bool, reserved_kib: u64, request_kib: u64) {
        let closed = self.state.is_closed();
        let mut allowance_kib = whole_kib(decision.allowance_bytes);
        if allowance_kib < MAX_KIB {
            allowance_kib = allowance_kib.saturating_sub(self.state.kept_off_kib());
        }
        let bounds = &self.state.bounds;
        bounds.set_slice(self.state.slice_kib());
        (self.state.limiter).set_limit(bounds, whole_kib(self.state.shown.limit_bytes()));
        // The gate holds newcomers back. Those inside of another guard, which has admitted them,
        // are as many as ever.
        let count = match decision.gate {
            true => decision.base_concurrency,
            false => decision.concurrency,
        };
        let caps = Caps::new(decision.gate || closed, count, allowance_kib);
        // Half of what is free may be admitted on this sample. Near the limit,
        // every admission looks for itself.
        let left_kib = allowance_kib.saturating_sub(reserved_kib);
        let near = left_kib < (allowance_kib / 8).max(request_kib.saturating_mul(4));
        let refresh_kib = if blind {
            MAX_KIB
        } else if near {
            0
        } else {
            reserved_kib + left_kib / 2
        };
        let free_kib = whole_kib(if closed { Some(0) } else { decision.free_bytes });
        bounds.publish(caps, refresh_kib, free_kib);
        self.state.shown.set_pressure(decision.pressure);
    }

    fn decide(
        &self,
        control: &mut Control,
        sample: Result<&Sample, &io::Error>,
        detail: Detail,
        now: Duration,
    ) {
        let from = control.decision;
        let reserved_kib = self.state.limiter.reserved().kib();
        match sample {
            Ok(sample) => self.decide_by(control, sample, detail, now, reserved_kib),
            Err(error) => self.decide_blindly(control, error, detail, reserved_kib),
        }
        // Taken back at once; granted after a full sample.
        match control.decision.probes {
            Some(0) => {
                control.probes = 0;
                self.state.bounds.set_probes(0);
            }
            Some(probes) => control.probes = probes,
            None => {}
        }
        if from.pressure != control.decision.pressure {
            control.notices.push(Notice::Level);
            control.said_level.changes(LevelWas {
                pressure: from.pressure,
                concurrency: from.concurrency,
            });
        }
        let pressure = control.decision.pressure;
        if let Some((from, suppressed)) = control.said_level.due(pressure, now) {
            let notice = Notice::Adjusted { from, suppressed };
            control.notices.push(notice);
        }
        let show = |shown: &mut _| control.show(reserved_kib, shown);
        self.state.shown.change(show);
        let request_kib = control.request_bytes / 1024;
        let blind = control.is_blind();
        let theirs_kib = control.forecast.usage.above_baseline_bytes() / 1024;
        self.state.bounds.set_theirs(theirs_kib);
        self.publish(&control.decision, blind, reserved_kib, request_kib);
        if self.state.is_closed() {
            // It may have been closed just before that opened the gate.
            self.state.shut();
        }
    }

    fn decide_by(
        &self,
        control: &mut Control,
        sample: &Sample,
        detail: Detail,
        now: Duration,
        reserved_kib: u64,
    ) {
        self.learn(control, sample, detail, now, self.state.in_flight());
        self.publish_estimates(&control.forecast);
        let full_at = (detail == Detail::Full).then_some(now);
        self.decide_on(control, sample.stall_percent, full_at, reserved_kib);
        self.set_headroom(control, full_at, reserved_kib);
        control.unread = 0;
    }

    /// By what was seen of memory last.
    fn decide_on(
        &self,
        control: &mut Control,
        stall_percent: f64,
        full_at: Option<Duration>,
        reserved_kib: u64,
    ) {
        let reserved_bytes = reserved_kib * 1024;
        let (request_bytes, low_bytes) = control.forecast.mixed();
        let next = self.state.limiter.next_ask(&self.state.bounds);
        let next_bytes = next.map_or(request_bytes, |next| next.kib * 1024);
        // The allowance is everybody's here, what is set aside as well.
        let next_bytes = match next {
            Some(next) if next.tag.priority == Priority::Critical => next_bytes,
            _ => next_bytes.saturating_add(self.state.kept_off_kib() * 1024),
        };
        let next_low_bytes = next.map_or(low_bytes, |next| next.low_kib * 1024);
        control.request_bytes = request_bytes;
        control.next_bytes = next_bytes;
        let pauses = self.state.brake.wants_room();
        control.decision = control.strategy.decide(&Observation {
            now: full_at,
            levels: &control.levels,
            own_usage_bytes: control.own_bytes,
            stall_percent,
            active: self.state.in_flight(),
            unused_probes: self.state.bounds.probes(),
            pauses,
            reserved_bytes,
            outstanding: control.forecast.outlook(reserved_bytes),
            request_bytes,
            next_bytes,
            low_bytes: next_low_bytes,
        });
        let decision = &control.decision;
        // Alone, the next may go by the least that it needs.
        let fits_alone = self.state.limiter.all_in_flight() == 0
            && are_within(next_low_bytes, decision.free_bytes);
        let needed_bytes = reserved_bytes.saturating_add(next_bytes);
        let fits = are_within(needed_bytes, decision.allowance_bytes);
        control.kept_out = decision.gate || !(fits || fits_alone);
        control.pauses = pauses;
        if pauses {
            // Who waits holds nothing: it comes after those that are paused.
            let decision = &mut control.decision;
            let most_bytes = decision.allowance_bytes.unwrap_or(reserved_bytes);
            decision.allowance_bytes = Some(most_bytes.min(reserved_bytes));
            decision.probes = Some(0);
        }
    }

    fn decide_blindly(
        &self,
        control: &mut Control,
        error: &io::Error,
        detail: Detail,
        reserved_kib: u64,
    ) {
        let closed = self.state.config().on_sensor_failure == OnSensorFailure::Closed;
        control.sensor_errors += 1;
        let was_blind = control.is_blind();
        control.blind = true;
        // What was seen a moment ago is better than nothing, as long as somebody looks again.
        let was_read = !control.levels.is_empty() && self.state.sampler.has_thread();
        let first = if was_read && !closed { 0 } else { BLIND_AFTER };
        let more = u8::from(detail == Detail::Full);
        control.unread = control.unread.max(first).saturating_add(more);
        if control.is_blind() && !was_blind {
            let copy = io::Error::new(error.kind(), error.to_string());
            control.notices.push(Notice::SensorFailed(copy));
        }
        if !control.is_blind() {
            // Who may grow has been counted from that sample on, and is so still.
            self.decide_on(control, 0.0, None, reserved_kib);
            control.decision.probes = Some(0);
            return;
        }
        let decision = &mut control.decision;
        *decision = Decision::blind(&control.strategy);
        decision.gate = closed;
        decision.probes = Some(0);
        if closed {
            decision.pressure = Pressure::Critical;
            decision.concurrency = self.state.in_flight();
        }
        control.kept_out = closed;
        control.braking.room_bytes = f64::INFINITY;
        self.state.brake.set_on(self.state.board_key(), None);
    }

    /// Says and does what is to be done once no lock is held; says when to sample next.
    fn pass_on(
        &'static self,
        mut control: MutexGuard<'_, Control>,
        full: bool,
        now: Duration,
    ) -> Duration {
        let notices = std::mem::take(&mut control.notices);
        let new_limit = control.new_limit.take();
        let free_kib = whole_kib(control.decision.free_bytes);
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
        let publish_metrics = publish_metrics || (full && self.has_end_to_tell());
        self.report(notices, publish_metrics, now);
        interval
    }
}

/// As far as the ledger's word can count it.
fn whole_kib(bytes: Option<u64>) -> u64 {
    bytes.map_or(MAX_KIB, |bytes| bytes / 1024).min(MAX_KIB)
}

impl Subscriber for Regulator {
    fn before_sample(&'static self, detail: Detail, now: Duration) {
        // What is given back from here on, this sample may not show.
        let ended_kib = self.state.limiter.ended_kib();
        self.ended_kib.store(ended_kib, Ordering::Relaxed);
        // And what polls have added by now, it shows.
        let grown_bytes = self.state.brake.grown_bytes();
        self.grown_before.store(grown_bytes, Ordering::Relaxed);
        self.note_let_grow(now);
        if detail == Detail::Full {
            self.look(now);
        }
    }

    fn on_sample(
        &self,
        sample: Result<&Sample, &io::Error>,
        detail: Detail,
        now: Duration,
    ) -> Option<bool> {
        let mut control = self.control_for(detail)?;
        if detail == Detail::Full {
            self.state.limiter.tick(now);
            control.completed = self.state.counters.outcomes.all_ended();
            control.samples += 1;
        }
        self.decide(&mut control, sample, detail, now);
        if detail == Detail::Full {
            self.observe_demand(&mut control, now);
            self.observe_latched(&mut control, now);
            let critical = control.decision.gate;
            control.critical.observe(critical, now);
            let remaining = control.critical.remaining(now);
            (self.state.shown).change(|shown| shown.critical = remaining);
            self.order(&mut control);
            self.forgive(&mut control, now);
            self.watch_wall(&mut control, now);
        }
        let has_news = !control.notices.is_empty() || control.new_limit.is_some();
        Some(has_news || self.state.limiter.waiting() > 0)
    }

    /// What had been given back when the sample was begun is free under the bounds that
    /// follow from it, and not before all guards on the ledger have published them.
    fn have_decided(&self) {
        let ended_kib = self.ended_kib.load(Ordering::Relaxed);
        self.state.limiter.confirm_freed(ended_kib);
    }

    fn after_sample(&'static self, full: bool, now: Duration) -> Duration {
        let detail = if full { Detail::Full } else { Detail::Quick };
        let Some(control) = self.control_for(detail) else {
            // What it has to say, a full sample will.
            self.state.limiter.pump();
            return Duration::MAX;
        };
        self.pass_on(control, full, now)
    }

    fn forked(&self, now: Duration) {
        self.state.brake.leave_behind(now);
    }

    fn was_idle(&self) -> bool {
        self.was_idle.load(Ordering::Relaxed)
    }

    fn has_work(&self) -> bool {
        self.state.limiter.reserved().kib() > 0 || self.state.limiter.waiting() > 0
    }

    fn leaves(&self) -> bool {
        // What has come since it was published last, the next sample tells.
        let leaves = self.is_over() && self.told_end.load(Ordering::Relaxed) > 0;
        if leaves {
            self.leave();
        }
        leaves
    }
}

#[cfg(test)]
#[path = "confirmed_tests.rs"]
mod confirmed_tests;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use crate::class::tag::Tag;
    use crate::limiter::{Ask, Attempt, Operation, Refused};
    use crate::{Guard, ManualSource, MemoryGuardLayer, Policy, Stats};

    fn full(mib: u64, policy: Policy) -> Guard {
        let memory = ManualSource::new(1 << 30);
        memory.set_usage_bytes(mib << 20);
        let builder = MemoryGuardLayer::builder().policy(policy);
        let layer = builder.memory_source(memory).build().unwrap();
        layer.guard().clone()
    }

    /// Whether a request is admitted while somebody holds what samples act on: as a sample
    /// does that looks at all requests in flight, or who saves what was learned.
    fn answered_beside_one_who_decides(guard: &Guard) -> (bool, Stats) {
        let deciding = guard.regulator.control();
        let (done, answered) = channel();
        let caller = guard.clone();
        std::thread::spawn(move || {
            let answer = caller.try_acquire(1024).map(drop);
            let _ = done.send((answer.is_ok(), caller.stats()));
        });
        let answered = answered.recv_timeout(Duration::from_secs(20));
        drop(deciding);
        answered.expect("it does not wait")
    }

    #[test]
    fn a_rejection_waits_for_nobody_who_decides() {
        let guard = full(1 << 10, Policy::Ladder);
        let (admitted, stats) = answered_beside_one_who_decides(&guard);
        assert_eq!((admitted, stats.rejected_requests), (false, 1));
    }

    #[test]
    fn a_request_near_the_limit_waits_for_nobody_who_decides() {
        let guard = full(983, Policy::Predictive);
        let ask = Ask {
            kib: 1,
            low_kib: 1,
            tag: Tag::NONE,
        };
        let now = guard
            .state()
            .reserve(ask, Operation::Newcomer, Attempt::First);
        assert_eq!(now, Err(Refused::Stale), "it is to look for itself");
        let (admitted, _) = answered_beside_one_who_decides(&guard);
        assert!(admitted, "by what was decided before");
    }
}
