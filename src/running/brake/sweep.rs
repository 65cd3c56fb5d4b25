//! After a sample: who may grow, and who is woken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::turn::{Turn, kind_of};
use super::who_goes_on::{Plan, Room, Stuck};
use super::{Brake, Pausing, Runner, Running, State, beside_newcomers, who_goes_on};
use crate::running::place::CRITICAL;
use crate::sync::foreign;

/// Who seems to be about to end may be at its end, or else need all that it is expected to:
/// on the whole so many times less.
const ENDS: u64 = 4;
/// Needs are compared by what they are for so much that is held.
const PER_HELD: u64 = 1024;

/// What a sweep found.
#[derive(Debug)]
pub(crate) struct Swept {
    pub(crate) plan: Plan,
    /// Those that found no room when they were polled last.
    pub(crate) paused: u32,
    /// Whether anybody gets on, by the plan and beside it.
    pub(crate) stuck: Stuck,
    /// Polls that found room so far: while it stays the same, nobody gets on.
    pub(crate) passed: u64,
}

/// Who goes on where nobody gets on, though what it may add is more than there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trust {
    /// Of whom that is only guessed.
    pub(crate) guesses: bool,
    /// Who is expected to need less than there is, whatever one poll may add.
    pub(crate) expected: bool,
    /// Who is about to end, as far as can be told, or holds all that it is expected to: it
    /// most likely adds nothing.
    pub(crate) endings: bool,
    /// Anybody: it is the only one, and nothing will be given back.
    pub(crate) anybody: bool,
    /// What each is expected to need, since accounts show what they hold.
    pub(crate) needs: bool,
}

impl Brake {
    /// Says who may grow, and wakes those for whom there is room.
    ///
    /// `room_bytes` is what there is for all that is expected; headroom, which is what is
    /// there now, is known here. All of `freed`'s go on: that guard pauses nobody.
    /// `alone`: nothing else is in flight, so that nobody will give anything back.
    pub(crate) fn sweep(
        &self,
        room_bytes: i64,
        freed: Option<usize>,
        alone: bool,
        now: Duration,
    ) -> Swept {
        let mut state = self.state();
        let room_bytes = room_bytes.min(state.room_bytes());
        let plan = self.plan(&mut state, room_bytes, now);
        let waiting = state.pausing.iter().filter(|(_, one)| one.woken.is_none());
        let paused = waiting.count() as u32;
        let wakers = self.let_go(&mut state, freed, alone, now);
        let stuck = state.stuck(plan.stuck);
        drop(state);
        let passed = self.passed.load(Ordering::Relaxed);
        wakers.into_iter().for_each(foreign::wake_kept);
        Swept {
            plan,
            paused,
            stuck,
            passed,
        }
    }

    fn plan(&self, state: &mut State, room_bytes: i64, now: Duration) -> Plan {
        let mut all: Vec<&Running> = state.runners.iter().flat_map(|(_, some)| some).collect();
        all.sort_unstable_by_key(|running| running.place);
        all.retain(|running| !running.request.is_over());
        let paused = state.pausing.iter().map(|(_, one)| one);
        let left: Vec<_> = paused.filter(|one| one.is_left(now)).collect();
        self.left.store(left.len() as u32, Ordering::Relaxed);
        let is_left = |request| left.iter().any(|one| one.request == request);
        // Since they were looked at one may have gone on.
        let at_present = |running: &&Running| Runner {
            paused: running.request.slot().is_paused(),
            moves: running.runner.moves && !is_left(running.request),
            ..running.runner
        };
        let known: Vec<Runner> = all.iter().map(at_present).collect();
        let outgrown = all
            .iter()
            .zip(&known)
            .filter(|(_, one)| one.outgrown_bytes > 0.0);
        let most = outgrown.max_by(|a, b| a.1.outgrown_bytes.total_cmp(&b.1.outgrown_bytes));
        let kind = most.filter(|(_, one)| self.may_fill(one.outgrown_bytes));
        let guard_of = |request| {
            let mut theirs = state.runners.iter();
            let has = |some: &[Running]| some.iter().any(|one| one.request == request);
            theirs.find_map(|(guard, some)| has(some).then_some(*guard))
        };
        let kind = kind.and_then(|(one, _)| {
            let guard = guard_of(one.request)?;
            Some(kind_of(one.request.slot(), guard))
        });
        self.outgrows.set(kind);
        let before = state.front;
        let front = before.and_then(|front| all.iter().position(|one| one.request == front));
        let room = Room {
            bytes: room_bytes as f32,
            for_ending_bytes: self.for_ending.load(Ordering::Relaxed) as f32,
        };
        let plan = who_goes_on::plan(room, &known, front);
        state.front = plan.front.map(|index| all[index].request);
        for (running, &turn) in all.iter().zip(&plan.turns) {
            let turn = match running.place.rank {
                CRITICAL => Turn::Keep(0.0),
                _ => turn,
            };
            // It may end meanwhile, and another one have its slot.
            running.request.set_turn(turn);
        }
        self.newcomer.store(plan.newcomer.bits(), Ordering::Relaxed);
        (self.newcomer_least).store(plan.newcomer_least_bytes as i64, Ordering::Relaxed);
        plan
    }

