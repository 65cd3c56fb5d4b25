//! What a sample teaches, and what requests are estimated to need by that.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Notice, Regulator};
use crate::class::tag::{CRITICAL_KIB, Tag};
use crate::forecast::{Evidence, Forecast};
use crate::limiter::OpenBodies;
use crate::memory::{Detail, Sample};
use crate::policy::limit_bytes;
use crate::running::brake::UNTOLD;
use crate::units::kib;

impl Regulator {
    /// Looks at all in flight, and says which they are.
    pub(super) fn look(&'static self, now: Duration) {
        let own = self.state.board_key();
        let mut control = self.control();
        if !(self.state.is_accounted() || self.state.brakes()) {
            // It may have looked before, and then nobody else takes note of their ends.
            self.state.running.free_ended();
            self.state.brake.tell(own, Vec::new());
            return;
        }
        let forecast = &mut control.forecast;
        let on_since = self.state.brake.on_since(Duration::MAX);
        forecast.look_since(on_since, &self.state.running, now);
        forecast.others = self.board.exchange(own, forecast.portion());
        let runners = forecast.take_runners();
        drop(control);
        self.tell_runners(runners, now);
    }

    /// `active`: its own requests in flight.
    pub(super) fn learn(
        &self,
        control: &mut Control,
        sample: &Sample,
        detail: Detail,
        now: Duration,
        active: u32,
    ) {
        let was_blind = control.is_blind();
        control.blind = false;
        if was_blind {
            control.notices.push(Notice::SensorRecovered);
        }
        control.last.good_at = now;
        self.take_levels(sample, detail, control);
        let slack = 1.0 - control.strategy.theta();
        let limit = limit_bytes(&control.levels).unwrap_or(0);
        let slack_bytes = (limit as f64 * slack) as u64;
        control.forecast.set_slack(slack_bytes, limit);
        if detail == Detail::Full {
            let evidence = self.evidence(control, now, active);
            control.forecast.observe(evidence);
        } else {
            control.forecast.see_gone(self.state.running.gone_kib());
            control.forecast.see_usage(control.own_bytes);
        }
    }

    fn evidence(&self, control: &mut Control, now: Duration, active: u32) -> Evidence {
        let staged = match self.state.is_accounted() {
            true => OpenBodies::default(),
            false => self.state.limiter.staged(),
        };
        let polls_tell = !self.state.is_accounted() && crate::memory::release::tells_quickly();
        let told_bytes = self.state.brake.grown_at_rest();
        let allocated_bytes = self.ask_allocated(control, now);
        let told_after = self.state.brake.grown_at_rest();
        let untold = UNTOLD.load(Ordering::Relaxed);
        let all_told = std::mem::replace(&mut control.braking.untold, untold) == untold;
        Evidence {
            now,
            usage_bytes: control.own_bytes,
            process_bytes: control.process_usage_bytes(),
            allocated_bytes,
            kept_bytes: control.braking.kept_bytes,
            polls_tell,
            all_told: polls_tell && all_told && self.state.brake.is_on(),
            seen_since: self.state.brake.on_since(now),
            told_bytes: told_bytes.filter(|_| told_bytes == told_after),
            anonymous_bytes: self.anonymous_bytes(),
            grown_bytes: self.grown_before.load(Ordering::Relaxed),
            own_in_flight: active.saturating_sub(staged.requests),
            all_in_flight: (self.state.limiter.all_in_flight()).saturating_sub(staged.requests),
            body_bytes: staged.read_bytes,
            waiting: self.state.limiter.waiting() as u32,
            completed: control.completed,
        }
    }

    /// What requests ask for from here on.
    pub(super) fn publish_estimates(&self, forecast: &Forecast) {
        let bounds = &self.state.bounds;
        if !self.state.live.is_enabled() {
            // Others on the ledger would miss it, and nobody is held back by it.
            return bounds.reserve_nothing();
        }
        for (key, bytes, low_bytes) in forecast.by_priority() {
            bounds.set_estimate(key, bytes.map(kib), low_bytes / 1024);
        }
        let (bytes, low_bytes) = forecast.of_unknown_kind();
        let mixed_bytes = forecast.mixed().0;
        bounds.set_unknown([bytes, mixed_bytes].map(kib), low_bytes / 1024);
        if !self.state.is_accounted() {
            // No kinds are told apart: the first is found sooner.
            let all = [kib(bytes), kib(bytes).min(CRITICAL_KIB)];
            bounds.set_estimate(Tag::NONE.key, all, low_bytes / 1024);
        }
    }

