//! A guard that nobody has any more, and the next one in its place.
//!
//! Whatever serves a request refers to its guard for as long as the process lives: counting
//! references to it would cost more than the admission. Only handles are counted, by each
//! thread for itself. A guard without any, which nothing in flight refers to, is *gone*. The
//! sampler stops by itself, and the memory is there for the next one that is like it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Control, Regulator};
use crate::config::Config;
use crate::guard::pool::{self, Shared};
use crate::memory::{MemorySource, Sampler};

#[derive(Default)]
struct Known {
    /// Or not found to be gone yet, those that were looked at last at the end.
    living: VecDeque<&'static Regulator>,
    gone: Vec<&'static Regulator>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known {
    living: VecDeque::new(),
    gone: Vec::new(),
});

/// So many are looked at for each that begins, so that those that are gone are never more
/// than those that live, or lived at once.
const LOOKS: usize = 2;

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn look() {
    let looked_at: Vec<_> = {
        let mut known = known();
        let most = LOOKS.min(known.living.len());
        known.living.drain(..most).collect()
    };
    for one in looked_at {
        if one.is_gone() {
            one.retire();
            known().gone.push(one);
        } else {
            known().living.push_back(one);
        }
    }
}

/// One that is gone, and like what begins.
fn take(config: &Config, is_like: impl Fn(&Regulator) -> bool) -> Option<&'static Regulator> {
    let mut known = known();
    let suits = |one: &&'static Regulator| {
        // Last: then it is taken.
        one.suits(config) && is_like(one) && one.state.limiter.join_again(&one.state.bounds)
    };
    let place = known.gone.iter().position(suits)?;
    Some(known.gone.swap_remove(place))
}

impl Regulator {
    /// In the place of one that is gone, or else what a new one joins.
    pub(super) fn again(
        config: &Config,
        source: Option<Box<dyn MemorySource>>,
    ) -> Result<&'static Self, Shared> {
        let Some(source) = source else {
            let shared = pool::join(config, None);
            let is_like = |one: &Self| {
                Arc::ptr_eq(&one.state.sampler, &shared.holdings.sampler)
                    && one.source == shared.source
            };
            return take(config, is_like).ok_or(shared);
        };
        let background = Sampler::background_of(&*source);
        match take(config, |one| one.state.sampler.may_be_given(background)) {
            Some(one) => {
                one.state.sampler.give(source);
                one.state.limiter.forget();
                one.state.brake.forget();
                Ok(one)
            }
            None => Err(pool::join(config, Some(source))),
        }
    }

    /// It is there to be found once it is gone.
    pub(super) fn is_known(&'static self) {
        known().living.push_back(self);
    }

    /// Nobody has it, and nothing refers to it that could ask it for anything.
    pub(super) fn is_gone(&self) -> bool {
        // First: from here on nothing new comes.
        self.state.handles.are_gone()
            && self.state.sampler.is_here()
            && self.state.in_flight() == 0
            && self.state.bounds.waiting() == 0
            && self.levels.receiver_count() == 0
            && self.limits.receiver_count() == 0
            && self.state.deliveries.are_none()
            && self.release.is_idle()
            && !self.state.brake.holds_for(self.state.board_key())
    }

    /// Nothing comes any more, and all that came has ended.
    pub(super) fn is_over(&self) -> bool {
        let idle = || self.state.in_flight() == 0 && self.state.bounds.waiting() == 0;
        (self.state.is_closed() && idle()) || self.is_gone()
    }

    /// It is over, and what came last was not published.
    pub(super) fn has_end_to_tell(&self) -> bool {
        let told = self.told_end.load(Ordering::Relaxed);
        self.is_over() && told != self.state.counters.all_rejected() + 1
    }

    /// It takes no part any more in what guards share. Once only: it is gone, or closed.
    pub(super) fn leave(&self) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.state.close();
        self.state.limiter.leave();
        self.board.leave(self.state.board_key());
        self.state.brake.leave(self.state.board_key());
        if let Some(keeper) = &self.keeper {
            // Its thread ends.
            keeper.wake();
        }
    }

    fn retire(&'static self) {
        self.state.sampler.unsubscribe(self);
        if self.has_end_to_tell() {
            // Nobody sampled any more.
            self.tell(self.state.sampler.now());
        }
        self.leave();
        self.state.limiter.retire(&self.state.bounds);
        self.keep_last();
        self.release.forget();
        self.state.running.forget();
        // Of one that keeps it who writes may still be at it, and none comes in its place.
        if self.keeper.is_none() {
            // What was learned takes most.
            *self.control() = Control::new(&self.state.config(), self.state.is_accounted());
        }
    }

    fn suits(&self, config: &Config) -> bool {
        (self.keeper.is_none() && config.state.is_none()) && self.state.suits(config)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Class, Cost, ManualSource, MemoryGuardLayer};

    #[test]
    fn whom_a_closed_guard_turns_away_is_told_in_the_end() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
        let layer = builder.build().unwrap();
        let guard = layer.guard();
        let has_more = || guard.regulator.has_end_to_tell();
        guard.close();
        guard.sample_now();
        assert!(!has_more());
        assert!(guard.try_acquire(Cost::Estimated).is_err());
        assert!(has_more());
        guard.sample_now();
        assert!(!has_more());
    }

    #[test]
    fn what_a_guard_that_is_gone_has_learned_is_written_when_the_disk_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.state");
        let memory = ManualSource::new(1 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let layer = builder.state(&path).build().unwrap();
        let regulator = layer.guard().regulator;
        let permit = layer.guard().try_acquire(Cost::Estimated).unwrap();
        memory.set_usage_bytes(100 << 20);
        let hangs = regulator.keeper.as_ref().unwrap().hang();
        layer.guard().sample_now();
        drop((permit, layer));
        regulator.retire();
        drop(hangs);
        let lock = path.with_extension("state.lock");
        let mut rounds = 0..1000;
        assert!(rounds.any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !lock.exists()
        }));
        assert!(path.exists());
    }

    #[test]
    fn names_of_classes_do_not_run_out_for_those_that_come_later() {
        for number in 0..300 {
            let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
            let layer = builder.build().unwrap();
            let labels = &layer.guard().state().labels();
            let name = format!("class {number}");
            let demand = labels.demand(&Class::new(name.clone()));
            assert_eq!(labels.name(demand.tag().key), name);
        }
    }
}
