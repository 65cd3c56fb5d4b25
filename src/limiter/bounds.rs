//! What may be reserved, and what is asked for.

use std::sync::atomic::{AtomicU32 as SmallCounter, AtomicU64 as Counter, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::checks::Operation;
use super::count::GuardCount;
use super::tenants::{TenantAccount, TenantTable};
use super::word::{Caps, MAX_COUNT};
use crate::class::Priority;
use crate::class::tag::{CRITICAL_KIB, ClassKey, HINT_UNIT_KIB, Tag};
use crate::sync::optional::AtomicOption;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::MAX_KIB;

/// Who has waited for this part of its guard's deadline has aged.
const AGED_AFTER: u64 = 4;

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) kib: u64,
    /// What it is known to need at least: enough to start it when nothing else runs.
    pub(crate) low_kib: u64,
    pub(crate) tag: Tag,
}

impl Ask {
    /// Nothing less than all of it.
    #[inline(always)]
    pub(crate) const fn exactly(kib: u64, tag: Tag) -> Self {
        let low_kib = kib;
        Self { kib, low_kib, tag }
    }
}

/// What a waiter needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// What its guard estimates when its turn comes: estimates are corrected
    /// while it waits.
    Estimated(Tag),
    /// What its guard estimates of whatever comes, as that is not known yet.
    Any,
    /// So much: of what is told what it costs, or for a body alone.
    Known(Ask),
    /// A place among the requests of its guard: another one has the bytes.
    Nested(Tag),
    /// What its guard estimates when its turn comes, beyond the KiB that it has: it was
    /// admitted for its body alone.
    More { tag: Tag, held_kib: u64 },
}

