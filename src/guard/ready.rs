//! Services that are ready: what is reserved for calls that may never come.
//!
//! Each such reservation has a cell here, so that it can be taken back from a service that
//! is parked in a pool or a balancer. A thread puts reservations into cells of its own, so
//! that services on different threads share no cache line; whoever calls or drops the
//! service empties the cell, and a look at all of them takes back what is old.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::class::Priority;
use crate::error::Reason;
use crate::limiter::Refusal;
use crate::sync::sharded::{ByShard, OWNED_SHARDS, shard};

const FREE: u64 = 0;
/// Taken back; the service does not know it yet.
const TAKEN: u64 = 1 << 63;
/// A look has found the reservation.
const SEEN: u64 = 1 << 62;

/// What a look has found and the next one finds again is taken back.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// A call that comes later than this after its `poll_ready` asks anew.
const HOLDS_FOR: Duration = Duration::from_secs(1);

/// Chunks of 64, 128, 256 … cells.
const CHUNKS: usize = 14;
const FIRST_CHUNK: usize = 64;

/// There was no room for a call; counted, and said, when it fetches that.
pub(crate) struct Refused {
    refusal: Refusal,
    at: Instant,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal) -> Self {
        let at = Instant::now();
        Self { refusal, at }
    }

    /// It is for a call that comes now. What was found is of normal work: critical work never
    /// waits behind others, and work of high priority finds another queue.
    pub(crate) fn holds_for(&self, priority: Priority) -> bool {
        let of_queue = matches!(self.refusal.reason, Reason::QueueFull | Reason::WaitTooLong);
        let is_meant = match priority {
            Priority::Critical => false,
            Priority::High => !of_queue,
            Priority::Normal | Priority::Low => true,
        };
        is_meant && self.at.elapsed() < HOLDS_FOR
    }

    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal
    }
}

/// One reservation: free, so many KiB, or taken back.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    word: AtomicU64,
}

impl Cell {
    /// The reservation is the caller's again; `false`: it was taken back.
    #[inline]
    pub(crate) fn claim(&self) -> bool {
        // AcqRel: what the caller does with it comes after, and the next user of the cell
        // comes after that.
        self.word.swap(FREE, Ordering::AcqRel) != TAKEN
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.word.load(Ordering::Relaxed) == TAKEN
    }

    fn is_held(&self) -> bool {
        !matches!(self.word.load(Ordering::Relaxed), FREE | TAKEN)
    }

    /// The KiB that are taken back, if a look found them before.
    fn look(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        if word == FREE || word == TAKEN {
            return None;
        }
        // Only looks set the flag, so a word that has it is the reservation that they saw.
        let seen = word & SEEN != 0;
        let next = if seen { TAKEN } else { word | SEEN };
        let moved = self
            .word
            .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed);
        (seen && moved.is_ok()).then_some(word & !SEEN)
    }
}

#[derive(Debug, Default)]
struct Shard {
    chunks: [OnceLock<Box<[Cell]>>; CHUNKS],
    hint: AtomicU32,
}

impl Shard {
    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.chunks.iter().map_while(OnceLock::get).flatten()
    }

    /// Puts a reservation into a free cell. `is_own`: no other thread does.
    #[inline]
    fn put(&self, kib: u64, is_own: bool) -> Option<&Cell> {
        let hint = self.hint.load(Ordering::Relaxed) as usize;
        let first = self.chunks[0].get().and_then(|cells| cells.get(hint));
        match first {
            Some(cell) if try_put(cell, kib, is_own) => Some(cell),
            _ => self.put_elsewhere(kib, is_own),
        }
    }

    #[cold]
    fn put_elsewhere(&self, kib: u64, is_own: bool) -> Option<&Cell> {
        for (at, chunk) in self.chunks.iter().enumerate() {
            let made = || (0..FIRST_CHUNK << at).map(|_| Cell::default()).collect();
            let cells = chunk.get_or_init(made).iter().enumerate();
            let mut free = cells.filter(|(_, cell)| try_put(cell, kib, is_own));
            if let Some((index, cell)) = free.next() {
                self.hint.store(index as u32, Ordering::Relaxed);
                return Some(cell);
            }
        }
        None
    }
}

#[inline]
fn try_put(cell: &Cell, kib: u64, is_own: bool) -> bool {
    if cell.word.load(Ordering::Acquire) != FREE {
        return false;
    }
    if is_own {
        // Nobody else changes a cell that is free.
        cell.word.store(kib, Ordering::Release);
        return true;
    }
    cell.word
        .compare_exchange(FREE, kib, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// Each is made when a service first is ready on its thread.
    shards: ByShard<Shard>,
    looked: Mutex<Option<Duration>>,
}

impl Ready {
    /// Keeps a reservation for a call. `None`: there are too many to be kept track of.
    #[inline]
    pub(crate) fn put(&self, kib: u64) -> Option<&Cell> {
        let number = shard();
        self.shards.of(number).put(kib, number < OWNED_SHARDS)
    }

    /// How many calls have something reserved, and have not come.
    pub(crate) fn count(&self) -> u64 {
        self.cells().filter(|cell| cell.is_held()).count() as u64
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.shards.all().flat_map(|(_, shard)| shard.cells())
    }

    /// Takes back what was reserved long ago: the KiB of each.
    pub(crate) fn take_back(&self, now: Duration) -> Vec<u64> {
        let Ok(mut looked) = self.looked.try_lock() else {
            // Another sample looks.
            return Vec::new();
        };
        if looked.is_some_and(|last| now < last + LOOKS_EVERY) {
            return Vec::new();
        }
        *looked = Some(now);
        self.cells().filter_map(Cell::look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_called_for_late_was_taken_back_and_what_is_called_in_time_was_not() {
        let ready = Ready::default();
        let late = ready.put(7).unwrap();
        assert!(ready.take_back(at(1000)).is_empty());
        let in_time = ready.put(9).unwrap();
        assert!(ready.take_back(at(1400)).is_empty());
        assert_eq!(ready.take_back(at(1600)), [7]);
        assert_eq!(ready.count(), 1);
        assert!(late.is_taken() && !late.claim());
        assert!(in_time.claim());
        // The same cells again: as new.
        let again = ready.put(7).unwrap();
        assert!(ready.take_back(at(3000)).is_empty());
        assert!(ready.take_back(at(3200)).is_empty());
        assert!(again.claim());
        assert_eq!(ready.count(), 0);
    }

    #[test]
    fn whoever_is_faster_has_it() {
        let ready = Ready::default();
        for round in 0..300_u64 {
            let cells: Vec<_> = (0..100).map(|kib| ready.put(kib + 1).unwrap()).collect();
            ready.take_back(at(round * 2000));
            let (taken, claimed) = std::thread::scope(|scope| {
                let taken = scope.spawn(|| ready.take_back(at(round * 2000 + 1000)).len());
                let claimed = cells.iter().filter(|cell| cell.claim()).count();
                (taken.join().unwrap(), claimed)
            });
            assert_eq!(taken + claimed, 100);
            assert_eq!(ready.count(), 0);
        }
    }
}
