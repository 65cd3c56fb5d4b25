//! The slots of one thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{ByKind, Slot};

/// Slots of one thread, in chunks of 8, 128, 256 …
#[derive(Debug, Default)]
pub(super) struct Shard {
    first: OnceLock<Chunk>,
    more: OnceLock<Box<[OnceLock<Chunk>]>>,
    /// The word in which a slot was taken or freed last.
    hint: AtomicU32,
    /// Those that this thread ended.
    pub(super) finished: OnceLock<ByKind>,
}

const CHUNKS: usize = 15;

/// Of the first chunk's one word so many bits stand for a slot: a guard may serve little.
const FIRST_SLOTS: usize = 8;

#[derive(Debug)]
pub(super) struct Chunk {
    /// A bit for each slot that is free, 64 to a word.
    free: Box<[AtomicU64]>,
    pub(super) slots: Box<[Slot]>,
}

impl Shard {
    /// The slots that are not free, and their places.
    pub(super) fn taken(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.chunks().flat_map(|chunk| {
            chunk.free.iter().enumerate().flat_map(|(word, free)| {
                let slots = chunk.slots.len() - word * 64;
                // Acquire: pairs with whoever took or freed one.
                let mut taken =
                    !free.load(Ordering::Acquire) & u64::MAX >> 64_usize.saturating_sub(slots);
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

    /// Those that there are.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        let more = self.more.get().into_iter().flatten();
        let first = self.first.get().into_iter();
        first.chain(more.map_while(OnceLock::get))
    }

    /// The chunk that holds a word, and the word's place in it: chunk k begins
    /// with word 2^k − 1.
    fn word(&self, word: usize) -> Option<(&Chunk, usize)> {
        let chunk = (word + 1).ilog2() as usize;
        let words = match chunk {
            0 => self.first.get()?,
            _ => self.more.get()?.get(chunk - 1)?.get()?,
        };
        Some((words, word + 1 - (1 << chunk)))
    }

    #[inline]
    pub(super) fn take(&self, number: usize) -> Option<&Slot> {
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

    pub(super) fn free(&self, index: usize) {
        if let Some((chunk, place)) = self.word(index / 64) {
            chunk.free[place].fetch_or(1 << (index % 64), Ordering::Release);
            self.hint.store((index / 64) as u32, Ordering::Relaxed);
        }
    }

    #[cold]
    fn search(&self, number: usize) -> Option<&Slot> {
        let mut word = 0;
        for size in 0..CHUNKS {
            let made = || (1..CHUNKS).map(|_| OnceLock::new()).collect();
            let chunk = match size {
                0 => &self.first,
                _ => &self.more.get_or_init(made)[size - 1],
            };
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
        let (slots, free) = match first {
            0 => (FIRST_SLOTS, (1 << FIRST_SLOTS) - 1),
            _ => (words * 64, u64::MAX),
        };
        Self {
            free: (0..words).map(|_| AtomicU64::new(free)).collect(),
            slots: (first..first + slots)
                .map(|index| Slot::new(shard, index))
                .collect(),
        }
    }
}
