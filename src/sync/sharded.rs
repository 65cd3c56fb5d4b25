//! Counters of which each thread has a part of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A cache line of its own, so that threads do not share one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// The first threads that count have a shard each, the others share one.
pub(crate) const OWNED_SHARDS: usize = 31;

/// Counts from many threads without a shared cache line.
#[derive(Debug, Default)]
pub(crate) struct ShardedCounter {
    owned: [Shard; OWNED_SHARDS],
    shared: Shard,
}

/// The shard of a thread that has not counted before.
const NONE: usize = usize::MAX;

thread_local! {
    // Constant and without a destructor: the cheapest to reach, at any time.
    static SHARD: Cell<usize> = const { Cell::new(NONE) };
}

#[cold]
fn choose_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let shard = NEXT.fetch_add(1, Ordering::Relaxed).min(OWNED_SHARDS);
    SHARD.set(shard);
    shard
}

/// This thread's shard: its own up to [`OWNED_SHARDS`], then one for all others.
#[inline]
pub(crate) fn shard() -> usize {
    match SHARD.get() {
        NONE => choose_shard(),
        shard => shard,
    }
}

impl ShardedCounter {
    #[inline]
    pub(crate) fn increment(&self) -> u64 {
        self.add(1)
    }

    /// Adds to this thread's count; what it was.
    #[inline]
    pub(crate) fn add(&self, more: u64) -> u64 {
        match self.owned.get(shard()) {
            // No other thread writes here, so this loses nothing.
            Some(Shard(count)) => {
                let before = count.load(Ordering::Relaxed);
                count.store(before + more, Ordering::Relaxed);
                before
            }
            None => self.shared.0.fetch_add(more, Ordering::Relaxed),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        let shards = self.owned.iter().chain([&self.shared]);
        shards.map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_lost_with_more_threads_than_shards() {
        let counter = ShardedCounter::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * OWNED_SHARDS {
                scope.spawn(|| {
                    (0..1000).for_each(|_| {
                        counter.increment();
                    })
                });
            }
        });
        assert_eq!(counter.total(), 2 * OWNED_SHARDS as u64 * 1000);
    }
}
