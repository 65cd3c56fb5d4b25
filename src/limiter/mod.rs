//! Bytes and counts: who may start, and who waits.
//!
//! A [`Limiter`] belongs to one source of memory and is shared by all guards
//! that watch it. It knows nothing of HTTP, of files or of time. Its hot part,
//! the [`Ledger`](ledger::Ledger), is lock-free; the queue behind it has a
//! lock, taken only by those who wait, by releases while somebody waits, and
//! by the regulator after it has published new bounds.
//!
//! Lock rule: no waker is woken, cloned away or dropped, and no user code
//! runs, while the queue is locked. The queue collects the wakers, and
//! `Limiter::change` wakes them after unlocking.

mod acquire;
#[cfg(all(test, not(memory_guard_loom)))]
mod ageing_tests;
mod bounds;
#[cfg(all(test, not(memory_guard_loom)))]
mod check_tests;
mod checks;
mod count;
#[cfg(all(test, not(memory_guard_loom)))]
mod full_queue_tests;
mod lanes;
mod ledger;
mod list;
#[cfg(all(test, memory_guard_loom))]
mod loom_tests;
#[cfg(all(test, not(memory_guard_loom)))]
mod property_tests;
mod pump;
mod queue;
#[cfg(all(test, not(memory_guard_loom)))]
mod reservation_tests;
#[cfg(all(test, not(memory_guard_loom)))]
mod shared_tests;
#[cfg(all(test, not(memory_guard_loom)))]
mod tenant_tests;
mod tenants;
#[cfg(all(test, not(memory_guard_loom)))]
mod tests;
#[cfg(all(test, not(memory_guard_loom)))]
mod turn_tests;
mod turns;
mod wait;
#[cfg(test)]
mod wait_tests;
mod word;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub(crate) use acquire::Refusal;
pub(crate) use bounds::{Ask, Bounds, Need};
pub(crate) use checks::{Attempt, Operation};
pub(crate) use ledger::{OpenBodies, Refused};
pub(crate) use tenants::{TENANTS, TenantAccount, TenantTable};
pub(crate) use word::{Caps, MAX_COUNT};

use crate::class::tag::Tag;
use crate::error::Reason;
use crate::sync::{AtomicU32, Mutex, Ordering, fence, foreign, lock};
use count::GuardCount;
use lanes::Candidate;
use ledger::{Ledger, Released};
use queue::{Queue, State};

/// How long a grant may stay unclaimed before it passes on.
const CLAIM_WITHIN: Duration = Duration::from_millis(500);

/// The reservations of one source of memory, and the queue for them.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    ledger: Ledger,
    waiting: AtomicU32,
    guards: AtomicU32,
    /// 1 while a guard counts its requests in the ledger's word.
    counts_in_word: AtomicU32,
    queue: Mutex<Queue>,
    /// What those who wait were found to wait for last is bytes.
    lacks_bytes: AtomicBool,
}

impl Deref for Limiter {
    type Target = Ledger;

