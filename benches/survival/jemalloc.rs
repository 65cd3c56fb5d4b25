//! jemalloc, by the bindings with which the guard has it give memory back.

use std::alloc::{GlobalAlloc, Layout};

use tikv_jemalloc_sys::{MALLOCX_ALIGN, MALLOCX_ZERO, mallocx, rallocx, sdallocx};

pub(crate) struct Jemalloc;

#[allow(unsafe_code)]
// SAFETY: sizes are never 0, and every block is asked for, moved and freed with the
// alignment of its layout.
unsafe impl GlobalAlloc for Jemalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { mallocx(layout.size(), MALLOCX_ALIGN(layout.align())).cast() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let flags = MALLOCX_ALIGN(layout.align()) | MALLOCX_ZERO;
        unsafe { mallocx(layout.size(), flags).cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { sdallocx(block.cast(), layout.size(), MALLOCX_ALIGN(layout.align())) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        unsafe { rallocx(block.cast(), new_bytes, MALLOCX_ALIGN(layout.align())).cast() }
    }
}
