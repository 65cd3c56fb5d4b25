//! A guard that nobody has any more, and the next one in its place.
//!
//! Whatever serves a request refers to its guard for as long as the process lives: counting
//! references to it would cost more than the admission. Only handles are counted, by each
//! thread for itself. A guard without any, which nothing in flight refers to, is *gone*. The
//! sampler stops by itself, and the memory is there for the next one that is like it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Control, Controller, accounting_is_installed, latched};
use crate::config::Config;
use crate::guard::pool::{self, Shared};
use crate::memory::{MemorySource, Sampler};
use crate::pressure::Pressure;
use crate::sync::sharded::ShardedCounters;

const MADE: usize = 0;
const DROPPED: usize = 1;

/// Of one guard: how many were made, and how many were dropped.
#[derive(Debug, Default)]
pub(crate) struct Handles(ShardedCounters<2>);

impl Handles {
    #[inline]
    pub(crate) fn made(&self) {
        self.0.add_at(MADE, 1);
    }

    #[inline]
    pub(crate) fn dropped(&self) {
        self.0.count_done(DROPPED);
    }

    /// There is none any more, and none can come.
    ///
    /// In this order: each that is seen to be dropped was made before, and so were those that
    /// were cloned from it. So if both are as many, all that were ever made are dropped, and
    /// only what is made of another would be missing.
    fn are_gone(&self) -> bool {
        let dropped = self.0.sum(DROPPED);
        dropped == self.0.sum(MADE)
    }
}

/// The guards of this process.
#[derive(Default)]
struct Known {
    /// Or not found to be gone yet, those that were looked at last at the end.
    living: VecDeque<&'static Controller>,
    gone: Vec<&'static Controller>,
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

/// Looks for guards that are gone.
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
fn take(config: &Config, is_like: impl Fn(&Controller) -> bool) -> Option<&'static Controller> {
    let mut known = known();
    let suits = |one: &&'static Controller| {
        // Last: then it is taken.
        one.suits(config) && is_like(one) && one.limiter.join_again(&one.bounds)
    };
    let place = known.gone.iter().position(suits)?;
    Some(known.gone.swap_remove(place))
}

impl Controller {
    /// In the place of one that is gone, or else what a new one joins.
    pub(super) fn again(
        config: &Config,
        source: Option<Box<dyn MemorySource>>,
    ) -> Result<&'static Self, Shared> {
        let Some(source) = source else {
            let shared = pool::join(config, None);
            let is_like = |one: &Self| {
                Arc::ptr_eq(&one.sampler, &shared.sampler) && one.source == shared.source
            };
            return take(config, is_like).ok_or(shared);
        };
        let background = Sampler::background_of(&*source);
        match take(config, |one| one.sampler.may_be_given(background)) {
            Some(one) => {
                one.sampler.give(source);
                one.limiter.forget();
                one.brake.forget();
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
        self.handles.are_gone()
            && self.sampler.is_here()
            && self.limiter.in_flight(&self.bounds) == 0
            && self.limiter.waiting_for(&self.bounds) == 0
            && self.levels.receiver_count() == 0
            && self.limits.receiver_count() == 0
            && self.deliveries.are_none()
            && self.release.is_idle()
            && !self.brake.holds_for(self.board_key())
    }

    /// It takes no part any more in what guards share. Once only: it is gone, or closed.
    pub(super) fn leave(&self) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.closed.store(true, Ordering::Release);
        self.limiter.leave(&self.bounds);
        self.board.leave(self.board_key());
        self.brake.leave(self.board_key());
        if let Some(keeper) = &self.keeper {
            // Its thread ends.
            keeper.wake();
        }
    }

    fn retire(&'static self) {
        self.sampler.unsubscribe(self);
        self.leave();
        self.keep_last();
        self.release.forget();
        self.running.forget();
        // What was learned takes most.
        *self.control() = Control::new(&self.config(), self.accounted);
    }

    /// Nothing about it that cannot be changed is another than `config` says, and it has
    /// numbers left for classes.
    fn suits(&self, config: &Config) -> bool {
        self.sampler.is_here()
            && self.accounted == accounting_is_installed()
            && (self.keeper.is_none() && config.state.is_none())
            && self.name == config.name
            && self.config().tiers == config.tiers
            && self.labels.has_room()
    }

    /// Begins anew, as [`new`](Self::new) does. Names of classes keep their numbers.
    pub(super) fn renew(&self, config: Config, control: Control) {
        self.live.renew(config);
        self.counters.forget();
        self.last_loads.keep(&control.demand);
        self.rejection_lines.forget();
        self.pause_lines.forget();
        self.recent.forget();
        self.show(&control);
        *self.control() = control;
        self.levels.send_replace(Pressure::Normal);
        self.limits.send_replace(None);
        self.priorities.store(0, Ordering::Relaxed);
        self.pressure.store(0, Ordering::Relaxed);
        let [bytes, under_way_bytes] = &self.let_grow_before;
        for grown in [&self.grown_before, bytes, under_way_bytes] {
            grown.store(0, Ordering::Relaxed);
        }
        self.was_idle.store(true, Ordering::Relaxed);
        self.latched_since_ms.store(latched::NOT, Ordering::Relaxed);
        for unknown in [&self.limit_bytes, &self.kill_bytes, &self.backlog_ms] {
            unknown.store(u64::MAX, Ordering::Relaxed);
        }
        let none = [
            &self.percent_bits,
            &self.drain_ns,
            &self.ended_kib,
            &self.critical_ms,
            &self.forgives_at_ms,
        ];
        none.iter()
            .for_each(|number| number.store(0, Ordering::Relaxed));
        let no = [&self.closed, &self.left, &self.is_lost];
        no.iter()
            .for_each(|flag| flag.store(false, Ordering::Release));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{Class, ManualSource, MemoryGuardLayer};

    #[test]
    fn names_of_classes_do_not_run_out_for_those_that_come_later() {
        for number in 0..300 {
            let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
            let layer = builder.build().unwrap();
            let labels = &layer.guard().controller.labels;
            let name = format!("class {number}");
            let entry = labels.entry(&Class::new(name.clone()));
            assert_eq!(labels.name(entry.tag.key), name);
        }
    }

    #[test]
    fn as_long_as_there_is_one_none_of_many_threads_hides_it() {
        let handles = &Handles::default();
        handles.made();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (give, given) = channel();
                    scope.spawn(move || given.iter().for_each(|()| handles.dropped()));
                    scope.spawn(move || {
                        for _ in 0..100_000 {
                            handles.made();
                            give.send(()).unwrap();
                        }
                    })
                })
                .collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                assert!(!handles.are_gone());
            }
        });
        assert!(!handles.are_gone());
        handles.dropped();
        assert!(handles.are_gone());
    }
}
