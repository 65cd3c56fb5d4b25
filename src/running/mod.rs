//! Requests in flight: what each holds, one slot per request.
//!
//! Slots live as long as their guard and are used again and again, so that a
//! request allocates nothing. A thread takes slots of its own shard: no other
//! thread writes there while it does, and admissions share no cache line. The
//! controller looks through all slots at each full sample.

pub(crate) mod bins;
pub(crate) mod brake;
#[cfg(all(test, not(memory_guard_loom)))]
mod brake_tests;
#[cfg(feature = "account")]
pub(crate) mod charge;
#[cfg(all(test, memory_guard_loom))]
mod loom_tests;
pub(crate) mod order;
mod peaks;
pub(crate) mod place;
mod ranks;
mod slot;
#[cfg(all(test, not(memory_guard_loom)))]
mod tests;
pub(crate) mod victims;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "account")]
pub(crate) use slot::Elsewhere;
use slot::{
    ABANDONED, CANCELLED, DECLARED, ENDED, FREE, GROWN, JumpOfKind, LEAVING, NEW, SEEN, STAGED,
    WATCHED,
};
pub(crate) use slot::{Account, Held, Jump, Slot};

use crate::class::Priority;
use crate::class::tag::{KINDS, Tag};
use crate::sync::sharded::{OWNED_SHARDS, shard};
use bins::BINS;

/// Slots of one thread, in chunks of 64, 128, 256 …
#[derive(Debug)]
struct Shard {
    chunks: [OnceLock<Chunk>; CHUNKS],
    /// The word in which a slot was taken or freed last.
    hint: AtomicU32,
}

const CHUNKS: usize = 15;

#[derive(Debug)]
struct Chunk {
    /// A bit for each slot that is free, 64 to a word.
    free: Box<[AtomicU64]>,
    slots: Box<[Slot]>,
}

/// Peaks of requests that no look found in flight, counted by the threads that
/// ended them. Counts only rise; the controller takes differences.
#[derive(Debug)]
struct Finished([AtomicU32; BINS]);

/// The same, by kind of request.
type ByKind = Box<[OnceLock<Box<Finished>>]>;

/// The requests of one guard in flight.
#[derive(Debug)]
pub(crate) struct Running {
    shards: Vec<Shard>,
    finished: Vec<OnceLock<ByKind>>,
    /// A bit for each kind that had critical requests.
    critical: [AtomicU64; KINDS / 64],
    /// What one poll may add, in KiB, by kind of request; 0: not known.
    jumps: Box<[AtomicU32]>,
    /// And after one that is about as large, one KiB on.
    later_jumps: Box<[AtomicU32]>,
}

