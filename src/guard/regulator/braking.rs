//! Who may grow: what a sample publishes to the brake, and what follows from a sweep.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Control, Regulator};
use crate::guard::state::allocated_bytes;
use crate::memory::release::{Teller, is_mapped, kept_bytes, see_mapped};
use crate::memory::{MemoryLevel, run_time};
use crate::policy::limit_bytes;
use crate::running::brake::{Bound, Running, Stuck, Swept, Trust, fills_at_once};
use crate::telemetry::logs::say;
use crate::telemetry::recent::EventKind;

/// Stays free below the limit: so much for what threads have not told yet, for what the
/// process allocates for nobody, and for those that are about to end; and what one poll
/// adds, at least as much and at most so much, for when nobody gets on.
const RESERVE: f64 = 1.0 / 80.0;
const LEAST_RESERVE_BYTES: f64 = (2u64 << 20) as f64;
const MOST_FOR_STUCK: f64 = 1.0 / 20.0;
/// The brake is on where the most that may come passes this share of the limit, or less
/// than the other one is free.
const ON_AT: f64 = 0.9;
const ON_BELOW: f64 = 0.25;
/// Or less than so many of the largest steps seen between two samples, with this
/// half-life: of polls that began with the brake off nobody may know what they add.
const ON_BELOW_STEPS: f64 = 2.0;
const STEP_HALF_LIFE: Duration = Duration::from_secs(60);
/// What is kept counts as headroom up to so many times what is really free.
const KEPT_AT_MOST: f64 = 2.0;
/// Nobody gets on for so long: memory is to be found by other means.
const STUCK_FOR: Duration = Duration::from_millis(50);
/// Asking the allocator is so much of the time, without what that waits for others.
const ASKS_ONE_IN: u32 = 20;
/// And for so long, an operator is told.
const GIVES_UP_AFTER: Duration = Duration::from_secs(1);
/// While so much of the limit is left, who is about to end then goes on, though others of
/// its kind have added more than that at once.
const MUCH_LEFT: u64 = 8;
/// What is in use beside all that is allocated matters from this share of the limit on.
const MUCH_BESIDE: u64 = 64;
const SAYS_EVERY: Duration = Duration::from_secs(10);
/// What is in use varies by less while nobody takes any.
const TAKEN_BYTES: u64 = 1 << 20;
/// Never used: the kernel kills before the last page is.
pub(super) const LAST_BYTES: u64 = 1 << 20;

/// What the brake is set from, as of the last samples.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Braking {
    /// Allocated and not touched, as of the last full sample.
    pub(super) untouched_bytes: f64,
    /// What was in use, and by how much that has changed most.
    used_bytes: u64,
    step_bytes: f64,
    step_at: Duration,
    /// What of the reserve is for those that are about to end.
    for_ending_bytes: u64,
    /// There is room for so much of what is expected.
    pub(super) room_bytes: f64,
    stuck: Stuck,
    stuck_since: Option<Duration>,
    /// What others could take when it began.
    left_bytes: u64,
    /// Polls that had found room.
    passed: u64,
    said_stuck: Option<Duration>,
    /// Polls of which no allocator has told what they added.
    pub(super) untold: u64,
    /// With accounting: what the allocator said that it keeps, but for what it has given back
    /// and keeps the addresses of.
    pub(super) kept_bytes: u64,
    given_back_bytes: u64,
    /// When the allocator may be asked again.
    asks_at: Duration,
}

impl Braking {
    /// The allocator says that it keeps so much.
    fn keeps(&mut self, bytes: u64) {
        // 0 stands for nothing known.
        if bytes > 0 {
            self.given_back_bytes = self.given_back_bytes.min(bytes);
        }
        self.kept_bytes = bytes.saturating_sub(self.given_back_bytes);
    }

    /// It says so after it was asked to give that back: as much of it is resident no more as
    /// was not used again since.
    pub(super) fn gave_back(&mut self, kept_bytes: u64) {
        self.given_back_bytes = kept_bytes;
    }

