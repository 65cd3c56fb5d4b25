//! Bytes and counts: who may start, and who waits.
//!
//! A [`Limiter`] belongs to one source of memory and is shared by all guards
//! that watch it. It knows nothing of HTTP, of files or of time. Its hot part,
//! the [`Ledger`](ledger::Ledger), is lock-free; the queue behind it has a
//! lock, taken only by those who wait, by releases while somebody waits, and
//! by the controller after it has published new bounds.
//!
//! Lock rule: no waker is woken, cloned away or dropped, and no user code
//! runs, while the queue is locked. Each operation collects the wakers and
//! acts on them after unlocking.

mod acquire;
mod bounds;
mod ledger;
#[cfg(all(test, memory_guard_loom))]
mod loom_tests;
#[cfg(all(test, not(memory_guard_loom)))]
mod property_tests;
mod queue;
#[cfg(all(test, not(memory_guard_loom)))]
mod tests;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub(crate) use acquire::Ticket;
pub(crate) use bounds::{Ask, Bounds, Need};
pub(crate) use ledger::{MAX_COUNT, MAX_KIB, Mode, Packed, Refused, kib};

use crate::error::Reason;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};
use ledger::Ledger;
use queue::{Queue, Settled};

/// How long a grant may stay unclaimed before it passes on.
const CLAIM_WITHIN: Duration = Duration::from_millis(500);

