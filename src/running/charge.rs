//! What threads allocate, and to which slot it is charged.
//!
//! Each thread counts in cells of its own and flushes with the account of the
//! request at hand at the end of its poll, or when 48 KiB have come together,
//! and tells the total what is left when it ends.
//! The cells are constant and need no destructor, so they can be used at any
//! time in a thread's life, also while its other thread-locals are destroyed.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use super::Slot;

/// Settled within a poll when so many bytes have come together.
const SETTLE_BYTES: i64 = 48 << 10;
/// And told to the total when so many have been settled: with what is not settled, a
/// thread that lives has never more than 64 KiB untold.
const TELL_BYTES: i64 = 16 << 10;
/// Stands in the place of nothing pending where whatever comes has to be settled at once.
const AT_ONCE: i64 = 1 << 62;

/// What all threads have allocated and not freed, as far as they have settled.
static ALLOCATED_BYTES: AtomicI64 = AtomicI64::new(0);

struct Local {
    /// Since the last flush.
    pending_bytes: Cell<i64>,
    allocations: Cell<u64>,
    /// Settled with accounts, but not yet with the total.
    untold_bytes: Cell<i64>,
    /// Settled so far, ever.
    settled_bytes: Cell<i64>,
    account: Cell<Option<&'static Slot>>,
    life: Cell<Life>,
}

/// Of a thread that counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It has not counted anything yet.
    New,
    /// It tells what is left when it ends.
    Lives,
    /// It has: what comes now is told at once.
    Ends,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            pending_bytes: Cell::new(AT_ONCE),
            allocations: Cell::new(0),
            untold_bytes: Cell::new(0),
            settled_bytes: Cell::new(0),
            account: Cell::new(None),
            life: Cell::new(Life::New),
        }
    };
}

/// Too much to be pending, in either direction.
#[inline(always)]
fn is_much(pending_bytes: i64) -> bool {
    let above_least = pending_bytes.wrapping_add(SETTLE_BYTES - 1) as u64;
    above_least > 2 * (SETTLE_BYTES - 1) as u64
}

/// This thread has allocated so much more than it freed, in so many allocations. `true`: it has
/// to [`flush`] now.
#[inline(always)]
pub(crate) fn count(bytes: i64, allocations: u64) -> bool {
    LOCAL.with(|local| {
        let pending = local.pending_bytes.get() + bytes;
        local.pending_bytes.set(pending);
        local.allocations.set(local.allocations.get() + allocations);
        is_much(pending)
    })
}

/// Charges what this thread has counted. `true`: it was the thread's first time, and
/// [`ends`] is to be called when it ends.
pub(crate) fn flush() -> bool {
    LOCAL.with(Local::flush)
}

impl Local {
    #[inline(never)]
    fn flush(&self) -> bool {
        let pending = self.pending();
        self.pending_bytes.set(0);
        let is_new = self.life.get() == Life::New;
        if is_new {
            self.life.set(Life::Lives);
        }
        let allocations = self.allocations.replace(0);
        self.settled_bytes
            .set(self.settled_bytes.get().wrapping_add(pending));
        if let Some(account) = self.account.get() {
            account.charge(pending, allocations);
        }
        let untold = self.untold_bytes.get() + pending;
        if untold.abs() < TELL_BYTES && self.life.get() != Life::Ends {
            self.untold_bytes.set(untold);
            return is_new;
        }
        ALLOCATED_BYTES.fetch_add(untold, Ordering::Relaxed);
        self.untold_bytes.set(0);
        if self.life.get() == Life::Ends {
            self.pending_bytes.set(AT_ONCE);
        }
        is_new
    }

    fn tell_settled(&self) {
        let untold = self.untold_bytes.replace(0);
        ALLOCATED_BYTES.fetch_add(untold, Ordering::Relaxed);
    }

    /// Since the last flush.
    #[inline]
    fn pending(&self) -> i64 {
        let pending = self.pending_bytes.get();
        match self.life.get() {
            Life::Lives => pending,
            // Between two flushes there is nothing but what marks it.
            Life::New | Life::Ends => pending.wrapping_sub(AT_ONCE),
        }
    }
}

/// Settles, and charges `account` from now on. Returns whose account it was.
#[inline]
pub(crate) fn switch(account: Option<&'static Slot>) -> Option<&'static Slot> {
    LOCAL.with(|local| {
        if local.pending() != 0 || local.allocations.get() != 0 {
            // Never for the first time: what a new thread counts is settled at once.
            local.flush();
        }
        local.account.replace(account)
    })
}

/// What this thread has allocated and not freed, ever.
pub(crate) fn thread_bytes() -> i64 {
    LOCAL.with(|local| local.settled_bytes.get().wrapping_add(local.pending()))
}

/// This thread's allocations are charged to `account`.
pub(crate) fn charges(account: &Slot) -> bool {
    LOCAL.with(|local| {
        let charged = local.account.get();
        charged.is_some_and(|charged| std::ptr::eq(charged, account))
    })
}

/// Tells the total all that this thread has settled.
pub(crate) fn tell_settled() {
    LOCAL.with(Local::tell_settled);
}

/// This thread ends: it tells all, and from now on at once.
pub(crate) fn ends() {
    LOCAL.with(|local| {
        local.flush();
        local.tell_settled();
        local.life.set(Life::Ends);
        local.pending_bytes.set(AT_ONCE);
    });
}

/// What the process has allocated and not freed; `None` where nobody counts it.
pub(crate) fn allocated_bytes() -> Option<u64> {
    is_counted().then(|| ALLOCATED_BYTES.load(Ordering::Relaxed).max(0) as u64)
}

/// What this process allocates is counted. Found out once, by allocating.
pub(crate) fn is_counted() -> bool {
    static COUNTED: OnceLock<bool> = OnceLock::new();
    *COUNTED.get_or_init(|| {
        let count = || LOCAL.with(|local| (local.allocations.get(), thread_bytes()));
        let before = count();
        let probe = std::hint::black_box(Box::new(0_u64));
        let counted = count() != before;
        drop(probe);
        counted
    })
}
