//! How far growth may come: of the guards that want the brake on, the tightest says.

use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use super::{Brake, State, Stuck};
use crate::sync::Ordering;

/// A poll that is seen to outgrow all is in the first part of its way.
const OUTGROWS_BY: f64 = 4.0;

/// What a guard found last, from what had been counted before it read usage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) grown_bytes: i64,
    /// So many bytes may be added from there on.
    pub(crate) headroom_bytes: i64,
    /// What of that is in use: the allocator keeps it.
    pub(crate) kept_bytes: i64,
    /// The next samples correct what a smaller poll has added.
    pub(crate) large_bytes: i64,
    /// And so many more by those that are about to end.
    pub(crate) for_ending_bytes: i64,
    /// What there is for all that is expected.
    pub(crate) room_bytes: i64,
    /// What is left below where memory ends.
    pub(crate) left_bytes: u64,
    /// One of its requests gets on that no plan has.
    pub(crate) unknown_get_on: bool,
    /// It pauses nobody: it binds only where nobody else does.
    pub(crate) observes: bool,
}

impl Bound {
    fn ceiling_bytes(&self) -> i64 {
        self.grown_bytes.saturating_add(self.headroom_bytes)
    }
}

impl Brake {
    /// It is on while one of the ledger's guards wants it. `on`: the time, if this one does.
    pub(crate) fn set_on(&self, guard: usize, on: Option<Duration>) {
        let mut state = self.state();
        state.wanted.retain(|&one| one != guard);
        if let Some(now) = on {
            state.wanted.push(guard);
            if !self.is_on() {
                let ms = now.as_millis() as u64;
                self.on_since_ms.store(ms, Ordering::Relaxed);
            }
        }
        self.bind(&state);
        self.on.store(!state.wanted.is_empty(), Ordering::Relaxed);
    }

    /// Since when polls have been seen, the last pause of the brake aside; `now` while it is off.
    pub(crate) fn on_since(&self, now: Duration) -> Duration {
        match self.is_on() {
            true => Duration::from_millis(self.on_since_ms.load(Ordering::Relaxed)),
            false => now,
        }
    }

    /// One of the guards that want it on does not only observe.
    pub(crate) fn is_enforced(&self) -> bool {
        self.enforced.load(Ordering::Relaxed)
    }

    pub(crate) fn publish(&self, guard: usize, bound: Bound) {
        let mut state = self.state();
        match state.bounds.iter_mut().find(|(key, _)| *key == guard) {
            Some((_, known)) => *known = bound,
            None => state.bounds.push((guard, bound)),
        }
        self.bind(&state);
    }

    /// What a poll may add at most, if it is nobody else's turn.
    pub(crate) fn most_for_one_bytes(&self) -> i64 {
        let headroom_bytes = self.headroom_bytes();
        let kept_bytes = self.kept.load(Ordering::Relaxed);
        let large_bytes = self.large.load(Ordering::Relaxed);
        (headroom_bytes - kept_bytes).max(headroom_bytes.min(large_bytes))
    }

    /// What must stay free when a poll takes so much: one that is large may come to live beside
    /// what the allocator keeps, and nobody could hold it back any more.
    pub(super) fn beside_kept(&self, keep_bytes: i64, jump_bytes: i64) -> i64 {
        match jump_bytes > self.large.load(Ordering::Relaxed) {
            true => keep_bytes.max(self.kept.load(Ordering::Relaxed) + keep_bytes.min(0)),
            false => keep_bytes,
        }
    }

    /// No sample corrects in time what a poll has added that adds so much.
    #[inline]
    pub(crate) fn is_large(&self, bytes: u64) -> bool {
        // 0: no bound is known.
        let large_bytes = self.large.load(Ordering::Relaxed);
        large_bytes > 0 && bytes > large_bytes as u64
    }

    /// And if it and other first polls come to so many times as much, nothing is left.
    pub(super) fn may_fill(&self, outgrown_bytes: f32) -> bool {
        let most_bytes = f64::from(outgrown_bytes) * OUTGROWS_BY;
        let headroom_bytes = self.headroom_bytes() as f64;
        self.may_come_to_much(outgrown_bytes as u64) && fills_at_once(headroom_bytes, most_bytes)
    }

    /// A poll has added so much so far, more than it was expected to, and goes on.
    pub(crate) fn may_come_to_much(&self, outgrown_bytes: u64) -> bool {
        self.is_large(outgrown_bytes.saturating_mul(2))
    }

    fn bind(&self, state: &State) {
        self.enforced.store(state.is_enforced(), Ordering::Relaxed);
        let tightest = state.binding().min_by_key(Bound::ceiling_bytes);
        if let Some(bound) = tightest {
            (self.for_ending).store(bound.for_ending_bytes, Ordering::Relaxed);
            // Of another guard less may be really free.
            let free_bytes = |bound: Bound| bound.ceiling_bytes() - bound.kept_bytes;
            let least = state.binding().map(free_bytes).min();
            let kept_bytes = bound.ceiling_bytes() - least.unwrap_or(bound.ceiling_bytes());
            self.kept.store(kept_bytes, Ordering::Relaxed);
            self.large.store(bound.large_bytes, Ordering::Relaxed);
            self.ceiling.store(bound.ceiling_bytes(), Ordering::Release);
        }
    }
}

impl State {
    fn wants(&self, guard: usize) -> bool {
        self.wanted.contains(&guard)
    }

    /// One that wants it on does not only observe.
    fn is_enforced(&self) -> bool {
        let mut bounds = self.bounds.iter();
        bounds.any(|(guard, bound)| self.wants(*guard) && !bound.observes)
    }

    /// Of the guards that want it on, or of all while none does.
    fn binding(&self) -> impl Iterator<Item = Bound> {
        let none = self.wanted.is_empty();
        let enforced = self.is_enforced();
        let binds = move |guard, bound: &Bound| self.wants(guard) && !(enforced && bound.observes);
        let binding = self.bounds.iter();
        binding.filter_map(move |(guard, bound)| (none || binds(*guard, bound)).then_some(*bound))
    }

    /// What there is for all that is expected.
    pub(super) fn room_bytes(&self) -> i64 {
        let room = self.binding().map(|bound| bound.room_bytes);
        room.min().unwrap_or(i64::MAX)
    }

    /// Whether anybody gets on who is not paused, by a plan and beside it.
    pub(super) fn stuck(&self, planned: Stuck) -> Stuck {
        let mut bounds = self.bounds.iter();
        match planned {
            Stuck::Yes if bounds.any(|(_, bound)| bound.unknown_get_on) => Stuck::ForNow,
            planned => planned,
        }
    }

    /// What is left below where memory ends.
    pub(super) fn left_bytes(&self, brake: &Brake) -> u64 {
        let left = |bound: Bound| {
            let added_bytes = brake.added_since(bound.grown_bytes);
            bound.left_bytes.saturating_sub(added_bytes)
        };
        self.binding().map(left).min().unwrap_or(u64::MAX)
    }
}

/// As many first polls as there are processors, and one more, would leave nothing. No sample
/// sees that coming, and whether anything is in flight yet does not matter.
pub(crate) fn fills_at_once(free_bytes: f64, first_bytes: f64) -> bool {
    static POLLS: OnceLock<usize> = OnceLock::new();
    let polls = POLLS.get_or_init(|| available_parallelism().map_or(1, usize::from) + 1);
    free_bytes < first_bytes * *polls as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_first_polls_may_fill_memory_at_once() {
        assert!(fills_at_once(477.0, 256.0));
        assert!(!fills_at_once(477.0, 0.0));
        assert!(!fills_at_once(1e6, 1.0));
    }
}