/// The reservations of one source of memory, and the queue for them.
#[derive(Debug)]
pub(crate) struct Limiter {
    ledger: Ledger,
    waiting: AtomicU32,
    guards: AtomicU32,
    /// 1 while a guard counts its requests in the ledger's word.
    first: AtomicU32,
    queue: Mutex<Queue>,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self {
            ledger: Ledger::new(),
            waiting: AtomicU32::new(0),
            guards: AtomicU32::new(0),
            first: AtomicU32::new(0),
            queue: Mutex::new(Queue::default()),
        }
    }

    /// Bounds for one more guard on this ledger.
    pub(crate) fn join(&self) -> Arc<Bounds> {
        self.guards.fetch_add(1, Ordering::Relaxed);
        let first = self.first.swap(1, Ordering::Relaxed) == 0;
        Arc::new(Bounds::new(first))
    }

    /// A guard is gone, and with it all that it had in flight.
    pub(crate) fn leave(&self, bounds: &Bounds) {
        self.guards.fetch_sub(1, Ordering::Relaxed);
        if bounds.counts_in_word() {
            self.first.store(0, Ordering::Relaxed);
        }
    }

    /// All requests in flight, in all guards, and what they have reserved.
    pub(crate) fn reserved(&self) -> Packed {
        self.ledger.load()
    }

    /// Requests of all guards in flight.
    pub(crate) fn all_in_flight(&self) -> u32 {
        self.ledger.all_in_flight()
    }

    /// Requests of one guard in flight.
    pub(crate) fn in_flight(&self, bounds: &Bounds) -> u32 {
        self.ledger.count(bounds)
    }

    /// How many wait, over all guards.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) as usize
    }

    /// How many wait for one guard.
    pub(crate) fn waiting_for(&self, bounds: &Arc<Bounds>) -> usize {
        if self.guards.load(Ordering::Relaxed) <= 1 {
            return self.waiting();
        }
        lock(&self.queue).waiting_for(bounds)
    }

    /// `Ok(true)` if nothing was in flight before.
    pub(crate) fn try_reserve(
        &self,
        bounds: &Bounds,
        ask: Ask,
        mode: Mode,
    ) -> Result<bool, Refused> {
        debug_assert!(mode != Mode::Waiter, "only the queue admits waiters");
        let reserved = self.ledger.try_reserve(bounds, ask, mode);
        // A guard with a count of its own raised it for a moment; a waiter that
        // was passed over because of that must be looked at again.
        let own_count = !bounds.counts_in_word();
        if own_count && matches!(reserved, Err(Refused::Waiters | Refused::Bytes)) {
            self.pump();
        }
        reserved
    }

    #[inline]
    pub(crate) fn release(&self, bounds: &Bounds, kib: u64) {
        if self.ledger.release(bounds, kib) {
            self.pump();
        }
    }

    /// Gives back what was used. `true` if somebody waits who may need a new
    /// sample to get it.
    #[inline]
    pub(crate) fn finish(&self, bounds: &Bounds, kib: u64) -> bool {
        if !self.ledger.finish(bounds, kib) {
            return false;
        }
        self.pump();
        self.waiting() > 0
    }

    /// KiB that were ever given back after use.
    pub(crate) fn finished_kib(&self) -> u64 {
        self.ledger.finished_kib()
    }

    /// Reserves more for work that is admitted; within the bounds, unless `force`.
    pub(crate) fn grow(&self, bounds: &Bounds, kib: u64, force: bool) -> bool {
        self.ledger.grow(bounds, kib, force)
    }

    /// Lets in everybody who fits, oldest first.
    #[cold]
    pub(crate) fn pump(&self) {
        let mut wake = Vec::new();
        self.pump_locked(&mut lock(&self.queue), &mut wake);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Admits the oldest waiter past the bounds. `false` if nobody waits.
    pub(crate) fn probe_oldest(&self, bounds: &Arc<Bounds>) -> bool {
        let mut queue = lock(&self.queue);
        let oldest = queue
            .waiting
            .iter()
            .find(|(_, waiter)| Arc::ptr_eq(&waiter.bounds, bounds))
            .map(|(&ticket, waiter)| (ticket, waiter.need.ask(bounds)));
        let Some((ticket, ask)) = oldest else {
            return false;
        };
        if self.ledger.try_reserve(bounds, ask, Mode::Force).is_err() {
            return false;
        }
        let waker = queue.grant(ticket, ask.kib);
        self.count_waiting(&queue);
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// Answers all waiters of one guard with `reason`.
    pub(crate) fn refuse_all(&self, bounds: &Arc<Bounds>, reason: Reason) {
        let mut queue = lock(&self.queue);
        let tickets: Vec<u64> = queue
            .waiting
            .iter()
            .filter(|(_, waiter)| Arc::ptr_eq(&waiter.bounds, bounds))
            .map(|(&ticket, _)| ticket)
            .collect();
        let mut wake: Vec<Waker> = tickets
            .into_iter()
            .filter_map(|ticket| queue.settle(ticket, Settled::Refused(reason)))
            .collect();
        self.pump_locked(&mut queue, &mut wake);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Passes on grants that nobody came for: a service that was parked after
    /// it asked keeps its place in the queue, but not the memory.
    pub(crate) fn pass_on_unclaimed(&self, now: Duration) {
        let mut queue = lock(&self.queue);
        let mut late = Vec::new();
        for (&ticket, (bounds, settled)) in &mut queue.settled {
            if let Settled::Granted {
                kib,
                unclaimed_since,
            } = settled
            {
                let since = *unclaimed_since.get_or_insert(now);
                if now.saturating_sub(since) >= CLAIM_WITHIN {
                    late.push((ticket, Arc::clone(bounds), *kib));
                }
            }
        }
        if late.is_empty() {
            return;
        }
        for (ticket, bounds, kib) in late {
            queue.settled.remove(&ticket);
            self.ledger.release(&bounds, kib);
        }
        let mut wake = Vec::new();
        self.pump_locked(&mut queue, &mut wake);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
    }

    /// More than one guard reserves here.
    fn shared(&self) -> bool {
        self.guards.load(Ordering::Relaxed) > 1
    }

    fn pump_locked(&self, queue: &mut Queue, wake: &mut Vec<Waker>) {
        let mut blocked: Vec<*const Bounds> = Vec::new();
        let mut admitted = Vec::new();
        let mut no_bytes = false;
        for (&ticket, waiter) in &queue.waiting {
            let bounds = Arc::as_ptr(&waiter.bounds);
            if blocked.contains(&bounds) {
                continue;
            }
            let ask = waiter.need.ask(&waiter.bounds);
            if no_bytes && ask.kib != 0 {
                continue;
            }
            match self.ledger.try_reserve(&waiter.bounds, ask, Mode::Waiter) {
                Ok(_) => admitted.push((ticket, ask.kib)),
                // Its own guard holds it back: the waiters of others may pass it.
                Err(Refused::Gate | Refused::Count) if self.shared() => blocked.push(bounds),
                // Too large even with nothing in flight: no release can help it.
                Err(Refused::Bytes) if self.ledger.is_idle() => {}
                // Memory holds it back: nobody passes, or large requests would
                // starve. But what has its bytes already does not wait for any.
                Err(_) if self.shared() => no_bytes = true,
                Err(_) => break,
            }
        }
        for (ticket, kib) in admitted {
            wake.extend(queue.grant(ticket, kib));
        }
        self.count_waiting(queue);
    }

    /// Brings the count and the flag in the word in line with the queue.
    fn count_waiting(&self, queue: &Queue) {
        let waiting = u32::try_from(queue.waiting.len()).unwrap_or(u32::MAX);
        let before = self.waiting.swap(waiting, Ordering::Relaxed);
        if waiting == 0 && before != 0 {
            self.ledger.clear_waiters();
        }
    }
}