    /// By how much what is in use has changed most between two samples, lately.
    fn largest_step(&mut self, used_bytes: u64, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.step_at).as_secs_f64();
        let left = 0.5_f64.powf(elapsed / STEP_HALF_LIFE.as_secs_f64());
        // The first sample shows no step.
        let step_bytes = match self.used_bytes {
            0 => 0.0,
            before => used_bytes.abs_diff(before) as f64,
        };
        self.step_bytes = (self.step_bytes * left).max(step_bytes);
        self.step_at = now;
        self.used_bytes = used_bytes;
        self.step_bytes
    }
}

impl Control {
    /// What is free, whatever it is kept for.
    fn left_bytes(&self) -> u64 {
        let untouched_bytes = self.braking.untouched_bytes as u64;
        let free_bytes = crate::policy::free_bytes(&self.levels).unwrap_or(u64::MAX);
        free_bytes.saturating_sub(untouched_bytes + LAST_BYTES)
    }
}

impl Regulator {
    /// Publishes how far requests may grow from what had been counted before usage was
    /// read. `full_at`: of a full sample, its time.
    pub(super) fn set_headroom(
        &self,
        control: &mut Control,
        full_at: Option<Duration>,
        reserved_kib: u64,
    ) {
        let bounds = control.levels.iter().filter_map(MemoryLevel::bound_bytes);
        let Some(bound) = bounds.min() else {
            self.state.brake.set_on(self.state.board_key(), None);
            // It is nothing to others on the ledger.
            control.braking.room_bytes = f64::INFINITY;
            return;
        };
        if full_at.is_some() {
            control.braking.untouched_bytes = control.forecast.untouched_bytes();
        }
        let jump_bytes = self.state.running.largest_jump_bytes() as f64;
        let half = |bound: u64| (bound as f64 * RESERVE).max(LEAST_RESERVE_BYTES);
        let for_stuck = |bound: u64| {
            let most = (bound as f64 * MOST_FOR_STUCK).max(half(bound));
            jump_bytes.clamp(half(bound), most)
        };
        let reserve = |bound: u64| half(bound) + for_stuck(bound);
        let free = control.levels.iter().filter_map(|level| {
            let bound = level.bound_bytes()?;
            Some(bound as f64 - reserve(bound) - level.usage_bytes as f64)
        });
        let free = free.fold(f64::INFINITY, f64::min) - control.braking.untouched_bytes;
        let grown = self.grown_before.load(Ordering::Relaxed);
        let kept = control.forecast.reusable_bytes(grown);
        // Who pauses nobody does not plan for the others on the ledger.
        let plans = self.state.brakes() && !self.state.live.only_observes();
        control.braking.room_bytes = if plans { free + kept } else { f64::INFINITY };
        // While little is really free, what is kept may be in the wrong places.
        let kept_headroom = kept.min(free.max(0.0) * KEPT_AT_MOST);
        let brake = self.state.brake;
        let bounds = Bound {
            grown_bytes: grown,
            headroom_bytes: (free + kept_headroom) as i64,
            kept_bytes: kept_headroom as i64,
            large_bytes: (bound as f64 * MOST_FOR_STUCK) as i64,
            for_ending_bytes: half(bound) as i64,
            room_bytes: (free + kept) as i64,
            left_bytes: control.left_bytes(),
            unknown_get_on: control.forecast.unknown_get_on(),
            observes: self.state.live.only_observes(),
        };
        brake.publish(self.state.board_key(), bounds);
        control.braking.for_ending_bytes = half(bound) as u64;
        if let Some(now) = full_at {
            let is_tight = self.is_tight(control, now, bound as f64, free, reserved_kib);
            let on = self.state.brakes() && is_tight;
            brake.set_on(self.state.board_key(), on.then_some(now));
        }
    }

    /// Memory is so near to its end, or so little is known, that polls are to ask first.
    fn is_tight(
        &self,
        control: &mut Control,
        now: Duration,
        bound: f64,
        free: f64,
        reserved_kib: u64,
    ) -> bool {
        let step_bytes = control.braking.largest_step(control.own_bytes, now);
        let most = control.forecast.most_growth_bytes(reserved_kib * 1024);
        let needed = control.own_bytes as f64 + most as f64;
        let first_bytes = self.state.running.largest_first_jump_bytes() as f64;
        let brake = self.state.brake;
        let is_tight = needed > bound * ON_AT
            || free < (bound * ON_BELOW).max(step_bytes * ON_BELOW_STEPS)
            || brake.paused() > 0
            || self.state.limiter.waiting() > 0
            || !control.forecast.knows_jumps()
            || brake.may_come_to_much(control.forecast.outgrown_bytes())
            || (self.state.is_accounted() && is_mapped());
        fills_at_once(free, first_bytes) || (reserved_kib > 0 && is_tight)
    }

