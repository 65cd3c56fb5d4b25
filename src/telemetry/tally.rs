//! How many requests of each class and priority were admitted, and turned away; and for
//! how long those of each class were paused.
//!
//! Both are bounded: classes by [`CLASSES`], whatever callers name. Requests that
//! nobody classified are not counted here while they pass; how many there were follows
//! from the totals.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::class::Priority;
use crate::class::tag::{CLASSES, ClassKey, Tag};
use crate::error::Reason;
use crate::sync::sharded::ShardedCounter;

const PRIORITIES: usize = Priority::ALL.len();
const SORTS: usize = CLASSES * PRIORITIES;
/// Of no class, and of normal priority.
const PLAIN: usize = Priority::Normal.place();

/// Counts by class and priority.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By class, then priority; made when the first comes, each with the first of its kind.
    sorts: OnceLock<Box<[OnceLock<Box<Sort>>]>>,
    /// In milliseconds, by class; made when the first was paused.
    paused_ms: OnceLock<Box<[AtomicU64; CLASSES]>>,
}

/// The counts of one class at one priority.
#[derive(Debug, Default)]
struct Sort {
    admitted: ShardedCounter,
    rejected: [AtomicU64; Reason::ALL.len()],
}

/// What one class at one priority has come to.
#[cfg(any(test, feature = "metrics", feature = "dashboard"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The class's number among the guard's names.
    pub(crate) class: u16,
    pub(crate) priority: Priority,
    pub(crate) admitted: u64,
    /// In the order of [`Reason::ALL`].
    pub(crate) rejected: [u64; Reason::ALL.len()],
}

fn sort(tag: Tag) -> usize {
    usize::from(tag.key.class()) * PRIORITIES + tag.priority.place()
}

impl Tally {
    #[inline]
    pub(crate) fn admitted(&self, tag: Tag) {
        if tag.is_classified() {
            self.count_admitted(tag);
        }
    }

    fn count_admitted(&self, tag: Tag) {
        let at = sort(tag);
        if at != PLAIN {
            self.at(at).admitted.increment();
        }
    }

    pub(crate) fn rejected(&self, reason: Reason, tag: Tag) {
        let rejected = &self.at(sort(tag)).rejected[reason as usize];
        rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// As if no request had come so far.
    pub(crate) fn forget(&self) {
        let sorts = self.sorts.get().into_iter().flatten();
        for sort in sorts.filter_map(OnceLock::get) {
            sort.admitted.clear();
            let rejected = sort.rejected.iter();
            rejected.for_each(|count| count.store(0, Ordering::Relaxed));
        }
        for paused_ms in self.paused_ms.get().into_iter().flat_map(|ms| ms.iter()) {
            paused_ms.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn paused(&self, key: ClassKey, ms: u64) {
        let by_class = self
            .paused_ms
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; CLASSES]));
        by_class[usize::from(key.class())].fetch_add(ms, Ordering::Relaxed);
    }

    fn at(&self, sort: usize) -> &Sort {
        let made = || (0..SORTS).map(|_| OnceLock::new()).collect();
        self.sorts.get_or_init(made)[sort].get_or_init(Box::default)
    }
}

/// For whoever asks.
#[cfg(any(test, feature = "metrics", feature = "dashboard"))]
impl Tally {
    /// All counts, plain requests first: of those, as many were admitted as are left
    /// of `all_admitted`.
    pub(crate) fn entries(&self, all_admitted: u64) -> Vec<Entry> {
        let others = (0..SORTS).filter(|&at| at != PLAIN && self.get(at).is_some());
        // What has counted nothing is of a guard that was here before.
        let counted = |entry: &Entry| entry.admitted > 0 || entry.rejected.iter().any(|&n| n > 0);
        let others = others.map(|at| self.entry(at)).filter(counted);
        let mut entries: Vec<_> = std::iter::once(self.entry(PLAIN)).chain(others).collect();
        let classified: u64 = entries[1..].iter().map(|entry| entry.admitted).sum();
        entries[0].admitted = all_admitted.saturating_sub(classified);
        entries
    }

    #[cfg(any(test, feature = "metrics"))]
    pub(crate) fn paused_ms(&self, class: u16) -> u64 {
        let by_class = self.paused_ms.get();
        by_class.map_or(0, |ms| ms[usize::from(class)].load(Ordering::Relaxed))
    }

    fn get(&self, sort: usize) -> Option<&Sort> {
        Some(self.sorts.get()?[sort].get()?)
    }

    fn entry(&self, at: usize) -> Entry {
        let counts = self.get(at);
        let rejected =
            |reason: usize| counts.map_or(0, |sort| sort.rejected[reason].load(Ordering::Relaxed));
        Entry {
            class: (at / PRIORITIES) as u16,
            priority: Priority::ALL[at % PRIORITIES],
            admitted: counts.map_or(0, |sort| sort.admitted.total()),
            rejected: std::array::from_fn(rejected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_classified_is_what_is_left() {
        let tally = Tally::default();
        let report = Tag {
            key: ClassKey::new(2, false),
            priority: Priority::Low,
            ..Tag::NONE
        };
        let sized = Tag {
            key: ClassKey::new(2, true),
            ..report
        };
        let of_a_tenant = Tag::of_tenant(7);
        for tag in [report, report, sized, of_a_tenant, Tag::NONE] {
            tally.admitted(tag);
        }
        tally.rejected(Reason::LowPriority, report);
        tally.rejected(Reason::QueueFull, Tag::NONE);
        let entries = tally.entries(5);
        let counts = entries
            .iter()
            .map(|entry| (entry.class, entry.priority, entry.admitted));
        let expected = [(0, Priority::Normal, 2), (2, Priority::Low, 3)];
        assert_eq!(counts.collect::<Vec<_>>(), expected);
        assert_eq!(entries[0].rejected[Reason::QueueFull as usize], 1);
        assert_eq!(entries[1].rejected[Reason::LowPriority as usize], 1);
    }
}
