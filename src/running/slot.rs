//! One request's account.

mod growth;
mod holding;
mod jump;
mod life;
mod pauses;

use growth::Gaps;
pub(crate) use growth::IDLE_AFTER;
#[cfg(feature = "account")]
pub(crate) use holding::Elsewhere;
use holding::Holding;
pub(crate) use jump::{Jump, KnownJumps};
pub(super) use jump::{JumpOfKind, Known};
pub(crate) use life::{Fact, Status};
use life::{ForGeneration, Life};

use std::task::Waker;

use crate::class::tag::{ClassKey, HINT_UNIT_KIB, Tag};
use crate::sync::foreign::{self, Code};
use crate::sync::optional::AtomicOption;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicWaker, Ordering};

/// No machine has more memory, and many of them can be added up.
const MOST_REPORTED_BYTES: u64 = 1 << 46;

/// One request in flight.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Slot {
    pub(super) life: Life,
    pub(super) shard: u8,
    pub(super) index: u32,
    /// What is known of the request: its tag's bits.
    tag: AtomicU64,
    /// When it began, by the sampler's last tick.
    began_ms: AtomicU64,
    reserved_kib: AtomicU64,
    held: Holding,
    /// Bytes that the allocator does not see, as the work says.
    reported_bytes: AtomicU64,
    /// Parts of its work that go on without its future.
    elsewhere: AtomicU32,
    peak_bytes: AtomicU64,
    allocations: AtomicU64,
    waker: AtomicWaker,
    /// Where it stands by its priority and its tenant's share, as was said last.
    rank: ForGeneration,
    /// What is to be done with it, as was said last.
    pub(super) turn: ForGeneration,
    /// What it is expected to hold at most.
    need_kib: AtomicOption,
    /// What its next poll may add, as said last.
    jump_kib: AtomicU32,
    /// And what it may need beyond that, at the very worst.
    rest_kib: AtomicOption,
    /// What that poll may add beyond its jump, as one of many has.
    once_kib: AtomicU32,
    /// That is what was reserved: no poll, of it or of its kind, has added anything yet.
    is_guess: AtomicBool,
    /// For long it has not been polled, or added nothing.
    is_idle: AtomicBool,
    /// The most that one poll has added, and how many polls added something.
    largest_kib: AtomicU32,
    grew: AtomicU32,
    /// Of those so many with the brake on.
    timed: AtomicU32,
    /// The most that one has added after the first of them.
    later_kib: AtomicU32,
    /// And of those that began when it seemed to be about to end.
    ending_kib: AtomicOption,
    /// Polls of it that are under way, of those that began with the brake on.
    polls: AtomicU32,
    /// What it held when the poll under way began that began last, in bytes.
    poll_from: AtomicOption,
    /// When it was polled, while the brake was on, and when a poll added something.
    polled: Gaps,
    grown: Gaps,
    /// Its pollers that are paused: one may stay behind its request. Since when, one
    /// millisecond on, or 0, and above that for how long some were before, if it was paused
    /// at all. Both written under the brake's lock.
    pausing: ForGeneration,
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

/// One of the requests that had a slot, for what may outlive it: whatever is done to it is not
/// done to another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRef {
    slot: &'static Slot,
    generation: u32,
}

impl PartialEq for SlotRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.slot, other.slot) && self.generation == other.generation
    }
}

impl SlotRef {
    /// Its slot, whoever has that now.
    pub(crate) fn slot(self) -> &'static Slot {
        self.slot
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    pub(crate) fn is_over(self) -> bool {
        self.slot.generation() != self.generation
    }

    /// That many bytes are no longer the work's.
    pub(crate) fn take_off(self, bytes: usize) {
        self.change(-(bytes as i64));
    }

    /// That many more are the work's, it is found later.
    pub(crate) fn charge(self, bytes: i64) {
        if let Some(held_bytes) = self.change(bytes) {
            self.slot.raise_peak(held_bytes);
        }
    }

    fn change(self, bytes: i64) -> Option<u64> {
        // All of the generation first: the word has only a part.
        let same = !self.is_over();
        same.then(|| self.slot.held.change(self.generation, bytes))?
    }

    /// Asks its work to stop, and has it polled. `false`: it is over, or its response has
    /// begun.
    pub(crate) fn cancel(self) -> bool {
        let in_time = self.slot.life.cancel(self.generation);
        if in_time {
            // Another one that has the slot by now is polled once for nothing.
            self.slot.wake();
        }
        in_time
    }
}

