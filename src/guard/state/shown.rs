//! [`Shown`]: what samples leave for whoever asks, so that nobody waits for the next.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::memory::MemoryLevel;
use crate::policy;
use crate::pressure::Pressure;
use crate::sync::optional::AtomicOption;

/// What the last decision says of memory, and of what may be admitted: for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) concurrency: u32,
    pub(crate) base_concurrency: u32,
    pub(crate) usage_bytes: u64,
    pub(crate) process_bytes: u64,
    /// What a request reserves, on average.
    pub(crate) request_bytes: u64,
    pub(crate) blind: bool,
    /// Memory leaves no room for the next in line.
    pub(crate) kept_out: bool,
    /// By how much usage may still rise without another request.
    pub(crate) outstanding_bytes: i64,
    pub(crate) error_ratio: Option<f64>,
    pub(crate) margin_deviations: Option<f64>,
    /// Forecasts that were checked, and those of them that were exceeded.
    pub(crate) checked: (u64, u64),
    /// The mean time between two completions.
    pub(crate) drain_ns: u64,
    /// What the queue says of the next wait.
    pub(crate) next_wait: Option<Duration>,
    /// Since when nobody could be admitted for want of memory, and nobody finished.
    pub(crate) latched_since: Option<Duration>,
    /// How much longer CRITICAL may last, or would.
    pub(crate) critical: Duration,
}

impl Summary {
    /// What one more waiter, behind so many, may expect to wait.
    pub(super) fn backlog(&self, waiting: usize) -> Duration {
        let drain = Duration::from_nanos(self.drain_ns);
        let by_drain = || drain.saturating_mul(waiting as u32 + 1);
        self.next_wait.unwrap_or_else(by_drain)
    }
}

/// How loaded the process is: memory as of the last sample, the rest as of the last
/// full one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Loads {
    /// Memory in use, as a share of the limit.
    pub(crate) memory: f64,
    /// What is admitted, as a share of what may be.
    pub(crate) utilisation: f64,
    /// What would be in use if everybody could be served, over what may be.
    pub(crate) demand: f64,
    /// For each second, of requests that were finished and that were turned away.
    pub(crate) completed: f64,
    pub(crate) turned_away: f64,
}

#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What is left for statistics, under a lock, and for requests, which take none.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    summary: Mutex<Summary>,
    pressure: AtomicU8,
    limit_bytes: AtomicOption,
    kill_bytes: AtomicOption,
    memory: Number,
    /// The [`Loads`] but for memory, in their order.
    loads: [Number; 4],
}

impl Shown {
    /// As if nothing had been seen so far.
    pub(super) fn forget(&self) {
        self.set_levels(&[]);
        self.change(|summary| *summary = Summary::default());
        self.set_pressure(Pressure::Normal);
        self.set_loads([0.0; 4]);
    }

    /// Its lock is held for a copy alone.
    pub(super) fn summary(&self) -> Summary {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only some of it, for what is known by then.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Summary)) {
        // Who changes it holds what samples act on, so nobody else does meanwhile.
        let mut summary = self.summary();
        change(&mut summary);
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    }

    pub(super) fn pressure(&self) -> Pressure {
        Pressure::from_index(self.pressure.load(Ordering::Relaxed))
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }

    /// Where memory ends, as far as that is known.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        self.limit_bytes.get()
    }

    /// So much never fits below where something is killed.
    pub(crate) fn never_fits(&self, kib: u64) -> bool {
        let kill_bytes = self.kill_bytes.get();
        kill_bytes.is_some_and(|bytes| kib > bytes.div_ceil(1024))
    }

    /// Memory in use, in percent of the limit, at the fullest level.
    pub(super) fn memory_percent(&self) -> f64 {
        self.memory.get() * 100.0
    }

    pub(crate) fn set_levels(&self, levels: &[MemoryLevel]) {
        self.limit_bytes.set(policy::limit_bytes(levels));
        self.kill_bytes.set(policy::kill_bytes(levels));
        self.memory.set(policy::worst_fraction(levels));
    }

    pub(super) fn loads(&self) -> Loads {
        let [utilisation, demand, completed, turned_away] = self.loads.each_ref().map(Number::get);
        Loads {
            memory: self.memory.get(),
            utilisation,
            demand,
            completed,
            turned_away,
        }
    }

    pub(crate) fn set_loads(&self, loads: [f64; 4]) {
        for (number, load) in self.loads.iter().zip(loads) {
            number.set(load);
        }
    }
}
