//! Requests in flight: what each holds, one slot per request.
//!
//! Slots live as long as their guard and are used again and again, so that a
//! request allocates nothing. A thread takes slots of its own shard: no other
//! thread writes there while it does, and admissions share no cache line. The
//! controller looks through all slots at each full sample.

mod slot;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use slot::{ABANDONED, ANSWERED, CANCELLED, DECLARED, ENDED, FREE, LEAVING, NEW, SEEN, WATCHED};
pub(crate) use slot::{Held, Slot};

use crate::estimate::bins::{self, BINS};
use crate::stats::{OWNED_SHARDS, shard};

/// Slots of one thread, in chunks of 32, 64, 128 …
#[derive(Debug)]
struct Shard {
    chunks: [OnceLock<Box<[Slot]>>; CHUNKS],
    /// Where to look for a free slot: the one that was freed last.
    hint: AtomicU32,
}

const CHUNKS: usize = 16;
const FIRST_CHUNK: usize = 32;
/// Slots to look at before the shard grows.
const LOOKS: usize = 64;

/// Peaks of requests that no look found in flight, counted by the threads that
/// ended them. Counts only rise; the controller takes differences.
#[derive(Debug)]
struct Finished([AtomicU32; BINS]);

/// The requests of one guard in flight.
#[derive(Debug)]
pub(crate) struct Running {
    shards: Vec<Shard>,
    finished: Vec<OnceLock<Box<Finished>>>,
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
        }
    }

    /// A slot for a request that begins. `None` beyond two million per thread.
    #[inline]
    pub(crate) fn take(&self, reserved_kib: u64, now: Duration) -> Option<&Slot> {
        let now_ms = now.as_millis() as u32;
        let number = shard();
        let shard = &self.shards[number];
        let hint = shard.hint.load(Ordering::Relaxed) as usize;
        if let Some(slot) = shard.slot(hint) {
            if slot.try_take(reserved_kib, now_ms) {
                shard.hint.store(hint as u32 + 1, Ordering::Relaxed);
                return Some(slot);
            }
        }
        shard.search(number, hint, reserved_kib, now_ms)
    }

    /// A request is over.
    #[inline]
    pub(crate) fn end(&self, slot: &Slot) {
        let peak_bytes = slot.peak_bytes();
        let flags = slot.flags.load(Ordering::Relaxed);
        let index = slot.index;
        let hint = &self.shards[usize::from(slot.shard)].hint;
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
            if flags & (CANCELLED | ABANDONED | DECLARED) == 0 && peak_bytes > 0 {
                self.count(peak_bytes);
            }
            slot.free();
            hint.store(index, Ordering::Relaxed);
        } else {
            slot.state.store(ENDED, Ordering::Release);
        }
    }

    /// Frees what was taken for nothing.
    pub(crate) fn give_back(&self, slot: &Slot) {
        slot.abandon();
        self.end(slot);
    }

    fn count(&self, peak_bytes: u64) {
        let number = shard();
        let counts = self.finished[number]
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

    /// How many requests ended unseen so far, by the bin of their peak.
    pub(crate) fn finished(&self, totals: &mut [u32; BINS]) {
        totals.fill(0);
        for finished in self.finished.iter().filter_map(OnceLock::get) {
            for (total, count) in totals.iter_mut().zip(&finished.0) {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
    }

    /// Whom to cancel: the one that holds most beyond what was reserved for it, or
    /// else the youngest; nobody whose response has begun.
    pub(crate) fn victim(&self) -> Option<&Slot> {
        let slots = self.shards.iter().flat_map(Shard::slots);
        let running = slots.filter(|slot| {
            let state = slot.state.load(Ordering::Acquire);
            let in_flight = state == NEW || state == SEEN;
            in_flight && !slot.is(CANCELLED) && !slot.is(ANSWERED) && slot.is(WATCHED)
        });
        running.max_by_key(|slot| {
            let reserved_bytes = slot.reserved_kib() * 1024;
            let beyond_bytes = slot.held_bytes().saturating_sub(reserved_bytes);
            (beyond_bytes, slot.began_ms.load(Ordering::Relaxed))
        })
    }

    /// Looks at every request in flight, and at those that ended since the look
    /// before. Only the controller does, one look at a time.
    pub(crate) fn look(&self, mut visit: impl FnMut(Look<'_>)) {
        for (number, shard) in self.shards.iter().enumerate() {
            for (index, slot) in shard.slots().enumerate() {
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
                    slot.free();
                    shard.hint.store(index as u32, Ordering::Relaxed);
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
    /// Its need was declared, not estimated.
    pub(crate) fn is_declared(&self) -> bool {
        self.slot.is(DECLARED)
    }

    /// It ended before its time.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.slot.is(CANCELLED) || self.slot.is(ABANDONED)
    }
}

impl Shard {
    fn slot(&self, index: usize) -> Option<&Slot> {
        // Chunk k begins at 32·(2^k − 1).
        let chunk = ((index / FIRST_CHUNK) + 1).ilog2() as usize;
        let before = FIRST_CHUNK * ((1 << chunk) - 1);
        self.chunks.get(chunk)?.get()?.get(index - before)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.chunks
            .iter()
            .map_while(OnceLock::get)
            .flat_map(|chunk| chunk.iter())
    }

    #[cold]
    fn search(&self, number: usize, hint: usize, reserved_kib: u64, now_ms: u32) -> Option<&Slot> {
        for index in (hint + 1..).take(LOOKS).chain(0..LOOKS) {
            let Some(slot) = self.slot(index) else {
                continue;
            };
            if slot.try_take(reserved_kib, now_ms) {
                self.hint.store(index as u32 + 1, Ordering::Relaxed);
                return Some(slot);
            }
        }
        // Crowded: one more chunk, of free slots.
        let mut before = 0;
        for (chunk, slots) in self.chunks.iter().enumerate() {
            let length = FIRST_CHUNK << chunk;
            let mut is_new = false;
            let slots = slots.get_or_init(|| {
                is_new = true;
                (before..before + length)
                    .map(|index| Slot::new(number, index))
                    .collect()
            });
            before += length;
            if is_new {
                let slot = slots
                    .iter()
                    .find(|slot| slot.try_take(reserved_kib, now_ms))?;
                self.hint.store(slot.index + 1, Ordering::Relaxed);
                return Some(slot);
            }
        }
        None
    }
}