impl Slot {
    pub(super) fn new(shard: usize, index: usize) -> Self {
        Self {
            shard: shard as u8,
            index: index as u32,
            ..Self::default()
        }
    }

    /// A request begins; the slot is taken.
    #[inline]
    pub(super) fn begin(&self, reserved_kib: u64, tag: Tag, now_ms: u64) {
        self.tag.store(tag.bits(), Ordering::Relaxed);
        self.reserved_kib.store(reserved_kib, Ordering::Relaxed);
        self.began_ms.store(now_ms, Ordering::Relaxed);
        self.life.begin();
    }

    /// The request is over. As it was, if no look has found it: then the slot is ready for the
    /// next one. Else what was reserved for it.
    #[inline]
    pub(super) fn end(&self) -> Result<Status, u64> {
        let mut life = self.life.get();
        if life.is(Fact::Watched) {
            drop(self.waker.take());
            life = self.life.get();
        }
        // Before: the look that takes note of it frees the slot.
        let reserved_kib = self.reserved_kib();
        let unseen = self.life.end(life).ok_or(reserved_kib)?;
        self.clear(unseen.next());
        Ok(unseen)
    }

    /// A look has taken note of its end: the slot is ready for the next one.
    pub(super) fn free(&self) {
        self.clear(self.life.free());
    }

    /// Which of the requests that had the slot this is.
    pub(super) fn generation(&self) -> u32 {
        self.life.get().generation()
    }

    /// The request that has the slot now.
    pub(crate) fn request(&'static self) -> SlotRef {
        SlotRef {
            slot: self,
            generation: self.generation(),
        }
    }

    /// Whose it is already: nobody hits it any more who means the one that is over.
    #[inline]
    fn clear(&self, next: Status) {
        self.reserved_kib.store(0, Ordering::Relaxed);
        self.held.clear(next.generation());
        self.reported_bytes.store(0, Ordering::Relaxed);
        self.peak_bytes.store(0, Ordering::Relaxed);
        self.allocations.store(0, Ordering::Relaxed);
        for word in [
            &self.jump_kib,
            &self.once_kib,
            &self.largest_kib,
            &self.grew,
            &self.timed,
            &self.later_kib,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        self.need_kib.set(None);
        self.rest_kib.set(None);
        self.poll_from.set(None);
        self.ending_kib.set(None);
        self.polled.clear();
        self.set_idle(false);
        self.grown.clear();
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

    /// What it does says nothing about others.
    pub(crate) fn says_nothing(&self) -> bool {
        self.life.get().says_nothing()
    }

    pub(super) fn tag(&self) -> Tag {
        Tag::of_bits(self.tag.load(Ordering::Relaxed))
    }

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
        let bytes = held_bytes.saturating_add(self.reported_bytes());
        if bytes > self.peak_bytes.load(Ordering::Relaxed) {
            self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.bytes()
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
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

    /// More is reserved for it.
    pub(crate) fn top_up(&self, kib: u64) {
        self.reserved_kib.fetch_add(kib, Ordering::Relaxed);
    }

    pub(crate) fn reserved_kib(&self) -> u64 {
        self.reserved_kib.load(Ordering::Relaxed)
    }

    /// What it holds; the reservation first, so that it is never seen without.
    pub(super) fn look(&self) -> Holdings {
        Holdings {
            reserved_kib: self.reserved_kib(),
            held_bytes: self.held_bytes().saturating_add(self.reported_bytes()),
            peak_bytes: self.peak_bytes(),
        }
    }

    /// Asked to stop before its response began.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.life.get().is_cancelled()
    }

    /// To be woken when it is cancelled.
    pub(crate) fn register(&self, waker: &Waker) {
        if !self.is(Fact::Watched) {
            self.say(Fact::Watched);
        }
        self.waker.register(waker);
    }

    /// From now on this holds of the request.
    #[inline]
    pub(crate) fn say(&self, fact: Fact) {
        self.life.say(fact);
    }

    /// It holds no more.
    pub(crate) fn unsay(&self, fact: Fact) {
        self.life.unsay(fact);
    }

    #[inline]
    pub(crate) fn is(&self, fact: Fact) -> bool {
        self.life.get().is(fact)
    }

    /// Has the response future polled, if it has been before.
    pub(crate) fn wake(&self) {
        foreign::call(Code::Waker, || self.waker.wake());
    }
}