    /// What is allocated: by accounts, or by what the allocator says while it matters. Of
    /// what is resident beyond accounts it may have to tell more.
    pub(super) fn ask_allocated(&self, control: &mut Control, now: Duration) -> Option<u64> {
        let accounted = self.state.is_accounted();
        let due = now >= control.braking.asks_at;
        let asks = accounted || (due && self.state.brake.is_on());
        if !asks {
            return None;
        }
        let before = run_time();
        let allocated_bytes = match accounted {
            true => allocated_bytes(),
            false => crate::guard::poller::allocated_bytes(),
        };
        if due {
            if let Some((allocated, limit)) = allocated_bytes.zip(limit_bytes(&control.levels)) {
                see_mapped(allocated, limit);
                let beside_bytes = control.own_bytes.saturating_sub(allocated);
                let asks = accounted && beside_bytes > limit / MUCH_BESIDE;
                let kept_bytes = asks.then(kept_bytes).flatten().unwrap_or(0);
                control.braking.keeps(kept_bytes);
            }
            let took = run_time().saturating_sub(before);
            control.braking.asks_at = now + took * ASKS_ONE_IN;
        }
        allocated_bytes
    }

    /// What is resident where the allocator does not tell what is allocated.
    pub(super) fn anonymous_bytes(&self) -> Option<u64> {
        let asks = !self.state.is_accounted()
            && self.state.brake.is_on()
            && Teller::now() == Teller::Kernel;
        asks.then(crate::memory::anonymous_bytes).flatten()
    }

    /// Tells the brake which requests run, in which order.
    pub(super) fn tell_runners(&self, mut runners: Vec<Running>, now: Duration) {
        let longest = self.state.live.max_pause();
        self.state.rank(now);
        let seen_since = self.state.brake.on_since(now);
        for running in &mut runners {
            let slot = running.request.slot();
            let (moves, idle) = slot.gets_on(now, seen_since);
            running.runner.moves = moves || running.runner.outgrown_bytes > 0.0;
            running.runner.idle |= idle;
            slot.set_idle(running.runner.idle);
        }
        let is_front = |running: &Running| {
            let slot = running.request.slot();
            slot.place().is_front() && (slot.is_paused() || !running.runner.idle)
        };
        let mut front = runners.iter().any(is_front);
        for running in &mut runners {
            let slot = running.request.slot();
            if !front && slot.is_paused() && slot.paused(now) >= longest {
                // One at a time.
                front = true;
                slot.to_the_front();
            }
            running.place = slot.place();
        }
        self.state.brake.tell(self.state.board_key(), runners);
    }

    /// Lets those grow for whom there is room, after a full sample.
    pub(super) fn sweep(&'static self, now: Duration) {
        let (room_bytes, blind) = {
            let control = self.control();
            (control.braking.room_bytes, control.is_blind())
        };
        let free_all = blind
            || !self.state.brakes()
            || self.state.live.only_observes()
            || !self.state.brake.is_enforced();
        let (brake, own) = (self.state.brake, self.state.board_key());
        brake.bring_forward(own, self.state.live.max_pause(), now);
        let freed = free_all.then_some(own);
        let alone = self.state.is_one_alone();
        let swept = brake.sweep(room_bytes as i64, freed, alone, now);
        let stuck_for = {
            let mut control = self.control();
            control.forecast.safe_bytes = f64::from(swept.plan.safe_bytes);
            let braking = &mut control.braking;
            let gets_on = braking.passed != swept.passed;
            braking.passed = swept.passed;
            braking.stuck = swept.stuck;
            if gets_on || swept.paused == 0 || swept.stuck == Stuck::No {
                braking.stuck_since = None;
                Duration::ZERO
            } else {
                let left_bytes = self.left_for_others(&control);
                let braking = &mut control.braking;
                let since = *braking.stuck_since.get_or_insert_with(|| {
                    braking.left_bytes = left_bytes;
                    now
                });
                now.saturating_sub(since)
            }
        };
        if stuck_for >= STUCK_FOR && swept.paused > 0 {
            self.unstick(swept, stuck_for, now);
        }
    }

