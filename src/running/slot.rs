//! One request's account.

mod growth;
mod holding;

pub(crate) use growth::Jump;
pub(super) use growth::JumpOfKind;
pub(crate) use holding::Account;
#[cfg(feature = "account")]
pub(crate) use holding::Elsewhere;
use holding::Holding;

use std::task::Waker;

use crate::class::tag::{ClassKey, HINT_UNIT_KIB, Tag};
use crate::sync::foreign::{self, Code};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicWaker, Ordering};

/// In the place of what must stay free: nobody has said yet.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// No machine has more memory, and many of them can be added up.
const MOST_REPORTED_BYTES: u64 = 1 << 46;

pub(super) const FREE: u8 = 0;
/// Taken, and no look has found it yet.
pub(super) const NEW: u8 = 1;
/// Taken, and known to the regulator.
pub(super) const SEEN: u8 = 2;
/// Over; the regulator has not taken note yet.
pub(super) const ENDED: u8 = 3;
/// Over, and about to be free.
pub(super) const LEAVING: u8 = 4;

/// What is to be done with a request, and what was.
pub(super) const CANCELLED: u64 = 1;
pub(super) const ANSWERED: u64 = 2;
pub(super) const ABANDONED: u64 = 4;
pub(super) const WATCHED: u64 = 8;
pub(super) const DECLARED: u64 = 16;
pub(super) const GROWN: u64 = 32;
pub(super) const STAGED: u64 = 64;
pub(super) const PAUSED: u64 = 128;
pub(super) const CHECKED: u64 = 256;

/// The generation that stands above the flags.
pub(super) fn generation_of(flags: u64) -> u32 {
    (flags >> 32) as u32
}

/// One request in flight.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Slot {
    pub(super) state: AtomicU8,
    /// Its flags, and above them its generation: counts the requests that had the slot, so
    /// that who means one of them does not hit another.
    pub(super) flags: AtomicU64,
    pub(super) shard: u8,
    pub(super) index: u32,
    /// What is known of the request: its tag's bits.
    tag: AtomicU64,
    /// When it began, by the sampler's last tick.
    pub(super) began_ms: AtomicU32,
    reserved_kib: AtomicU64,
    held: Holding,
    /// Bytes that the allocator does not see, as the work says.
    reported_bytes: AtomicU64,
    /// Parts of its work that go on without its future.
    elsewhere: AtomicU32,
    peak_bytes: AtomicU64,
    allocations: AtomicU64,
    pub(super) waker: AtomicWaker,
    /// Where it stands by its priority and its tenant's share, as was said last, and above it
    /// the generation that is meant.
    rank: AtomicU64,
    /// What must stay free of the headroom when it takes some, and above it the generation
    /// that is meant.
    keep: AtomicU64,
    /// What it is expected to hold at most; 0: nobody has said yet.
    need_kib: AtomicU32,
    /// What its next poll may add, as said last.
    jump_kib: AtomicU32,
    /// That is what was reserved: no poll, of it or of its kind, has added anything yet.
    is_guess: AtomicBool,
    /// The most that one poll has added, and how many polls added something.
    largest_kib: AtomicU32,
    grew: AtomicU32,
    /// The most that one has added after the first of them.
    later_kib: AtomicU32,
    /// Polls of it that are under way, of those that began with the brake on.
    polls: AtomicU32,
    /// By the sampler's tick; 0: not while the brake was on.
    polled_ms: AtomicU32,
    /// The longest time between two polls, pauses aside.
    gap_ms: AtomicU32,
    /// When a poll added something, and the longest time between two that did, pauses
    /// aside.
    grew_ms: AtomicU32,
    growth_gap_ms: AtomicU32,
    /// Its pollers that are paused, and above them the generation that is meant: a poller may
    /// stay behind its request. Since when, one millisecond on, or 0, and above that for how
    /// long some were before, if it was paused at all. Both written under the brake's lock.
    pausing: AtomicU64,
    pause_ms: AtomicU64,
    /// For how long it was paused, as its span was told.
    told_ms: AtomicU32,
}

