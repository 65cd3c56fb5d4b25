//! Who tells what the process holds: its allocator, or the kernel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Above this share of the limit, and above so many bytes, what is resident beside what the
/// allocator has from the system counts: threads' stacks take some.
const LEAST_MAPPED: u64 = 8;
const LEAST_MAPPED_BYTES: u64 = 32 << 20;
/// The allocator is not gone by for so long after that was seen last.
const MAPPED_FOR: Duration = Duration::from_secs(30);

static WATCH: Watch = Watch {
    mapped_at_ms: AtomicU64::new(0),
    maps: AtomicBool::new(false),
};

/// Who tells the sum of what all threads hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    /// What is allocated and not freed.
    Allocator,
    /// What is resident and stands in no file: the allocator does not tell, or much is
    /// mapped past it, by an interpreter or for WebAssembly, say.
    Kernel,
    /// What is resident beyond all that the allocator has: beside accounts, which show
    /// the rest.
    BesideAllocator,
}

impl Teller {
    /// At the moment.
    pub(crate) fn now() -> Self {
        match super::ffi::tells() && !is_mapped() {
            true => Teller::Allocator,
            false => Teller::Kernel,
        }
    }

    /// If there is time to ask.
    pub(crate) fn bytes_in_time(self) -> Option<u64> {
        self.told(super::ask::in_time)
    }

    /// Whatever time it takes. It does not cease to tell.
    pub(crate) fn bytes(self) -> i64 {
        self.told(super::ask::anyway).unwrap_or(0) as i64
    }

    fn told(self, ask: impl Fn(fn() -> Option<u64>) -> Option<u64>) -> Option<u64> {
        match self {
            Teller::Allocator => ask(super::ffi::allocated_bytes),
            Teller::Kernel => crate::memory::anonymous_bytes(),
            Teller::BesideAllocator => ask(mapped_bytes),
        }
    }
}

/// Much is mapped past the allocator, or was lately.
pub(crate) fn is_mapped() -> bool {
    WATCH.maps.load(Ordering::Relaxed)
}

/// The allocator tells what there is, or it does not, as of now. So much is known to be
/// allocated.
pub(crate) fn see_mapped(allocated_bytes: u64, limit_bytes: u64) {
    let Some(anonymous_bytes) = crate::memory::anonymous_bytes() else {
        return;
    };
    let most_bytes = anonymous_bytes.saturating_sub(allocated_bytes);
    let mapped_bytes = match is_much(most_bytes, limit_bytes) {
        true => mapped_bytes(),
        false => Some(most_bytes),
    };
    if let Some(mapped_bytes) = mapped_bytes {
        // By the process's clock: each sampler has one of its own.
        WATCH.see(mapped_bytes, limit_bytes, super::ask::now());
    }
}

fn is_much(mapped_bytes: u64, limit_bytes: u64) -> bool {
    mapped_bytes > LEAST_MAPPED_BYTES.max(limit_bytes / LEAST_MAPPED)
}

/// What the allocator has from the system may be resident, allocated or free, and not more.
fn mapped_bytes() -> Option<u64> {
    let obtained_bytes = super::ffi::obtained()?.bytes;
    Some(crate::memory::anonymous_bytes()?.saturating_sub(obtained_bytes))
}

/// Whether much is mapped past the allocator.
#[derive(Default)]
struct Watch {
    mapped_at_ms: AtomicU64,
    maps: AtomicBool,
}

impl Watch {
    fn see(&self, mapped_bytes: u64, limit_bytes: u64, now: Duration) {
        let now_ms = now.as_millis() as u64;
        if is_much(mapped_bytes, limit_bytes) {
            self.mapped_at_ms.store(now_ms, Ordering::Relaxed);
            self.maps.store(true, Ordering::Relaxed);
        } else if self.maps.load(Ordering::Relaxed) {
            let at_ms = self.mapped_at_ms.load(Ordering::Relaxed);
            let is_over = now_ms.saturating_sub(at_ms) >= MAPPED_FOR.as_millis() as u64;
            self.maps.store(!is_over, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_much_is_mapped_the_kernel_tells_for_a_while() {
        let watch = Watch::default();
        let maps = |mapped_mib: u64, limit_mib: u64, seconds: u64| {
            let now = Duration::from_secs(seconds);
            watch.see(mapped_mib << 20, limit_mib << 20, now);
            watch.maps.load(Ordering::Relaxed)
        };
        assert!(!maps(64, 512, 1));
        assert!(maps(65, 512, 2));
        assert!(maps(10, 512, 31));
        assert!(!maps(10, 512, 32));
        // Of a small limit, too, some are stacks and the allocator's own.
        assert!(!maps(32, 100, 33));
        assert!(maps(33, 100, 34));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_is_allocated_is_had_from_the_system() {
        let block = std::hint::black_box(vec![1_u8; 8 << 20]);
        let allocated = crate::memory::release::allocated_bytes();
        assert!(crate::memory::release::ffi::obtained().map(|all| all.bytes) >= allocated);
        drop(block);
    }
}