impl Running {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            chunks: [const { OnceLock::new() }; CHUNKS],
            hint: AtomicU32::new(0),
        };
        Self {
            shards: (0..=OWNED_SHARDS).map(|_| shard()).collect(),
            finished: (0..=OWNED_SHARDS).map(|_| OnceLock::new()).collect(),
            critical: [const { AtomicU64::new(0) }; KINDS / 64],
            jumps: (0..KINDS).map(|_| AtomicU32::new(0)).collect(),
            later_jumps: (0..KINDS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// A slot for a request that begins. `None` beyond two million per thread.
    #[inline]
    pub(crate) fn take(&self, reserved_kib: u64, tag: Tag, now: Duration) -> Option<&Slot> {
        let number = shard();
        let slot = self.shards[number].take(number)?;
        if tag.priority == Priority::Critical && !self.is_critical(tag.kind) {
            let bit = 1 << (tag.kind % 64);
            self.critical[usize::from(tag.kind) / 64].fetch_or(bit, Ordering::Relaxed);
        }
        slot.begin(reserved_kib, tag, now.as_millis() as u32);
        Some(slot)
    }

    /// Polls of this kind of requests are seen to add so much; and so much after one that
    /// is about as large, if that is known.
    pub(crate) fn set_jump(&self, kind: usize, bytes: f64, later_bytes: Option<f64>) {
        let kib = |bytes: f64| (bytes / 1024.0).max(1.0) as u32;
        self.jumps[kind].store(kib(bytes), Ordering::Relaxed);
        let later_kib = later_bytes.map_or(0, |bytes| kib(bytes).saturating_add(1));
        self.later_jumps[kind].store(later_kib, Ordering::Relaxed);
    }

    /// The most that a poll of any kind of requests is seen to add.
    pub(crate) fn largest_jump_bytes(&self) -> u64 {
        let jumps = self.jumps.iter().map(|kib| kib.load(Ordering::Relaxed));
        u64::from(jumps.max().unwrap_or(0)) << 10
    }

    /// What the next poll of a request may add.
    pub(crate) fn jump_bytes(&self, slot: &Slot) -> u64 {
        let kind = usize::from(slot.kind());
        let known = |kib: &AtomicU32| match kib.load(Ordering::Relaxed) {
            0 => None,
            kib => Some(kib),
        };
        slot.jump_bytes(JumpOfKind {
            largest_kib: known(&self.jumps[kind]),
            later_kib: known(&self.later_jumps[kind]).map(|kib| kib - 1),
        })
    }

    /// Of this kind there were critical requests.
    pub(crate) fn is_critical(&self, kind: u8) -> bool {
        let bits = self.critical[usize::from(kind) / 64].load(Ordering::Relaxed);
        bits & (1 << (kind % 64)) != 0
    }

    /// A request is over.
    #[inline]
    pub(crate) fn end(&self, slot: &Slot) {
        let peak_bytes = slot.peak_bytes();
        let flags = slot.flags.load(Ordering::Relaxed);
        if flags & WATCHED != 0 {
            drop(slot.waker.take());
        }
        // NEW → LEAVING → FREE, unless a look came in between: then SEEN → ENDED,
        // and the controller frees it once it has taken note.
        let unseen = slot
            .state
            .compare_exchange(NEW, LEAVING, Ordering::AcqRel, Ordering::Relaxed);
        if unseen.is_ok() {
            // Work that no account shows would look as if it needed nothing.
            if flags & (CANCELLED | ABANDONED | DECLARED | STAGED) == 0 && peak_bytes > 0 {
                // As it would be with the unit for its hint.
                let unscaled = (peak_bytes as f64 / slot.scale()) as u64;
                self.count(slot.kind(), unscaled);
            }
            self.free(slot);
        } else {
            slot.state.store(ENDED, Ordering::Release);
        }
    }

    fn free(&self, slot: &Slot) {
        slot.clear();
        self.shards[usize::from(slot.shard)].free(slot.index as usize);
    }

    /// Frees what was taken for nothing.
    pub(crate) fn give_back(&self, slot: &Slot) {
        slot.abandon();
        self.end(slot);
    }

    fn count(&self, kind: u8, peak_bytes: u64) {
        let number = shard();
        let by_kind =
            self.finished[number].get_or_init(|| (0..KINDS).map(|_| OnceLock::new()).collect());
        let counts = by_kind[usize::from(kind)]
            .get_or_init(|| Box::new(Finished([const { AtomicU32::new(0) }; BINS])));
        let count = &counts.0[bins::of(peak_bytes)];
        if number < OWNED_SHARDS {
            // No other thread writes here, so this loses nothing.
            let next = count.load(Ordering::Relaxed).wrapping_add(1);
            count.store(next, Ordering::Relaxed);
        } else {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests of one kind ended unseen so far, by the bin of their peak.
    /// `false`: none ever did.
    pub(crate) fn finished(&self, kind: usize, totals: &mut [u32; BINS]) -> bool {
        let by_kind = self.finished.iter().filter_map(OnceLock::get);
        let mut any = false;
        for finished in by_kind.filter_map(|by_kind| by_kind[kind].get()) {
            if !std::mem::replace(&mut any, true) {
                totals.fill(0);
            }
            for (total, count) in totals.iter_mut().zip(&finished.0) {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        any
    }

    /// Looks at every request in flight, and at those that ended since the look
    /// before. Only the controller does, one look at a time.
    pub(crate) fn look<'a>(&'a self, mut visit: impl FnMut(Look<'a>)) {
        for (number, shard) in self.shards.iter().enumerate() {
            for (index, slot) in shard.taken() {
                let state = slot.state.load(Ordering::Acquire);
                if state == FREE || state == LEAVING {
                    continue;
                }
                let is_new = state == NEW
                    && slot
                        .state
                        .compare_exchange(NEW, SEEN, Ordering::AcqRel, Ordering::Acquire)
                        .is_ok();
                if state == NEW && !is_new {
                    // It ended just now.
                    continue;
                }
                let ended = state == ENDED;
                visit(Look {
                    key: (number, index),
                    slot,
                    held: slot.look(),
                    is_new,
                    ended,
                });
                if ended {
                    self.free(slot);
                }
            }
        }
    }
}

/// One request, as a look found it.
pub(crate) struct Look<'a> {
    /// Shard and place, which the next request in this slot will have too.
    pub(crate) key: (usize, usize),
    pub(crate) slot: &'a Slot,
    pub(crate) held: Held,
    /// No look has found it before.
    pub(crate) is_new: bool,
    /// It is over; no look will find it again.
    pub(crate) ended: bool,
}

impl Look<'_> {
    /// The work itself asked for more than was estimated.
    pub(crate) fn has_grown(&self) -> bool {
        self.slot.is(GROWN)
    }

    /// An account shows what it does.
    pub(crate) fn is_visible(&self) -> bool {
        self.held.peak_bytes > 0 || self.slot.allocations() > 0
    }

    /// Its need was declared, not estimated.
    pub(crate) fn is_declared(&self) -> bool {
        self.slot.is(DECLARED)
    }

    /// Its work has not begun: only its body is there.
    pub(crate) fn is_staged(&self) -> bool {
        self.slot.is_staged()
    }

    /// It ended before its time.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.slot.is(CANCELLED) || self.slot.is(ABANDONED)
    }
}

impl Shard {
    /// The slots that are not free, and their places.
    fn taken(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let chunks = self.chunks.iter().map_while(OnceLock::get);
        chunks.flat_map(|chunk| {
            chunk.free.iter().enumerate().flat_map(|(word, free)| {
                // Acquire: pairs with whoever took or freed one.
                let mut taken = !free.load(Ordering::Acquire);
                let places = std::iter::from_fn(move || {
                    let bit = taken.trailing_zeros() as usize;
                    if taken == 0 {
                        return None;
                    }
                    taken &= taken - 1;
                    Some(word * 64 + bit)
                });
                let slots = places.filter_map(|place| chunk.slots.get(place));
                slots.map(|slot| (slot.index as usize, slot))
            })
        })
    }

    /// The chunk that holds a word, and the word's place in it: chunk k begins
    /// with word 2^k − 1.
    fn word(&self, word: usize) -> Option<(&Chunk, usize)> {
        let chunk = (word + 1).ilog2() as usize;
        let chunk_words = self.chunks.get(chunk)?.get()?;
        Some((chunk_words, word + 1 - (1 << chunk)))
    }

    #[inline]
    fn take(&self, number: usize) -> Option<&Slot> {
        let hint = self.hint.load(Ordering::Relaxed) as usize;
        self.take_of(hint).or_else(|| self.search(number))
    }

    /// A free slot of one word.
    #[inline]
    fn take_of(&self, word: usize) -> Option<&Slot> {
        let (chunk, place) = self.word(word)?;
        let free = &chunk.free[place];
        let mut bits = free.load(Ordering::Relaxed);
        while bits != 0 {
            let bit = bits & bits.wrapping_neg();
            // Acquire: pairs with the release of whoever freed it.
            bits = free.fetch_and(!bit, Ordering::Acquire);
            if bits & bit != 0 {
                return chunk.slots.get(place * 64 + bit.trailing_zeros() as usize);
            }
        }
        None
    }

    fn free(&self, index: usize) {
        if let Some((chunk, place)) = self.word(index / 64) {
            chunk.free[place].fetch_or(1 << (index % 64), Ordering::Release);
            self.hint.store((index / 64) as u32, Ordering::Relaxed);
        }
    }

    #[cold]
    fn search(&self, number: usize) -> Option<&Slot> {
        let mut word = 0;
        for (size, chunk) in self.chunks.iter().enumerate() {
            // All that there are are taken: one more chunk.
            chunk.get_or_init(|| Chunk::new(number, word, 1 << size));
            for _ in 0..1 << size {
                if let Some(slot) = self.take_of(word) {
                    self.hint.store(word as u32, Ordering::Relaxed);
                    return Some(slot);
                }
                word += 1;
            }
        }
        None
    }
}

impl Chunk {
    fn new(shard: usize, first_word: usize, words: usize) -> Self {
        let first = first_word * 64;
        Self {
            free: (0..words).map(|_| AtomicU64::new(u64::MAX)).collect(),
            slots: (first..first + words * 64)
                .map(|index| Slot::new(shard, index))
                .collect(),
        }
    }
}
