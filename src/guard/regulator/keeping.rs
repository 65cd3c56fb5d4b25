//! What is learned from the processes before, and kept for those to come.

use super::Regulator;
use crate::forecast::Estimates;
use crate::forecast::state::{AtLeast, State};
use crate::guard::keeper::{Keeper, More};
use crate::telemetry::logs;

const MOST_RUNNING: usize = 64;

impl Regulator {
    /// Before the first request: starts from what was found, and keeps from here on.
    /// Says what is in the way of it.
    pub(super) fn begin_to_keep(&'static self, learned: Option<State>) -> Option<String> {
        let keeper = self.keeper.as_ref()?;
        if let Some(state) = learned {
            let forecast = &mut self.control().forecast;
            forecast.load(&state.estimates, &self.state.labels);
            forecast.learn_cut_off(&state.running, &self.state.labels);
        }
        let begun = keeper.run(|| self.keep());
        begun
            .err()
            .map(|error| format!("what is learned is not kept: {error}"))
    }

    pub(super) fn may_have_learned(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.wake();
        }
    }

    /// Keeps what has been learned.
    fn keep(&self) -> More {
        let Some(keeper) = &self.keeper else {
            return More::Nothing;
        };
        if self.state.is_closed() {
            return self.close_keeper(keeper);
        }
        let running = self.at_least();
        let usage_average = self.control().forecast.usage_average();
        keeper.look(&running, usage_average, || State {
            estimates: self.estimates(),
            running: running.clone(),
        });
        More::Comes
    }

    /// Once it is closed.
    pub(super) fn keep_last(&self) {
        if let Some(keeper) = &self.keeper {
            // Its thread may never have been.
            if !keeper.finish() {
                self.close_keeper(keeper);
            }
        }
    }

    fn close_keeper(&self, keeper: &Keeper) -> More {
        keeper.close(|| State {
            estimates: self.estimates(),
            running: self.at_least(),
        })
    }

    fn at_least(&self) -> Vec<AtLeast> {
        if !self.state.is_accounted() {
            return Vec::new();
        }
        let peaks = self.state.running.peaks(MOST_RUNNING).into_iter();
        let requests = peaks.map(|(key, peak_bytes)| AtLeast {
            class: self.state.labels.name(key).to_owned(),
            hinted: key.is_hinted(),
            bytes: peak_bytes as f64,
        });
        requests.collect()
    }

    /// Starts from what another process has learned, unless a file said more.
    pub(crate) fn learn_from(&self, estimates: &Estimates) {
        if self.keeper.as_ref().is_some_and(|keeper| keeper.was_read()) {
            return;
        }
        if let Err(problem) = estimates.check() {
            logs::warnings(&[format!("estimates that were given are ignored: {problem}")]);
            return;
        }
        self.control().forecast.load(estimates, &self.state.labels);
        self.state.sampler.sample_now();
    }

    pub(crate) fn estimates(&self) -> Estimates {
        self.control().forecast.save(&self.state.labels)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use crate::{Cost, ManualSource, MemoryGuardLayer};

    #[test]
    fn who_closes_a_guard_does_not_wait_for_a_disk_that_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.state");
        let memory = ManualSource::new(1 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let guard = builder.state(&path).build().unwrap().guard().clone();
        let permit = guard.try_acquire(Cost::Estimated).unwrap();
        memory.set_usage_bytes(100 << 20);
        let keeper = guard.regulator.keeper.as_ref().unwrap();
        let hangs = keeper.hang();
        guard.sample_now();
        let (closed, is_closed) = channel();
        let closes = guard.clone();
        std::thread::spawn(move || {
            closes.close();
            closed.send(()).unwrap();
        });
        let long = Duration::from_secs(10);
        assert!(is_closed.recv_timeout(long).is_ok());
        drop((hangs, permit));
        // It is written as soon as that can be.
        let mut rounds = 0..1000;
        assert!(rounds.any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            path.exists() && !path.with_extension("state.lock").exists()
        }));
    }
}
