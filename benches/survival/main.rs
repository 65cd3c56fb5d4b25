//! What survives: servers behind different guards under the same load, each in a
//! control group of 512 MiB, scored against a scheduler that knows the future.
//!
//! `cargo bench --bench survival -- [--patterns a,b] [--guards x,y] [--seeds N]
//! [--first-seed 1] [--seconds N] [--jobs 1] [--svg DIR] [--cpu-percent N] [--no-kills]
//! [--allocator system|mimalloc|jemalloc]`, the last one with `--features jemalloc`.
//!
//! Every server starts cold: it has seen no request before. `MEMORY_GUARD_*` and
//! `MALLOC_*` variables pass to the servers.
//!
//! An answer is in time within 10 s + 1.2 × the request's own time + 0.2 s. What is
//! answered in time counts as its size × its own time, in percent of what a scheduler
//! could answer that knows every size, counts all of it from admission to the end,
//! admits first come first served, and starts a request within 10 s or not at all.
//!
//! Linux only, and needs root: it makes control groups.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use tower_memory_guard::account::TrackingAllocator;

#[cfg(target_os = "linux")]
#[path = "allocator.rs"]
mod allocator;
#[cfg(target_os = "linux")]
#[path = "bench.rs"]
mod bench;

#[cfg(target_os = "linux")]
use self::allocator::Plain;
#[cfg(not(target_os = "linux"))]
use std::alloc::System as Plain;

#[global_allocator]
static ALLOCATOR: Switch<Plain, TrackingAllocator<Plain>> = Switch {
    plain: Plain,
    accounted: TrackingAllocator::new(Plain),
};

/// Whether allocations go through the accounting allocator: set once, by a server
/// whose guard wants it, before it starts a thread.
static ACCOUNTED: AtomicBool = AtomicBool::new(false);

/// One binary holds all servers, but only one of them may pay for accounting.
struct Switch<P, A> {
    plain: P,
    accounted: A,
}

#[allow(unsafe_code)]
// SAFETY: both allocators take each other's blocks, so a block may be freed on the
// other side of the switch.
unsafe impl<P: GlobalAlloc, A: GlobalAlloc> GlobalAlloc for Switch<P, A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ACCOUNTED.load(Ordering::Relaxed) {
            unsafe { self.accounted.alloc(layout) }
        } else {
            unsafe { self.plain.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if ACCOUNTED.load(Ordering::Relaxed) {
            unsafe { self.accounted.alloc_zeroed(layout) }
        } else {
            unsafe { self.plain.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if ACCOUNTED.load(Ordering::Relaxed) {
            unsafe { self.accounted.dealloc(block, layout) }
        } else {
            unsafe { self.plain.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        if ACCOUNTED.load(Ordering::Relaxed) {
            unsafe { self.accounted.realloc(block, layout, new_bytes) }
        } else {
            unsafe { self.plain.realloc(block, layout, new_bytes) }
        }
    }
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    bench::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ACCOUNTED.store(false, Ordering::Relaxed);
    eprintln!("survival: needs control groups, which only Linux has");
    ExitCode::FAILURE
}
