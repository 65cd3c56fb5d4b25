//! [`TrackingAllocator`]: counts, and passes on.

use std::alloc::{GlobalAlloc, Layout, System};

use super::threads;
use crate::running::charge;

/// Smaller allocations are counted before they are made: that leaves nothing to do
/// after them. When so little cannot be had, the process is at its end.
const CERTAIN_BYTES: usize = 64 << 10;

#[inline(always)]
fn count(bytes: i64, allocations: u64) {
    if charge::count(bytes, allocations) {
        flush();
    }
}

#[cold]
#[inline(never)]
fn flush() {
    if charge::flush() {
        threads::at_end();
    }
}

/// Tells the total all that this thread has allocated and freed.
pub(super) fn tell() {
    flush();
    charge::tell_settled();
}

#[inline(never)]
fn count_large(memory: *mut u8, bytes: usize) {
    if !memory.is_null() {
        count(bytes as i64, 1);
    }
}

/// Counts what is allocated.
#[inline(always)]
fn counted(bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    if bytes < CERTAIN_BYTES {
        count(bytes as i64, 1);
        return allocate();
    }
    let memory = allocate();
    count_large(memory, bytes);
    memory
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
        // SAFETY: the caller's promise.
        counted(layout.size(), || unsafe { self.inner.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        counted(layout.size(), || unsafe { self.inner.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as i64), 0);
        // SAFETY: the caller's promise.
        unsafe { self.inner.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let moved = unsafe { self.inner.realloc(memory, layout, new_size) };
        if !moved.is_null() {
            // In one: whoever makes another's memory larger holds what it adds.
            count(new_size as i64 - layout.size() as i64, 1);
        }
        moved
    }
}
