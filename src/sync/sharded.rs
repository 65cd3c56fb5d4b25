//! Counters of which each thread has a part of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Cache lines of its own, so that threads do not share one.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<const N: usize>([AtomicU64; N]);

/// So many threads have a shard each at a time, the others share one.
pub(crate) const OWNED_SHARDS: usize = 31;

/// `N` counts from many threads without a shared cache line. A thread has all of its own
/// side by side.
#[derive(Debug)]
pub(crate) struct ShardedCounters<const N: usize> {
    owned: [Shard<N>; OWNED_SHARDS],
    shared: Shard<N>,
}

/// One such count.
pub(crate) type ShardedCounter = ShardedCounters<1>;

/// The shard of a thread that has not counted before.
const NONE: usize = usize::MAX;

/// A bit for each shard that a thread owns.
static OWNED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // Constant and without a destructor: the cheapest to reach, at any time.
    static SHARD: Cell<usize> = const { Cell::new(NONE) };
    static OWNER: Cell<Option<Owner>> = const { Cell::new(None) };
}

/// A thread's right to its shard. When the thread ends, another one may have it.
struct Owner(usize);

impl Drop for Owner {
    fn drop(&mut self) {
        // What this thread counts from here on, it counts with the others.
        SHARD.set(OWNED_SHARDS);
        // Release: the next owner goes on from what was counted.
        OWNED.fetch_and(!(1 << self.0), Ordering::Release);
    }
}

#[cold]
fn choose_shard() -> usize {
    let with_another = |owned: u32| {
        let free = owned.trailing_ones() as usize;
        (free < OWNED_SHARDS).then(|| owned | 1 << free)
    };
    let owned = OWNED.fetch_update(Ordering::Acquire, Ordering::Relaxed, with_another);
    let shard = owned.map_or(OWNED_SHARDS, |owned| owned.trailing_ones() as usize);
    SHARD.set(shard);
    if shard < OWNED_SHARDS {
        // Fails in a thread that ends: then nobody else gets its shard.
        let _ = OWNER.try_with(|owner| owner.set(Some(Owner(shard))));
    }
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

impl<const N: usize> Default for Shard<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Default for ShardedCounters<N> {
    fn default() -> Self {
        Self {
            owned: std::array::from_fn(|_| Shard::default()),
            shared: Shard::default(),
        }
    }
}

impl<const N: usize> ShardedCounters<N> {
    /// Adds to this thread's count number `at`; what it was.
    #[inline]
    pub(crate) fn add_at(&self, at: usize, more: u64) -> u64 {
        match self.owned.get(shard()) {
            // No other thread writes here, so this loses nothing.
            Some(Shard(counts)) => {
                let before = counts[at].load(Ordering::Relaxed);
                counts[at].store(before + more, Ordering::Relaxed);
                before
            }
            None => self.shared.0[at].fetch_add(more, Ordering::Relaxed),
        }
    }

    pub(crate) fn totals(&self) -> [u64; N] {
        let shards = self.owned.iter().chain([&self.shared]);
        shards.fold([0; N], |mut totals, Shard(counts)| {
            for (total, count) in totals.iter_mut().zip(counts) {
                *total += count.load(Ordering::Relaxed);
            }
            totals
        })
    }
}

impl ShardedCounter {
    #[inline]
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Adds to this thread's count.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.add_at(0, more);
    }

    pub(crate) fn total(&self) -> u64 {
        self.totals()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_gone_leave_their_shards_to_others() {
        let of_new_thread = || std::thread::spawn(shard).join().unwrap();
        (0..2 * OWNED_SHARDS).for_each(|_| {
            of_new_thread();
        });
        // Other tests' threads may have all of them for a while.
        assert!((0..10_000).any(|_| of_new_thread() < OWNED_SHARDS));
    }

    #[test]
    fn no_count_is_lost_with_more_threads_than_shards() {
        let counter = ShardedCounter::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * OWNED_SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.total(), 2 * OWNED_SHARDS as u64 * 1000);
    }
}