/// What a look at a slot finds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) reserved_kib: u64,
    pub(crate) held_bytes: u64,
    pub(crate) peak_bytes: u64,
}

impl Slot {
    pub(super) fn new(shard: usize, index: usize) -> Self {
        Self {
            state: AtomicU8::new(FREE),
            flags: AtomicU64::new(0),
            shard: shard as u8,
            index: index as u32,
            tag: AtomicU64::new(0),
            began_ms: AtomicU32::new(0),
            reserved_kib: AtomicU64::new(0),
            held: Holding::new(),
            reported_bytes: AtomicU64::new(0),
            elsewhere: AtomicU32::new(0),
            peak_bytes: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            rank: AtomicU64::new(UNKNOWN.into()),
            keep: AtomicU64::new(UNKNOWN.into()),
            need_kib: AtomicU32::new(0),
            jump_kib: AtomicU32::new(0),
            is_guess: AtomicBool::new(false),
            largest_kib: AtomicU32::new(0),
            grew: AtomicU32::new(0),
            later_kib: AtomicU32::new(0),
            polls: AtomicU32::new(0),
            polled_ms: AtomicU32::new(0),
            gap_ms: AtomicU32::new(0),
            grew_ms: AtomicU32::new(0),
            growth_gap_ms: AtomicU32::new(0),
            pausing: AtomicU64::new(0),
            pause_ms: AtomicU64::new(0),
            told_ms: AtomicU32::new(0),
        }
    }

    /// A request begins; the slot is taken.
    #[inline]
    pub(super) fn begin(&self, reserved_kib: u64, tag: Tag, now_ms: u32) {
        self.tag.store(tag.bits(), Ordering::Relaxed);
        self.reserved_kib.store(reserved_kib, Ordering::Relaxed);
        self.began_ms.store(now_ms, Ordering::Relaxed);
        self.state.store(NEW, Ordering::Release);
    }