    /// What its word says, and what is told to it past the queue.
    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl Limiter {
    /// Bounds for one more guard on this ledger.
    pub(crate) fn join(&self, tenants: Arc<TenantTable>) -> Arc<Bounds> {
        self.guards.fetch_add(1, Ordering::Relaxed);
        let count = match self.counts_in_word.swap(1, Ordering::Relaxed) {
            0 => GuardCount::InWord,
            _ => GuardCount::beside(),
        };
        Arc::new(Bounds::new(count, tenants))
    }

    /// A guard has nothing in flight, and is gone or takes nothing more.
    pub(crate) fn leave(&self) {
        self.guards.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nobody asks any more how many a guard has in flight that has left.
    pub(crate) fn retire(&self, bounds: &Bounds) {
        if bounds.count.is_in_word() {
            self.counts_in_word.store(0, Ordering::Relaxed);
        }
    }

    /// Another guard begins with the bounds of one that is gone; `false`: yet another one
    /// has its place by now.
    pub(crate) fn join_again(&self, bounds: &Bounds) -> bool {
        if bounds.count.is_in_word() && self.counts_in_word.swap(1, Ordering::Relaxed) != 0 {
            return false;
        }
        self.guards.fetch_add(1, Ordering::Relaxed);
        bounds.forget();
        true
    }

    /// Nobody is in flight, nor waits: as if nobody had ever done so.
    pub(crate) fn forget(&self) {
        self.ledger.confirm_freed(self.ledger.ended_kib());
        let mut queue = lock(&self.queue);
        (queue.forecast, queue.now_ms) = Default::default();
    }

    /// How many wait, over all guards.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) as usize
    }

    /// `Ok(true)` if nothing was in flight before. Inlined, so that on the fast path, where it
    /// is known what asks, the other questions go away.
    #[inline(always)]
    pub(crate) fn try_reserve(
        &self,
        bounds: &Bounds,
        ask: Ask,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        debug_assert!(
            attempt != Attempt::FromQueue,
            "only the queue admits waiters"
        );
        let reserved = self.ledger.reserve(bounds, ask, operation, attempt);
        if reserved.is_err() {
            self.took_for_a_moment(bounds, ask.tag);
        }
        reserved
    }

    /// A guard with a count of its own raised it for a moment, and so did a tenant's
    /// account; a waiter that was passed over because of that is looked at again.
    #[cold]
    fn took_for_a_moment(&self, bounds: &Bounds, tag: Tag) {
        // SeqCst, as in `pump_locked`: the count is down before it is asked who waits.
        fence(Ordering::SeqCst);
        let of_tenant = bounds.tenants.is_parked(tag.tenant);
        if of_tenant || (!bounds.count.is_in_word() && self.waiting() > 0) {
            self.released(
                bounds,
                tag,
                Released {
                    somebody_waits: true,
                    of_tenant,
                },
            );
        }
    }

    /// Makes a reservation of `held_kib`, made before it was known for what, one for `ask`.
    /// If that does not fit, the reservation is as it was.
    pub(crate) fn retag(
        &self,
        bounds: &Bounds,
        held_kib: u64,
        ask: Ask,
        attempt: Attempt,
    ) -> Result<(), Refused> {
        let retagged = self.ledger.retag(bounds, held_kib, ask, attempt);
        match retagged {
            Ok(true) => self.pump(),
            Ok(false) => {}
            Err(_) => self.took_for_a_moment(bounds, ask.tag),
        }
        retagged.map(drop)
    }

    #[inline]
    pub(crate) fn cancel(&self, bounds: &Bounds, kib: u64, tag: Tag) {
        let released = self.ledger.cancel(bounds, kib, tag);
        if released.somebody_waits {
            self.released(bounds, tag, released);
        }
    }

    /// A request is over whose bytes another guard has.
    pub(crate) fn end_nested(&self, bounds: &Bounds, tag: Tag) {
        let released = self.ledger.end_nested(bounds, tag);
        if released.somebody_waits {
            self.released(bounds, tag, released);
        }
    }

    /// Gives back what was used. `true` if somebody waits for bytes, who may need a new
    /// sample to get them.
    #[inline]
    pub(crate) fn complete(&self, bounds: &Bounds, kib: u64, tag: Tag) -> bool {
        let released = self.ledger.complete(bounds, kib, tag);
        if !released.somebody_waits {
            return false;
        }
        self.released(bounds, tag, released);
        self.waiting() > 0 && self.lacks_bytes.load(Ordering::Relaxed)
    }

    #[cold]
    fn released(&self, bounds: &Bounds, tag: Tag, released: Released) {
        self.change(|queue| {
            queue.account(bounds, tag.tenant);
            if released.of_tenant {
                queue.unpark(bounds, tag.tenant);
            }
            self.pump_locked(queue);
        });
    }

    /// Lets in everybody who fits, in their order.
    #[cold]
    pub(crate) fn pump(&self) {
        self.change(|queue| self.pump_locked(queue));
    }

    /// Locks the queue, and once it is unlocked wakes those of whom something was decided.
    fn change<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = lock(&self.queue);
        let done = act(&mut queue);
        let wakers = std::mem::take(&mut queue.wakers);
        drop(queue);
        wakers.into_iter().for_each(foreign::wake);
        done
    }

    /// Time goes on: a full sample is taken. Measures how long work takes.
    pub(crate) fn tick(&self, now: Duration) {
        let (reserved_kib, ended_kib) = (self.reserved().kib(), self.ended_kib());
        let mut queue = lock(&self.queue);
        queue.pass_time(now);
        let now_ms = queue.now_ms;
        queue.forecast.measure(now_ms, reserved_kib, ended_kib);
    }