impl Need {
    #[inline(always)]
    pub(crate) fn ask(self, bounds: &Bounds) -> Ask {
        match self {
            Need::Estimated(tag) => bounds.estimate(tag),
            Need::Any => Ask {
                kib: bounds.unknown.critical_kib(),
                low_kib: bounds.unknown.low_kib.load(Ordering::Relaxed).into(),
                tag: Tag::NONE,
            },
            Need::Known(ask) => ask,
            Need::Nested(tag) => Ask::exactly(0, tag),
            Need::More { tag, held_kib } => {
                let whole = bounds.estimate(tag);
                Ask {
                    kib: whole.kib.saturating_sub(held_kib),
                    low_kib: whole.low_kib.saturating_sub(held_kib),
                    tag,
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn tag(self) -> Tag {
        match self {
            Need::Estimated(tag)
            | Need::Known(Ask { tag, .. })
            | Need::Nested(tag)
            | Need::More { tag, .. } => tag,
            Need::Any => Tag::NONE,
        }
    }

    #[inline(always)]
    pub(crate) fn operation(self) -> Operation {
        match self {
            Need::Estimated(_) | Need::Any | Need::Known(_) => Operation::Newcomer,
            Need::Nested(_) => Operation::Nested,
            Need::More { held_kib, .. } => Operation::Rest { held_kib },
        }
    }
}

/// Kinds of which there is an estimate from the beginning: of no class and of the first three.
const FIRST_KINDS: usize = 8;

/// What one guard may reserve; written by its regulator at every sample.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Gate flag, most requests in flight, most KiB reserved.
    caps: AtomicU64,
    /// Above this many reserved KiB an admission refreshes the sample first.
    pub(super) refresh_kib: AtomicU64,
    /// KiB free below the hard limit, for a request that comes when nothing runs.
    free_kib: AtomicU64,
    /// What more is in use than before any request came.
    theirs_kib: AtomicU64,
    /// What requests of each kind are estimated to ask for; of those with a cost hint,
    /// one whose hint is the unit. 0: no such request has been seen. Those of more kinds are
    /// made when the first of them is known.
    estimates: [Estimate; FIRST_KINDS],
    more_estimates: OnceLock<Box<[Estimate]>>,
    /// The same of a kind that was never seen; in the place of critical ones, of whatever comes.
    unknown: Estimate,
    /// KiB that are set aside for critical work; 0: it is not told from other work.
    slice_kib: Counter,
    critical_kib: Counter,
    pub(super) tenants: Arc<TenantTable>,
    /// How many wait for the guard. Written under the queue's lock.
    pub(super) waiting: AtomicUsize,
    /// How many may wait for the guard, and how long at most.
    most_waiting: AtomicUsize,
    patience_ms: Counter,
    /// Once the oldest has waited for so long, the newest goes first.
    pub(super) newest_after_ms: AtomicOption,
    /// Requests that may be admitted past the bounds, to find out whether
    /// memory that looks full really is.
    probes: AtomicU32,
    pub(super) count: GuardCount,
}

#[derive(Debug, Default)]
struct Estimate {
    kib: Counter,
    /// Of critical ones; 4 TiB at most, as for the least.
    critical_kib: SmallCounter,
    low_kib: SmallCounter,
}

impl Bounds {
    pub(crate) fn new(count: GuardCount, tenants: Arc<TenantTable>) -> Self {
        let bounds = Self {
            tenants,
            count,
            most_waiting: AtomicUsize::new(usize::MAX),
            patience_ms: Counter::new(u64::MAX),
            ..Self::default()
        };
        bounds.publish(Caps::new(false, MAX_COUNT, MAX_KIB), MAX_KIB, MAX_KIB);
        bounds
    }

    /// The guard is gone, and another begins with its bounds.
    pub(super) fn forget(&self) {
        self.publish(Caps::new(false, MAX_COUNT, MAX_KIB), MAX_KIB, MAX_KIB);
        self.set_slice(0);
        self.tenants.set_limit(0);
        self.reserve_nothing();
        self.set_probes(0);
        self.tenants.all().for_each(TenantAccount::begin);
    }

    /// Requests are taken to need nothing, whatever they are: 1 KiB is counted for each.
    pub(crate) fn reserve_nothing(&self) {
        self.set_unknown([0, 0], 0);
        let more = self.more_estimates.get().into_iter().flatten();
        for estimate in self.estimates.iter().chain(more) {
            estimate.set([0, 0], 0);
        }
    }

    #[inline]
    pub(crate) fn caps(&self) -> Caps {
        Caps::of(self.caps.load(Ordering::Acquire))
    }

    /// Publishes new bounds. The caller then pumps the queue (under its lock),
    /// which is what makes them visible to everybody who waits.
    pub(crate) fn publish(&self, caps: Caps, refresh_kib: u64, free_kib: u64) {
        self.refresh_kib.store(refresh_kib, Ordering::Relaxed);
        self.free_kib.store(free_kib, Ordering::Relaxed);
        self.caps.store(caps.bits(), Ordering::Release);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The queue's bound.
    pub(crate) fn set_most_waiting(&self, most: usize) {
        self.most_waiting.store(most, Ordering::Relaxed);
    }

    pub(super) fn has_too_many_waiters(&self) -> bool {
        self.waiting() > self.most_waiting.load(Ordering::Relaxed)
    }

    /// How long waiters wait at most, and after how long the newest goes first, if ever.
    pub(crate) fn set_order(&self, patience: Duration, newest_after: Option<Duration>) {
        let ms = |duration: Duration| duration.as_millis() as u64;
        self.patience_ms.store(ms(patience), Ordering::Relaxed);
        self.newest_after_ms.set(newest_after.map(ms));
    }

    /// Who has waited for so long is not only behind others any more.
    pub(crate) fn ages_after_ms(&self) -> u64 {
        self.patience_ms.load(Ordering::Relaxed) / AGED_AFTER
    }

    pub(crate) fn set_slice(&self, slice_kib: u64) {
        self.slice_kib.store(slice_kib, Ordering::Relaxed);
    }

    pub(crate) fn tenants(&self) -> &TenantTable {
        &self.tenants
    }

    #[inline(always)]
    pub(crate) fn estimate(&self, tag: Tag) -> Ask {
        let kind = tag.key.index();
        let Some(estimate) = self.estimates.get(kind).or_else(|| self.more(kind)) else {
            return self.estimate_of_unknown(tag);
        };
        let kib = estimate.kib.load(Ordering::Relaxed);
        if kib == 0 {
            return self.estimate_of_unknown(tag);
        }
        let low_kib = u64::from(estimate.low_kib.load(Ordering::Relaxed));
        let Some(hint_kib) = tag.hint_kib else {
            let kib = match tag.priority {
                Priority::Critical => estimate.critical_kib(),
                _ => kib,
            };
            let low_kib = low_kib.min(kib);
            return Ask { kib, low_kib, tag };
        };
        let scaled = |kib: u64| kib.saturating_mul(u64::from(hint_kib.get())) / HINT_UNIT_KIB;
        Ask {
            kib: scaled(kib).clamp(1, MAX_KIB),
            low_kib: scaled(low_kib).min(MAX_KIB),
            tag,
        }
    }

    #[cold]
    fn estimate_of_unknown(&self, tag: Tag) -> Ask {
        let kib = self.unknown.kib.load(Ordering::Relaxed).max(1);
        let low_kib = u64::from(self.unknown.low_kib.load(Ordering::Relaxed));
        match (tag.hint_kib, tag.priority) {
            (None, Priority::Critical) => Ask {
                kib: kib.min(CRITICAL_KIB),
                low_kib: 0,
                tag,
            },
            (None, _) => Ask { kib, low_kib, tag },
            // Of a guard that is disabled, which reserves nothing.
            (Some(_), _) if self.unknown.kib.load(Ordering::Relaxed) == 0 => Ask::exactly(1, tag),
            (Some(hint_kib), _) => Ask::exactly(hint_kib.get().into(), tag),
        }
    }

    /// What requests of a kind are estimated to ask for, and critical ones of it, at the least
    /// 1 KiB.
    pub(crate) fn set_estimate(&self, key: ClassKey, kib: [u64; 2], low_kib: u64) {
        let made = || {
            (FIRST_KINDS..ClassKey::COUNT)
                .map(|_| Estimate::default())
                .collect()
        };
        let estimate = match self.estimates.get(key.index()) {
            Some(estimate) => estimate,
            None => &self.more_estimates.get_or_init(made)[key.index() - FIRST_KINDS],
        };
        estimate.set(kib, low_kib);
    }

    #[inline(never)]
    fn more(&self, kind: usize) -> Option<&Estimate> {
        self.more_estimates.get()?.get(kind - FIRST_KINDS)
    }

    /// The same of a kind that was never seen, and of whatever comes.
    pub(crate) fn set_unknown(&self, kib: [u64; 2], low_kib: u64) {
        self.unknown.set(kib, low_kib);
    }

    /// KiB that critical work may have whatever else is reserved, beside what is free.
    #[inline]
    pub(super) fn slice_kib(&self, tag: Tag) -> u64 {
        match tag.priority {
            Priority::Critical => self.slice_kib.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Requests hold so much of what is in use, or may.
    pub(crate) fn set_theirs(&self, kib: u64) {
        self.theirs_kib.store(kib, Ordering::Relaxed);
    }

    /// At most, with so much reserved.
    pub(super) fn free_if_all_end(&self, reserved_kib: u64) -> u64 {
        let theirs_kib = self.theirs_kib.load(Ordering::Relaxed);
        self.free_kib() + reserved_kib.max(theirs_kib)
    }

    pub(super) fn free_kib(&self) -> u64 {
        self.free_kib.load(Ordering::Relaxed)
    }

    pub(super) fn critical_kib(&self) -> u64 {
        self.critical_kib.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn add_critical(&self, tag: Tag, kib: u64) {
        if tag.priority == Priority::Critical {
            self.critical_kib.fetch_add(kib, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn take_off_critical(&self, tag: Tag, kib: u64) {
        if tag.priority == Priority::Critical {
            self.critical_kib.fetch_sub(kib, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_probes(&self, probes: u32) {
        self.probes.store(probes, Ordering::Relaxed);
    }

    pub(crate) fn probes(&self) -> u32 {
        self.probes.load(Ordering::Relaxed)
    }

    /// For a request that surely needs no more than what is free below the limit.
    pub(crate) fn take_probe(&self, low_kib: u64) -> bool {
        low_kib <= self.free_kib()
            && self
                .probes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
    }
}

impl Estimate {
    fn critical_kib(&self) -> u64 {
        u64::from(self.critical_kib.load(Ordering::Relaxed)).max(1)
    }

    fn set(&self, [kib, critical_kib]: [u64; 2], low_kib: u64) {
        let small = |kib: u64| kib.min(u32::MAX.into()) as u32;
        self.low_kib.store(small(low_kib), Ordering::Relaxed);
        (self.critical_kib).store(small(critical_kib), Ordering::Relaxed);
        self.kib.store(kib, Ordering::Relaxed);
    }
}