    /// What the next request of each class needs, and the least that is known of it, in bytes;
    /// and whether it is for requests with a cost hint: then for one of 16 MiB. Without
    /// accounting no classes are told apart. `None`: it is decided anew just now.
    #[cfg(feature = "dashboard")]
    pub(crate) fn class_needs(&self) -> Option<Vec<(String, bool, u64, u64)>> {
        let control = self.control_for(Detail::Quick)?;
        let kinds = control.forecast.by_kind();
        let needs = kinds.map(|(key, bytes, least_bytes)| {
            let class = self.state.labels.name(key).to_owned();
            (class, key.is_hinted(), bytes, least_bytes)
        });
        let mut needs: Vec<_> = needs.collect();
        if needs.is_empty() {
            needs.push((String::new(), false, control.request_bytes, 0));
        }
        Some(needs)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Cost, ManualSource, MemoryGuardLayer};

    /// What the next request is taken to need after a dozen that came to hold 120 MiB each, of
    /// which polls showed 5: all of it, or what they added before the brake went off. A look finds
    /// them in flight, or none does.
    async fn expected_mib(goes_off: bool, is_found: bool) -> u64 {
        let memory = ManualSource::new(4 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let builder = builder.estimated_bytes_per_request(200 << 20);
        let layer = builder.cancel(true).build().unwrap();
        let (guard, state) = (layer.guard(), layer.guard().state());
        let sample = |mib: u64| {
            memory.set_usage_bytes(mib << 20);
            state.sampler.sample_now();
        };
        sample(20);
        for _ in 0..12 {
            let began = state.sampler.tick();
            let set_on = |on: bool| {
                let on = on.then_some(began);
                state.brake.set_on(guard.regulator.state.board_key(), on);
            };
            set_on(true);
            let permit = guard.acquire(Cost::Estimated).await.unwrap();
            let slot = permit.slot().unwrap();
            slot.polled(began, began);
            slot.charge(5 << 20, 1);
            if is_found {
                sample(140);
            }
            set_on(!goes_off);
            drop(permit);
            sample(20);
        }
        guard.regulator.control().forecast.of_unknown_kind().0 >> 20
    }

    #[tokio::test]
    async fn of_one_that_was_polled_with_the_brake_off_as_well_what_was_seen_is_not_all() {
        for is_found in [true, false] {
            let expected = expected_mib(false, is_found).await;
            assert!(expected < 20, "{expected}");
            let expected = expected_mib(true, is_found).await;
            assert!(expected >= 120, "{expected}, found: {is_found}");
        }
    }

    #[tokio::test]
    async fn who_was_polled_with_the_brake_off_as_well_is_none_of_those_that_are_known() {
        let memory = ManualSource::new(4 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory);
        let layer = builder.cancel(true).build().unwrap();
        let (guard, state) = (layer.guard(), layer.guard().state());
        let began = state.sampler.tick();
        let own = guard.regulator.state.board_key();
        state.brake.set_on(own, Some(began));
        let permit = guard.acquire(Cost::Estimated).await.unwrap();
        let slot = permit.slot().unwrap();
        slot.polled(began, began);
        slot.charge(5 << 20, 1);
        let found = || {
            let now = state.sampler.now();
            let forecast = &mut guard.regulator.control().forecast;
            let on_since = state.brake.on_since(Duration::MAX);
            forecast.look_since(on_since, &state.running, now);
            forecast.take_runners().len()
        };
        assert_eq!(found(), 1);
        state.brake.set_on(own, None);
        assert_eq!(found(), 0);
        state
            .brake
            .set_on(own, Some(began + Duration::from_secs(1)));
        assert_eq!(found(), 0);
    }
}
