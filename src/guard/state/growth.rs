//! Who may grow, asked before polls and told after them.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::State;
use crate::class::Priority;
use crate::running::brake::Taken;
use crate::running::{Fact, Slot};

impl State {
    /// Requests may be paused.
    pub(in crate::guard) fn brakes(&self) -> bool {
        // Once it is closed nobody comes who would look for those that are paused.
        let is_left = self.is_closed() && !self.sampler.has_thread();
        self.live.may_pause() && !self.lets_all_go() && !is_left && !self.sampler.was_lost()
    }

    /// Says where each in flight stands, unless that is its priority's place alone.
    pub(in crate::guard) fn rank(&self, now: Duration) {
        let tenants = self.bounds.tenants();
        if tenants.all_named().next().is_some() || self.has_seen(Priority::Low) {
            let weight = |tenant| tenants.get(tenant).weight();
            let ages_after = Duration::from_millis(self.bounds.ages_after_ms());
            self.running.rank(ages_after, now, weight);
        }
    }

    /// What a poll may add, taken from the headroom; `None`: not now.
    pub(in crate::guard) fn may_grow(
        &'static self,
        slot: &Slot,
        priority: Priority,
        forced: bool,
    ) -> Option<Taken> {
        let now = self.sampler.tick();
        slot.polled(now, self.brake.on_since(now));
        let jump_bytes = self.running.jump_bytes(slot);
        let passes = forced || priority == Priority::Critical || slot.is_cancelled();
        // The brake may be on for another guard; by the bounds of one that observes nobody else
        // is paused.
        let asks = self.brakes() && (self.brake.is_enforced() || self.live.only_observes());
        if passes || !asks {
            return Some(self.brake.take_anyway(jump_bytes));
        }
        if let Some(taken) = self.take_headroom(slot) {
            return Some(taken);
        }
        if !self.brake.is_held(slot, self.board_key()) {
            // Headroom is as old as the last sample: look again.
            self.sampler.refresh();
            if let Some(taken) = self.take_headroom(slot) {
                return Some(taken);
            }
        }
        // In a forked child it may be that nobody would ever wake it.
        self.sampler.check_process();
        if !self.brakes() {
            return Some(self.brake.take_anyway(jump_bytes));
        }
        if self.live.only_observes() {
            self.counters.would_pause.fetch_add(1, Ordering::Relaxed);
            return Some(self.brake.take_anyway(jump_bytes));
        }
        None
    }

    /// A poll of it has added so much, or work between two checkpoints. `ending`: when it
    /// began, the request seemed to be about to end.
    pub(in crate::guard) fn grew(&self, slot: &Slot, bytes: u64, ending: bool) {
        slot.grew(bytes, ending, self.brake.on_since(Duration::ZERO));
        self.saw_jump(slot, bytes);
    }

    /// The same of a poll for which nobody had to ask.
    pub(in crate::guard) fn grew_unasked(&self, slot: &Slot, bytes: u64) {
        slot.grew_untimed(bytes);
        self.saw_jump(slot, bytes);
    }

    /// It is over. Without accounts what polls add is known while the brake is on: of one that
    /// was polled with the brake off as well, that is a part, which says nothing about others.
    #[inline]
    pub(in crate::guard) fn tell_half_seen(&self, slot: &Slot) {
        let is_known = self.is_accounted() || slot.peak_bytes() == 0;
        if !is_known && !slot.began_since(self.brake.on_since(Duration::MAX)) {
            slot.say(Fact::Declared);
        }
    }

    /// The next sample tells others of its kind. Of what is large, and more than any of them has
    /// added, they have to know at once.
    fn saw_jump(&self, slot: &Slot, bytes: u64) {
        let tells = self.brake.is_large(bytes) && !slot.says_nothing();
        if tells && self.running.saw_jump(slot, bytes) {
            self.sampler.request_sample();
        }
    }

    /// What its next poll may add, as said last, if it is there.
    fn take_headroom(&self, slot: &Slot) -> Option<Taken> {
        let alone = self.is_one_alone();
        let most_bytes = alone.then(|| self.brake.most_for_one_bytes());
        let jump_bytes = slot.jump_within(most_bytes);
        self.brake.take(slot, self.board_key(), jump_bytes)
    }

    /// There is nobody else in flight whose end it could wait for.
    pub(in crate::guard) fn is_one_alone(&self) -> bool {
        self.limiter.all_in_flight() <= 1
    }

    /// Somebody is paused, or is so again: it is looked after at once. By a thread that
    /// samples, often from the first time on.
    pub(in crate::guard) fn pauses(&self, again: bool) {
        if !self.sampler.has_thread() {
            // Room may have come back since it asked. SeqCst: see there.
            fence(Ordering::SeqCst);
            self.limiter.meet_ends();
            self.sampler.request_sample();
        } else if !again {
            self.sampler.request_sample();
        }
    }

    /// A request is over and its bytes are given back. Where no thread samples, nobody else
    /// would see that those that are paused have room now.
    #[inline(always)]
    pub(in crate::guard) fn has_ended(&self) {
        // Relaxed: giving the bytes back has met those that are paused.
        if self.brake.paused() > 0 {
            self.sample_without_thread();
        }
    }

    /// The same for a poll that is over while the brake is on.
    pub(in crate::guard) fn has_polled(&self) {
        if !self.sampler.has_thread() {
            // SeqCst, here and where one is paused: either this sees that it is, or it sees
            // the room.
            fence(Ordering::SeqCst);
            self.has_ended();
        }
    }

    #[cold]
    fn sample_without_thread(&self) {
        if !self.sampler.has_thread() {
            self.sampler.request_sample();
        }
    }
}