    /// Nobody gets on: the first goes on in the reserve, as far as that goes. The wall
    /// outranks everything: behind it all are lost.
    fn unstick(&'static self, swept: Swept, stuck_for: Duration, now: Duration) {
        let gives_up = swept.stuck == Stuck::Yes && stuck_for >= GIVES_UP_AFTER;
        let in_flight = self.state.limiter.all_in_flight();
        let is_alone = swept.plan.alone_of.is_some_and(|all| all == in_flight);
        // Who went on since the last sample takes of what that found.
        let grown_bytes = self.grown_before.load(Ordering::Relaxed);
        let added_bytes = self.state.brake.added_since(grown_bytes);
        let (left_bytes, trust) = {
            let control = self.control();
            let left_bytes = control.left_bytes().saturating_sub(added_bytes);
            // Others may be about to end, and need that.
            let left_bytes = match swept.stuck {
                Stuck::Yes => left_bytes,
                _ => left_bytes.saturating_sub(control.braking.for_ending_bytes),
            };
            let limit_bytes = limit_bytes(&control.levels).unwrap_or(u64::MAX);
            // Nobody gets on, and there is less left all the same.
            let others_take_it =
                self.left_for_others(&control) + TAKEN_BYTES <= control.braking.left_bytes;
            let trust = Trust {
                endings: others_take_it || may_end_all_the_same(stuck_for, left_bytes, limit_bytes),
                guesses: gives_up,
                expected: gives_up && self.state.is_accounted() && is_much(left_bytes, limit_bytes),
                needs: self.state.is_accounted(),
                anybody: gives_up && (self.state.is_one_alone() || is_alone),
            };
            (left_bytes, trust)
        };
        let forced = self.state.brake.force_first(left_bytes, trust, now);
        if gives_up && !forced && self.state.is_closed() {
            self.let_all_go(now);
        }
        let said = self.control().braking.said_stuck;
        if !gives_up || said.is_some_and(|at| now < at + SAYS_EVERY) {
            return;
        }
        self.control().braking.said_stuck = Some(now);
        let (mark, then) = match forced {
            true => (':', "one goes on all the same"),
            false => (',', "and none can go on"),
        };
        let text = format!("nobody in flight fits any more{mark} {then}");
        self.state.note(EventKind::Stuck, text, 0);
        say!(
            error,
            name = self.state.name.as_deref(),
            paused = swept.paused,
            "no request in flight fits into memory any more, {then}"
        );
    }

    /// What is free, and what polls have added: less only if others take it.
    fn left_for_others(&self, control: &Control) -> u64 {
        let grown_bytes = self.grown_before.load(Ordering::Relaxed);
        control.left_bytes().saturating_add_signed(grown_bytes)
    }

    /// Nobody in flight has got on for a while.
    pub(super) fn is_stuck(control: &Control, now: Duration) -> bool {
        let since = (control.braking.stuck_since).filter(|_| control.braking.stuck == Stuck::Yes);
        since.is_some_and(|since| now.saturating_sub(since) >= STUCK_FOR)
    }
}

/// With so much left, who is about to end goes on, whatever others of its kind have added.
fn may_end_all_the_same(stuck_for: Duration, left_bytes: u64, limit_bytes: u64) -> bool {
    stuck_for >= GIVES_UP_AFTER && is_much(left_bytes, limit_bytes)
}

fn is_much(left_bytes: u64, limit_bytes: u64) -> bool {
    left_bytes >= limit_bytes / MUCH_LEFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_about_to_end_does_not_wait_for_half_of_the_limit() {
        const MIB: u64 = 1 << 20;
        let may_end = |stuck_ms, left_mib| {
            let stuck_for = Duration::from_millis(stuck_ms);
            may_end_all_the_same(stuck_for, left_mib * MIB, 512 * MIB)
        };
        assert!(may_end(1000, 249));
        assert!(!may_end(999, 249));
        // The wall is near.
        assert!(!may_end(10_000, 63));
    }
}