    /// Those for whom there is room, one after another.
    fn let_go(
        &self,
        state: &mut State,
        freed: Option<usize>,
        alone: bool,
        now: Duration,
    ) -> Vec<Arc<Waker>> {
        let mut wakers = Vec::new();
        let mut headroom = self.headroom_bytes();
        let most_for_one = alone.then(|| self.most_for_one_bytes());
        // Of newcomers that go on: see where they ask.
        let mut rest_bytes = self.rest.load(Ordering::Acquire);
        let mut waiting: Vec<(usize, &mut Pausing)> = state.pausing.iter_mut().collect();
        waiting.sort_unstable_by_key(|(place, one)| (one.slot().place(), *place));
        for (_, one) in waiting {
            let jump_bytes = one.slot().jump_within(most_for_one) as i64;
            let keep_bytes = self.keep_bytes(one.slot(), one.guard);
            let own_rest_bytes = one.slot().rest_of_newcomer();
            let beside = |keep| match own_rest_bytes {
                Some(own_bytes) => beside_newcomers(keep, own_bytes, rest_bytes),
                None => keep,
            };
            let keep_bytes = keep_bytes.map(|keep| self.beside_kept(beside(keep), jump_bytes));
            let fits = keep_bytes.is_some_and(|keep| headroom - jump_bytes >= keep);
            one.forced |= freed == Some(one.guard);
            if let Some((_, sweeps)) = &mut one.woken {
                *sweeps = sweeps.saturating_add(1);
            }
            if fits || one.forced {
                if !one.is_left(now) {
                    headroom -= jump_bytes;
                    rest_bytes += own_rest_bytes.unwrap_or(0);
                }
                if one.woken.is_none() {
                    wakers.push(Arc::clone(&one.waker));
                }
                one.woken = one.woken.or(Some((now, 1)));
            }
        }
        wakers
    }

    /// One of those who are paused goes on, whatever the headroom is: of those of whom one poll
    /// adds no more than there is, who is expected to need least for what it holds; or, where that
    /// is not to be trusted, who is about to end and holds at least half of it, or else who holds
    /// most and so has come furthest. Behind all those, one of whom nothing is known for sure, as
    /// far as that is to be trusted.
    pub(crate) fn force_first(&self, left_bytes: u64, trust: Trust, now: Duration) -> bool {
        let mut state = self.state();
        let of_all_bytes = state.left_bytes(self);
        let pausing = &mut state.pausing;
        let held_bytes = |one: &Pausing| one.slot().look().held_bytes;
        let most_bytes = pausing.iter().map(|(_, one)| held_bytes(one)).max();
        let jump_bytes = |one: &Pausing| one.slot().jump_at_worst();
        // Whoever was told so and is not polled takes that in the end.
        let is_told = |one: &Pausing| one.forced && one.is_left(now);
        let told = pausing
            .iter()
            .map(|(_, one)| one)
            .filter(|one| is_told(one));
        let told_bytes = told.map(jump_bytes).fold(0, u64::saturating_add);
        let left_bytes = left_bytes.min(of_all_bytes).saturating_sub(told_bytes);
        let others = pausing.iter_mut().map(|(_, one)| one);
        let waiting = others.filter(|one| !is_told(one)).filter(|one| {
            let may_guess = trust.guesses && one.slot().is_guess();
            // All would stand still for ever where each may add more than there is.
            let expects_less = one.slot().rest_to_come_kib() <= left_bytes / 1024;
            let may_need_less = trust.expected && expects_less;
            let may_go_on = left_bytes > 0 && (may_guess || may_need_less || trust.anybody);
            let ends = one.slot().ends();
            let may_end = trust.endings && (ends || one.slot().has_all());
            may_go_on || may_end || jump_bytes(one) <= left_bytes
        });
        let first = waiting.min_by_key(|one| {
            // Whoever needs much more would use it up, and still hold all that it has; whoever
            // holds little gives little back.
            let held_kib = (held_bytes(one) / 1024).max(1);
            let needs = one.slot().rest_to_come_kib().saturating_mul(PER_HELD) / held_kib;
            let rank = match (trust.needs, one.slot().ends()) {
                (true, true) => needs / ENDS,
                (true, false) => needs,
                (false, true) if one.slot().is_half_way() => 0,
                // Of those whose needs are guesses who has come furthest.
                (false, _) if Some(held_bytes(one)) == most_bytes => 1,
                (false, _) => 2,
            };
            // Of those that are too much for what there is, what they may add says nothing.
            let fits = Some(jump_bytes(one)).filter(|&bytes| bytes <= left_bytes);
            (fits.is_none(), rank, fits, one.slot().place())
        });
        let waker = first.map(|one| {
            one.forced = true;
            one.woken = one.woken.or(Some((now, 0)));
            Arc::clone(&one.waker)
        });
        drop(state);
        waker.map(foreign::wake_kept).is_some()
    }
}
