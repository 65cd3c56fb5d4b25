//! Counters of which each thread has a part of its own.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Cache lines of its own, so that threads do not share one.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<const N: usize>([AtomicU64; N]);

/// So many threads have a shard each at a time, the others share one.
pub(crate) const OWNED_SHARDS: usize = 31;

/// So many threads find theirs without a look at whether there are more.
const FIRST: usize = 2;

/// `N` counts from many threads without a shared cache line. A thread has all of its own
/// side by side.
#[derive(Debug, Default)]
pub(crate) struct ShardedCounters<const N: usize> {
    first: [Shard<N>; FIRST],
    /// Those of more threads; made when the first of them counts.
    others: OnceLock<Box<[Shard<N>]>>,
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

/// One for each shard, made when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct ByShard<T> {
    first: [OnceLock<Box<T>>; FIRST],
    others: OnceLock<Box<[OnceLock<Box<T>>]>>,
}

impl<T: Default> ByShard<T> {
    #[inline]
    pub(crate) fn of(&self, shard: usize) -> &T {
        let one = match self.first.get(shard) {
            Some(one) => one,
            None => &self.others()[shard - FIRST],
        };
        one.get_or_init(Box::default)
    }

    #[inline(never)]
    fn others(&self) -> &[OnceLock<Box<T>>] {
        let made = || (FIRST..=OWNED_SHARDS).map(|_| OnceLock::new()).collect();
        self.others.get_or_init(made)
    }

    /// Those that there are, and their shards.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &T)> {
        let others = self.others.get().into_iter().flatten();
        let all = self.first.iter().chain(others).enumerate();
        all.filter_map(|(shard, one)| Some((shard, &**one.get()?)))
    }
}

impl<const N: usize> Default for Shard<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Shard<N> {
    /// For the thread that owns it; what it was.
    #[inline(always)]
    fn add(&self, at: usize, more: u64, order: Ordering) -> u64 {
        // No other thread writes here, so this loses nothing.
        let before = self.0[at].load(Ordering::Relaxed);
        self.0[at].store(before + more, order);
        before
    }
}

impl<const N: usize> ShardedCounters<N> {
    /// Adds to this thread's count number `at`; what it was.
    #[inline]
    pub(crate) fn add_at(&self, at: usize, more: u64) -> u64 {
        self.add_ordered(at, more, Ordering::Relaxed)
    }

    /// Adds one to this thread's count number `at`: who sees it in [`sum`](Self::sum) sees
    /// what was done before it.
    #[inline]
    pub(crate) fn count_done(&self, at: usize) {
        self.add_ordered(at, 1, Ordering::Release);
    }

    #[inline(always)]
    fn add_ordered(&self, at: usize, more: u64, order: Ordering) -> u64 {
        let shard = shard();
        match self.first.get(shard) {
            Some(own) => own.add(at, more, order),
            None => self.add_to_other(shard, at, more, order),
        }
    }

    #[inline(never)]
    fn add_to_other(&self, shard: usize, at: usize, more: u64, order: Ordering) -> u64 {
        let made = || (FIRST..OWNED_SHARDS).map(|_| Shard::default()).collect();
        match self.others.get_or_init(made).get(shard - FIRST) {
            Some(own) => own.add(at, more, order),
            None => self.shared.0[at].fetch_add(more, order),
        }
    }

    fn shards(&self) -> impl Iterator<Item = &Shard<N>> {
        let others = self.others.get().into_iter().flatten();
        self.first.iter().chain(others).chain([&self.shared])
    }

    pub(crate) fn sum(&self, at: usize) -> u64 {
        self.shards()
            .map(|Shard(counts)| counts[at].load(Ordering::Acquire))
            .sum()
    }

    /// Nobody counts any more, or not yet again.
    pub(crate) fn clear(&self) {
        let counts = self.shards().flat_map(|Shard(counts)| counts);
        counts.for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(crate) fn totals(&self) -> [u64; N] {
        self.shards().fold([0; N], |mut totals, Shard(counts)| {
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
