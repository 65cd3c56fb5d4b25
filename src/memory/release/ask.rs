//! How much time asking the allocator what it has allocated may take.
//!
//! It looks through all parts of memory that were freed and not used again: a microsecond
//! where there are few of them, and half a millisecond where there are thousands.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Of the time that goes by, of one core.
const SHARE: u64 = 25;
/// And so much at once.
const AT_ONCE: Duration = Duration::from_millis(20);

static BUDGET: Budget = Budget {
    taken_ns: AtomicU64::new(0),
    at_ns: AtomicU64::new(0),
};

/// Relaxed: where two ask at once, the time of one of them may not count.
struct Budget {
    /// What was taken and is not made up for, and when that was so.
    taken_ns: AtomicU64,
    at_ns: AtomicU64,
}

impl Budget {
    fn taken_ns(&self, now: Duration) -> u64 {
        let passed_ns = nanos(now).saturating_sub(self.at_ns.load(Ordering::Relaxed));
        let taken_ns = self.taken_ns.load(Ordering::Relaxed);
        taken_ns.saturating_sub(passed_ns / SHARE)
    }

    fn has_time(&self, now: Duration) -> bool {
        self.taken_ns(now) <= nanos(AT_ONCE)
    }

    /// Asks, and takes the time for which this thread runs: while it waits for somebody who
    /// gives memory back, or for a core, it takes none of others.
    fn ask<T>(&self, ask: impl FnOnce() -> T) -> T {
        let before = crate::memory::run_time();
        let told = ask();
        let took = crate::memory::run_time().saturating_sub(before);
        self.take(now(), took);
        told
    }

    fn take(&self, now: Duration, took: Duration) {
        let taken_ns = self.taken_ns(now) + nanos(took);
        self.taken_ns.store(taken_ns, Ordering::Relaxed);
        self.at_ns.store(nanos(now), Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Time since this was asked first in the process.
pub(super) fn now() -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed()
}

/// There is time to ask.
pub(super) fn has_time() -> bool {
    BUDGET.has_time(now())
}

/// Asks, if there is time.
pub(super) fn in_time(ask: fn() -> Option<u64>) -> Option<u64> {
    has_time().then(|| anyway(ask)).flatten()
}

/// Asks, whether there is time or not: there is less for others then.
pub(super) fn anyway(ask: fn() -> Option<u64>) -> Option<u64> {
    BUDGET.ask(ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_time_is_taken_and_so_much_at_once() {
        let budget = Budget {
            taken_ns: AtomicU64::new(0),
            at_ns: AtomicU64::new(0),
        };
        let (step, second) = (Duration::from_micros(100), Duration::from_secs(1));
        let asks = |from: Duration, took: Duration| {
            let times = (0..10_000).map(|step_number| from + step * step_number);
            let taken = times.filter(|&now| {
                let has_time = budget.has_time(now);
                if has_time {
                    budget.take(now, took);
                }
                has_time
            });
            taken.count() as u32
        };
        // 40 ms in each second, and 20 ms at once.
        let took = Duration::from_micros(50);
        let within = asks(second, took) * took;
        assert!(within.abs_diff(Duration::from_millis(60)) < Duration::from_millis(2));
        let within = asks(second * 2, took) * took;
        assert!(within.abs_diff(Duration::from_millis(40)) < Duration::from_millis(2));
        // Quick ones are always in time.
        assert_eq!(asks(second * 10, Duration::from_micros(2)), 10_000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_asks_takes_the_time_that_it_runs() {
        let budget = Budget {
            taken_ns: AtomicU64::new(0),
            at_ns: AtomicU64::new(0),
        };
        let taken = || Duration::from_nanos(budget.taken_ns.load(Ordering::Relaxed));
        budget.ask(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(taken() < Duration::from_millis(10), "{:?}", taken());
        // Looks through much.
        budget.ask(|| {
            let began = crate::memory::run_time();
            while crate::memory::run_time() < began + Duration::from_millis(20) {}
        });
        assert!(taken() >= Duration::from_millis(19), "{:?}", taken());
    }
}
