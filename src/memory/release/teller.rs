//! Who tells what the process holds: its allocator, or the kernel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Above this share of the limit, and above so many bytes, what is resident and was never
/// allocated is mapped: threads' stacks and the allocator's own take some.
const LEAST_MAPPED: u64 = 8;
const LEAST_MAPPED_BYTES: u64 = 32 << 20;
/// The allocator is not gone by for so long after that was seen last.
const MAPPED_FOR: Duration = Duration::from_secs(30);

static WATCH: Watch = Watch::new();

/// Who tells the sum of what all threads hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Teller {
    /// What is allocated and not freed.
    #[default]
    Allocator,
    /// What is resident and stands in no file: the allocator does not tell, or much is
    /// mapped past it, by an interpreter or for WebAssembly, say.
    Kernel,
}

impl Teller {
    /// At the moment.
    pub(crate) fn now() -> Self {
        match super::ffi::tells() && !WATCH.maps.load(Ordering::Relaxed) {
            true => Teller::Allocator,
            false => Teller::Kernel,
        }
    }

    /// If there is time to ask.
    pub(crate) fn bytes_in_time(self) -> Option<u64> {
        match self {
            Teller::Allocator => super::ask::in_time(super::ffi::allocated_bytes),
            Teller::Kernel => crate::memory::anonymous_bytes(),
        }
    }

    /// Whatever time it takes. It does not cease to tell.
    pub(crate) fn bytes(self) -> i64 {
        let bytes = match self {
            Teller::Allocator => super::ffi::allocated_bytes(),
            Teller::Kernel => crate::memory::anonymous_bytes(),
        };
        bytes.unwrap_or(0) as i64
    }
}

/// The allocator says that so much is allocated: whether that is what there is.
pub(crate) fn see_allocated(allocated_bytes: u64, limit_bytes: u64, now: Duration) {
    let anonymous_bytes = crate::memory::anonymous_bytes().unwrap_or(0);
    WATCH.see(allocated_bytes, anonymous_bytes, limit_bytes, now);
}

/// What was allocated may be resident when it is free again, but not more.
struct Watch {
    /// The most that ever was.
    most_bytes: AtomicU64,
    mapped_at_ms: AtomicU64,
    maps: AtomicBool,
}

impl Watch {
    const fn new() -> Self {
        Self {
            most_bytes: AtomicU64::new(0),
            mapped_at_ms: AtomicU64::new(0),
            maps: AtomicBool::new(false),
        }
    }

    fn see(&self, allocated_bytes: u64, anonymous_bytes: u64, limit_bytes: u64, now: Duration) {
        let now_ms = now.as_millis() as u64;
        let before_bytes = self
            .most_bytes
            .fetch_max(allocated_bytes, Ordering::Relaxed);
        let most_bytes = before_bytes.max(allocated_bytes);
        let mapped_bytes = anonymous_bytes.saturating_sub(most_bytes);
        if mapped_bytes > LEAST_MAPPED_BYTES.max(limit_bytes / LEAST_MAPPED) {
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
    fn what_was_never_allocated_is_mapped_for_a_while() {
        let watch = Watch::new();
        let maps = |allocated_mib: u64, anonymous_mib: u64, seconds: u64| {
            let (allocated, anonymous) = (allocated_mib << 20, anonymous_mib << 20);
            watch.see(
                allocated,
                anonymous,
                512 << 20,
                Duration::from_secs(seconds),
            );
            watch.maps.load(Ordering::Relaxed)
        };
        assert!(!maps(100, 160, 1));
        assert!(maps(100, 170, 2));
        assert!(maps(100, 110, 31));
        assert!(!maps(100, 110, 32));
        // What the allocator keeps of it is not.
        assert!(!maps(400, 410, 33));
        assert!(!maps(10, 410, 34));
    }
}
