//! [`TrackingAllocator`]: counts, and passes on.
//!
//! Each thread counts in cells of its own and settles with the account of the
//! request at hand at the end of its poll, or when 48 KiB have come together,
//! and tells the total what is left when it ends.
//! The cells are constant and need no destructor, so they can be used at any
//! time in a thread's life, also while its other thread-locals are destroyed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use super::threads;
use crate::running::Slot;

/// Settled within a poll when so many bytes have come together.
const SETTLE_BYTES: i64 = 48 << 10;
/// And told to the total when so many have been settled: with what is not settled, a
/// thread that lives has never more than 64 KiB untold.
const TELL_BYTES: i64 = 16 << 10;
/// Stands in the place of nothing pending where whatever comes has to be settled at once.
const AT_ONCE: i64 = 1 << 62;

/// Smaller allocations are counted before they are made: that leaves nothing to do
/// after them. When so little cannot be had, the process is at its end.
const CERTAIN_BYTES: usize = 64 << 10;

/// What all threads have allocated and not freed, as far as they have settled.
static ALLOCATED_BYTES: AtomicI64 = AtomicI64::new(0);

pub(super) struct Local {
    /// Since the last settlement.
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

impl Local {
    #[inline(always)]
    fn allocated(&self, bytes: usize) {
        let pending = self.pending_bytes.get() + bytes as i64;
        self.pending_bytes.set(pending);
        self.allocations.set(self.allocations.get() + 1);
        if is_much(pending) {
            self.settle();
        }
    }

    #[inline(always)]
    fn freed(&self, bytes: usize) {
        let pending = self.pending_bytes.get() - bytes as i64;
        self.pending_bytes.set(pending);
        if is_much(pending) {
            self.settle();
        }
    }

    #[cold]
    #[inline(never)]
    fn settle(&self) {
        let pending = self.pending();
        self.pending_bytes.set(0);
        if self.life.get() == Life::New {
            // First, since what follows may allocate.
            self.life.set(Life::Lives);
            threads::at_end();
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
            return;
        }
        ALLOCATED_BYTES.fetch_add(untold, Ordering::Relaxed);
        self.untold_bytes.set(0);
        if self.life.get() == Life::Ends {
            self.pending_bytes.set(AT_ONCE);
        }
    }

    /// Since the last settlement.
    #[inline]
    fn pending(&self) -> i64 {
        let pending = self.pending_bytes.get();
        match self.life.get() {
            Life::Lives => pending,
            // Between two settlements there is nothing but what marks it.
            Life::New | Life::Ends => pending.wrapping_sub(AT_ONCE),
        }
    }
}

/// Settles, and charges `account` from now on. Returns whose account it was.
#[inline]
pub(super) fn switch(account: Option<&'static Slot>) -> Option<&'static Slot> {
    LOCAL.with(|local| {
        if local.pending() != 0 || local.allocations.get() != 0 {
            local.settle();
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

/// Tells the total all that this thread has allocated and freed.
pub(super) fn tell() {
    LOCAL.with(|local| {
        local.settle();
        let untold = local.untold_bytes.replace(0);
        ALLOCATED_BYTES.fetch_add(untold, Ordering::Relaxed);
    });
}

/// This thread ends: it tells all, and from now on at once.
pub(super) fn ends() {
    tell();
    LOCAL.with(|local| {
        local.life.set(Life::Ends);
        local.pending_bytes.set(AT_ONCE);
    });
}

/// What the process has allocated and not freed; `None` without the allocator.
pub(crate) fn allocated_bytes() -> Option<u64> {
    is_installed().then(|| ALLOCATED_BYTES.load(Ordering::Relaxed).max(0) as u64)
}

/// Whether [`TrackingAllocator`] is the global allocator of this process.
///
/// Found out once, by allocating.
pub fn is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let count = || LOCAL.with(|local| (local.allocations.get(), thread_bytes()));
        let before = count();
        let probe = std::hint::black_box(Box::new(0_u64));
        let installed = count() != before;
        drop(probe);
        installed
    })
}

#[inline(never)]
fn count_large(memory: *mut u8, bytes: usize) {
    if !memory.is_null() {
        LOCAL.with(|local| local.allocated(bytes));
    }
}

/// A global allocator that charges requests for what they allocate, and leaves
/// the work to another one.
///
/// ```
/// use tower_memory_guard::account::TrackingAllocator;
///
/// // Around another allocator: TrackingAllocator::new(tikv_jemallocator::Jemalloc).
/// #[global_allocator]
/// static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

impl TrackingAllocator {
    /// Around the system's allocator.
    pub const fn system() -> Self {
        Self::new(System)
    }
}

impl<A> TrackingAllocator<A> {
    /// Around another allocator.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }

    /// The allocator that does the work.
    pub const fn get_ref(&self) -> &A {
        &self.inner
    }
}

// SAFETY: every call is passed on unchanged to an allocator that keeps the
// contract; counting allocates nothing and cannot panic.
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() < CERTAIN_BYTES {
            LOCAL.with(|local| local.allocated(layout.size()));
            // SAFETY: the caller's promise.
            return unsafe { self.inner.alloc(layout) };
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { self.inner.alloc(layout) };
        count_large(memory, layout.size());
        memory
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < CERTAIN_BYTES {
            LOCAL.with(|local| local.allocated(layout.size()));
            // SAFETY: the caller's promise.
            return unsafe { self.inner.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { self.inner.alloc_zeroed(layout) };
        count_large(memory, layout.size());
        memory
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LOCAL.with(|local| local.freed(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { self.inner.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let moved = unsafe { self.inner.realloc(memory, layout, new_size) };
        if !moved.is_null() {
            LOCAL.with(|local| {
                local.freed(layout.size());
                local.allocated(new_size);
            });
        }
        moved
    }
}