    /// What one more waiter may expect to wait. `None` if that is not known.
    pub(crate) fn expected_wait(&self, bounds: &Arc<Bounds>, need: Need) -> Option<Duration> {
        let expected_ms = lock(&self.queue).expected_ms(bounds, need);
        expected_ms.map(Duration::from_millis)
    }

    /// How many of a guard's wait, or were told no or lost a grant that they had not come for,
    /// and have not been polled since; and how many of these are in flight already.
    pub(crate) fn waits(&self, bounds: &Arc<Bounds>) -> (u64, u64) {
        let queue = lock(&self.queue);
        let all = queue.waiters.iter().map(|(_, waiter)| waiter);
        let ungranted = all.filter(|waiter| {
            let is_granted = matches!(waiter.state, State::Granted { .. });
            !is_granted && Arc::ptr_eq(&waiter.bounds, bounds)
        });
        ungranted.fold((0, 0), |(waiting, more), waiter| {
            let needs_more = matches!(waiter.need, Need::More { .. });
            (waiting + 1, more + u64::from(needs_more))
        })
    }

    pub(crate) fn oldest_wait(&self, bounds: &Arc<Bounds>) -> Duration {
        if bounds.waiting() == 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(lock(&self.queue).oldest_wait_ms(bounds))
    }

    /// How far forecasts of waits were off lately, on average, and how many were checked.
    pub(crate) fn wait_errors(&self) -> (Duration, u64) {
        lock(&self.queue).forecast.errors()
    }

    /// Quotas are fractions of this: all are looked at again by the new one.
    pub(crate) fn set_limit(&self, bounds: &Bounds, limit_kib: u64) {
        if bounds.tenants.set_limit(limit_kib) {
            lock(&self.queue).unpark_all();
        }
    }

    /// What the waiter of a guard asks for that is next. `None` if nobody waits for bytes.
    pub(crate) fn next_ask(&self, bounds: &Arc<Bounds>) -> Option<Ask> {
        if self.waiting() == 0 {
            return None;
        }
        let queue = lock(&self.queue);
        let next = queue.next_ask(bounds)?;
        let most_kib = bounds.free_if_all_end(self.ledger.load().kib());
        // Who would not have enough if all ended is passed by those behind it.
        let passes = || queue.oldest_of(bounds, Some(most_kib));
        let behind = (next.low_kib > most_kib).then(passes).flatten();
        Some(behind.map_or(next, |(_, ask)| ask))
    }

    /// Admits the oldest waiter past the bounds, of those that surely need no more
    /// than `most_kib` and do not wait for their tenant; `None`: of all. `false` if no such
    /// one waits.
    pub(crate) fn probe_oldest(&self, bounds: &Arc<Bounds>, most_kib: Option<u64>) -> bool {
        self.change(|queue| {
            let Some((key, ask)) = queue.oldest_of(bounds, most_kib) else {
                return false;
            };
            let probed = self.attempt(queue, key, ask, Attempt::PastBounds);
            if probed.is_ok() {
                let aged = false;
                queue.grant(Candidate { key, aged }, ask.kib);
                self.count_waiting(queue);
            }
            probed.is_ok()
        })
    }

    /// Answers all waiters of one guard with `reason`.
    pub(crate) fn refuse_all(&self, bounds: &Arc<Bounds>, reason: Reason) {
        self.change(|queue| {
            for key in queue.of_guard(bounds) {
                queue.refuse(key, reason);
            }
            self.pump_locked(queue);
        });
    }

    /// Passes on grants that nobody came for: a service that was parked after
    /// it asked keeps its place in the queue, but not the memory.
    pub(crate) fn pass_on_unclaimed(&self, now: Duration) {
        self.change(|queue| {
            let late = queue.unclaimed(now, CLAIM_WITHIN);
            if late.is_empty() {
                return;
            }
            for (bounds, kib, need) in late {
                self.pass_on(queue, &bounds, kib, need);
            }
            self.pump_locked(queue);
        });
    }

    /// More than one guard reserves here.
    pub(crate) fn shared(&self) -> bool {
        self.guards.load(Ordering::Relaxed) > 1
    }
}