    /// Makes it ready for the next request.
    pub(super) fn clear(&self) {
        // From here on nobody hits it who means the request that is over.
        let next = self.generation().wrapping_add(1);
        self.flags.swap(u64::from(next) << 32, Ordering::Relaxed);
        self.reserved_kib.store(0, Ordering::Relaxed);
        self.held.clear(next);
        self.reported_bytes.store(0, Ordering::Relaxed);
        self.peak_bytes.store(0, Ordering::Relaxed);
        self.allocations.store(0, Ordering::Relaxed);
        for word in [
            &self.need_kib,
            &self.jump_kib,
            &self.largest_kib,
            &self.grew,
            &self.later_kib,
            &self.polled_ms,
            &self.gap_ms,
            &self.grew_ms,
            &self.growth_gap_ms,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        self.state.store(FREE, Ordering::Release);
    }

    /// Adds to what the work holds. Memory of others that it frees does not
    /// make it hold less than nothing, so it hides no peak to come.
    pub(crate) fn charge(&self, bytes: i64, allocations: u64) {
        if allocations > 0 {
            self.allocations.fetch_add(allocations, Ordering::Relaxed);
        }
        self.raise_peak(self.held.add(bytes));
    }

    /// Sets what the allocator does not see.
    pub(crate) fn report(&self, bytes: u64) {
        let bytes = bytes.min(MOST_REPORTED_BYTES);
        self.reported_bytes.store(bytes, Ordering::Relaxed);
        self.raise_peak(self.held_bytes());
    }

    /// What the allocator does not see, as was said last.
    pub(crate) fn reported_bytes(&self) -> u64 {
        self.reported_bytes.load(Ordering::Relaxed)
    }

    /// What it is.
    pub(super) fn tag(&self) -> Tag {
        Tag::of_bits(self.tag.load(Ordering::Relaxed))
    }

    /// Of which kind it is.
    pub(crate) fn class_key(&self) -> ClassKey {
        self.tag().key
    }

    /// By how much it is larger than a request of its kind whose hint is the unit; 1
    /// without a hint.
    pub(crate) fn scale(&self) -> f64 {
        match self.tag().hint_kib {
            None => 1.0,
            Some(hint_kib) => f64::from(hint_kib.get()) / HINT_UNIT_KIB as f64,
        }
    }

    fn raise_peak(&self, held_bytes: u64) {
        let bytes = held_bytes.saturating_add(self.reported_bytes.load(Ordering::Relaxed));
        if bytes > self.peak_bytes.load(Ordering::Relaxed) {
            self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    #[cfg_attr(not(feature = "account"), allow(dead_code))]
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.bytes()
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// More is reserved for it than was.
    pub(crate) fn grow(&self, kib: u64) {
        self.reserved_kib.fetch_add(kib, Ordering::Relaxed);
        self.flag(GROWN);
    }

    /// At least so much is to be reserved for it: what of that is missing, which the
    /// caller, and nobody else at the same time, has to reserve.
    pub(crate) fn claim_up_to(&self, kib: u64) -> u64 {
        let before = self.reserved_kib.fetch_max(kib, Ordering::Relaxed);
        kib.saturating_sub(before)
    }

    /// It could not be reserved.
    pub(crate) fn unclaim(&self, kib: u64) {
        self.reserved_kib.fetch_sub(kib, Ordering::Relaxed);
    }

    /// What was claimed, beyond what was foreseen, is reserved.
    pub(crate) fn has_grown(&self) {
        self.flag(GROWN);
    }

    /// More is reserved for it, as was foreseen.
    pub(crate) fn top_up(&self, kib: u64) {
        self.reserved_kib.fetch_add(kib, Ordering::Relaxed);
    }

    /// What is reserved for it now.
    pub(crate) fn reserved_kib(&self) -> u64 {
        self.reserved_kib.load(Ordering::Relaxed)
    }

    /// What it holds; the reservation first, so that it is never seen without.
    pub(super) fn look(&self) -> Holdings {
        Holdings {
            reserved_kib: self.reserved_kib(),
            held_bytes: self
                .held_bytes()
                .saturating_add(self.reported_bytes.load(Ordering::Relaxed)),
            peak_bytes: self.peak_bytes(),
        }
    }

    fn flag(&self, flag: u64) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    pub(super) fn is(&self, flag: u64) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    /// Asks the work of one of the requests that had the slot to stop, and has it polled.
    /// `false`: it is over, or its response has begun.
    pub(crate) fn cancel(&self, generation: u32) -> bool {
        let if_in_time = |flags| {
            let in_time = generation_of(flags) == generation && flags & ANSWERED == 0;
            in_time.then_some(flags | CANCELLED)
        };
        let set = self
            .flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, if_in_time);
        if set.is_ok() {
            // Another one that has the slot by now is polled once for nothing.
            self.wake();
        }
        set.is_ok()
    }

    /// Asked to stop before its response began.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags.load(Ordering::Acquire) & (CANCELLED | ANSWERED) == CANCELLED
    }

    /// To be woken when it is cancelled.
    pub(crate) fn register(&self, waker: &Waker) {
        if !self.is(WATCHED) {
            self.flag(WATCHED);
        }
        self.waker.register(waker);
    }

    /// Its response has begun: too late to cancel it.
    pub(crate) fn answered(&self) {
        self.flag(ANSWERED);
    }

    /// Until its body is there, its memory says nothing about others.
    pub(crate) fn stage(&self) {
        self.flag(STAGED);
    }

    /// It comes to a checkpoint, which tells it to stop.
    pub(crate) fn checks(&self) {
        if !self.is(CHECKED) {
            self.flag(CHECKED);
        }
    }

    /// Its work begins.
    pub(crate) fn unstage(&self) {
        self.flags.fetch_and(!STAGED, Ordering::AcqRel);
    }

    pub(crate) fn is_staged(&self) -> bool {
        self.is(STAGED)
    }

    /// Has the response future polled, if it has been before.
    pub(crate) fn wake(&self) {
        foreign::call(Code::Waker, || self.waker.wake());
    }

    /// Its need was declared: it says nothing about others.
    pub(crate) fn declare(&self) {
        self.flag(DECLARED);
    }

    /// It ends before its time, so its peak says little.
    pub(crate) fn abandon(&self) {
        self.flag(ABANDONED);
    }
}
