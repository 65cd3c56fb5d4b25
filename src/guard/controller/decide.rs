//! From a sample to bounds, and when to sample next.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Controller, Notice};
use crate::class::Priority;
use crate::config::OnSensorFailure;
use crate::limiter::Caps;
use crate::memory::{Detail, Sample, Subscriber};
use crate::policy::{Decision, Observation, worst_fraction};
use crate::pressure::Pressure;
use crate::units::MAX_KIB;

impl Controller {
    fn publish(&self, decision: &Decision, blind: bool, reserved_kib: u64, request_kib: u64) {
        let closed = self.is_closed();
        let mut allowance_kib = (decision.allowance_bytes / 1024).min(MAX_KIB);
        let limit_kib = self.limit_bytes() / 1024;
        let slice_kib = match closed || self.limit_bytes() == u64::MAX {
            true => 0,
            false => (limit_kib as f64 * self.config().critical_reserve_fraction) as u64,
        };
        if self.has_seen(Priority::Critical) && allowance_kib < MAX_KIB {
            allowance_kib = allowance_kib.saturating_sub(slice_kib);
        }
        self.bounds.set_slice(slice_kib);
        self.bounds.set_limit(limit_kib.min(MAX_KIB));
        let caps = Caps::new(decision.gate || closed, decision.concurrency, allowance_kib);
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
        let free_kib = if closed {
            0
        } else {
            decision.free_bytes / 1024
        };
        self.bounds.publish(caps, refresh_kib, free_kib);
        self.pressure
            .store(decision.pressure as u8, Ordering::Relaxed);
    }

    fn decide(
        &self,
        control: &mut Control,
        sample: Result<&Sample, &io::Error>,
        detail: Detail,
        now: Duration,
    ) {
        let from = control.decision;
        let reserved_kib = self.limiter.reserved().kib();
        match sample {
            Ok(sample) => self.decide_by(control, sample, detail, now, reserved_kib),
            Err(error) => self.decide_blindly(control, error),
        }
        // Taken back at once; granted after a full sample.
        match control.decision.probes {
            Some(0) => {
                control.probes = 0;
                self.bounds.set_probes(0);
            }
            Some(probes) => control.probes = probes,
            None => {}
        }
        if from.pressure != control.decision.pressure {
            control.notices.push(Notice::Adjusted { from });
        }
        self.show(control);
        let request_kib = control.request_bytes / 1024;
        self.publish(&control.decision, control.blind, reserved_kib, request_kib);
        if self.is_closed() {
            // It may have been closed just before that opened the gate.
            self.shut();
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
        let active = self.limiter.in_flight(&self.bounds);
        self.learn(control, sample, detail, now, active);
        self.publish_estimates(&control.forecast);
        let reserved_bytes = reserved_kib * 1024;
        let (request_bytes, low_bytes) = control.forecast.mixed();
        let next = self.limiter.next_ask(&self.bounds);
        let next_bytes = next.map_or(request_bytes, |next| next.kib * 1024);
        let next_low_bytes = next.map_or(low_bytes, |next| next.low_kib * 1024);
        control.request_bytes = request_bytes;
        control.next_bytes = next_bytes;
        control.decision = control.strategy.decide(&Observation {
            now,
            levels: &control.levels,
            stall_percent: sample.stall_percent,
            active,
            unused_probes: self.bounds.probes(),
            reserved_bytes,
            outstanding: control.forecast.outlook(reserved_bytes),
            request_bytes,
            next_bytes,
            low_bytes: next_low_bytes,
        });
        let decision = &control.decision;
        // Alone, the next may go by the least that it needs.
        let fits_alone = self.limiter.all_in_flight() == 0 && next_low_bytes <= decision.free_bytes;
        let fits = reserved_bytes.saturating_add(next_bytes) <= decision.allowance_bytes;
        control.kept_out = decision.gate || !(fits || fits_alone);
        if self.brake.paused() > 0 {
            // Who waits holds nothing: it comes after those that are paused.
            let decision = &mut control.decision;
            decision.allowance_bytes = decision.allowance_bytes.min(reserved_bytes);
            decision.probes = Some(0);
        }
        let full_at = (detail == Detail::Full).then_some(now);
        self.set_headroom(control, full_at, reserved_kib);
        let percent = worst_fraction(&control.levels) * 100.0;
        self.percent_bits
            .store(percent.to_bits(), Ordering::Relaxed);
    }

    /// Memory cannot be seen.
    fn decide_blindly(&self, control: &mut Control, error: &io::Error) {
        let closed = self.config().on_sensor_failure == OnSensorFailure::Closed;
        control.sensor_errors += 1;
        if !std::mem::replace(&mut control.blind, true) {
            let copy = io::Error::new(error.kind(), error.to_string());
            control.notices.push(Notice::SensorFailed(copy));
        }
        let base = control.strategy.blind_concurrency();
        control.decision = Decision {
            pressure: if closed {
                Pressure::Critical
            } else {
                Pressure::Normal
            },
            base_concurrency: base,
            concurrency: if closed {
                self.limiter.in_flight(&self.bounds)
            } else {
                base
            },
            allowance_bytes: u64::MAX,
            free_bytes: u64::MAX,
            gate: closed,
            probes: Some(0),
        };
        control.kept_out = closed;
        self.brake.set_on(self.board_key(), false);
    }

    /// What had been given back when the sample was begun is free under the bounds that
    /// follow from it, and not before they are published.
    fn confirm_freed(&self) {
        self.limiter
            .confirm_freed(self.ended_kib.load(Ordering::Relaxed));
    }
}

impl Subscriber for Controller {
    fn before_sample(&'static self, detail: Detail, now: Duration) {
        // What is given back from here on, this sample may not show.
        self.ended_kib
            .store(self.limiter.ended_kib(), Ordering::Relaxed);
        // And what polls have added by now, it shows.
        let grown_bytes = self.brake.grown_bytes();
        self.grown_before.store(grown_bytes, Ordering::Relaxed);
        self.note_let_grow();
        if detail == Detail::Full && (self.accounted || self.brakes()) {
            let mut control = self.control();
            let forecast = &mut control.forecast;
            forecast.look(&self.running, now);
            let others = self.board.exchange(self.board_key(), forecast.portion());
            forecast.set_others(others);
            let runners = forecast.take_runners();
            drop(control);
            self.tell_runners(runners, now);
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
            self.limiter.tick(now);
            control.completed = self.counters.outcomes.all_ended();
            control.samples += 1;
        }
        self.decide(&mut control, sample, detail, now);
        if detail == Detail::Full {
            let load = self.load(&control, now);
            control.demand.observe(&load);
            self.last_loads.keep(&control.demand);
            self.observe_latched(&mut control, now);
            let critical = control.decision.gate;
            control.critical.observe(critical, now);
            let left_ms = control.critical.remaining(now).as_millis() as u64;
            self.critical_ms.store(left_ms, Ordering::Relaxed);
            self.order(&mut control);
            self.watch_wall(&mut control, now);
        }
        let shared = self.limiter.shared();
        if !shared {
            self.confirm_freed();
        }
        let has_news = !control.notices.is_empty() || control.new_limit.is_some();
        Some(shared || has_news || self.limiter.waiting() > 0)
    }

    fn after_sample(&'static self, full: bool, now: Duration) -> Duration {
        // All guards on the ledger have published by now.
        self.confirm_freed();
        let detail = if full { Detail::Full } else { Detail::Quick };
        let Some(mut control) = self.control_for(detail) else {
            // What it has to say, a full sample will.
            self.limiter.pump();
            return Duration::MAX;
        };
        let news = self.take_news(&mut control, full, now);
        drop(control);
        self.pass_on(news, full, now)
    }

    fn was_idle(&self) -> bool {
        self.was_idle.load(Ordering::Relaxed)
    }

    fn has_work(&self) -> bool {
        self.limiter.reserved().kib() > 0 || self.limiter.waiting() > 0
    }

    fn leaves(&self) -> bool {
        let idle = || {
            self.limiter.in_flight(&self.bounds) == 0 && self.limiter.waiting_for(&self.bounds) == 0
        };
        let over = (self.is_closed() && idle()) || self.is_gone();
        if over {
            self.leave();
        }
        over
    }
}
