//! How long the allocator takes to tell what it has allocated.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// It looks through all parts of memory that were freed and not used again. Beyond so long
/// it is not asked at each poll.
const QUICK_NS: f32 = 20_000.0;
/// Then every so many polls it is tried again.
const TRIED_EVERY: u32 = 16;
/// And what the newest answer counts: a slow one, which may have waited for a trim, and a
/// quick one.
const STEP_UP: f32 = 0.1;
const STEP_DOWN: f32 = 0.5;

/// As bits of a float, on average.
static TOOK_NS: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

fn took_ns() -> f32 {
    f32::from_bits(TOOK_NS.load(Ordering::Relaxed))
}

/// It has not taken long lately.
pub(super) fn is_quick() -> bool {
    took_ns() <= QUICK_NS
}

/// Asks, unless it took long.
pub(super) fn quickly(ask: fn() -> Option<u64>) -> Option<u64> {
    let took_ns = took_ns();
    if took_ns > QUICK_NS {
        let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed);
        if skipped % TRIED_EVERY != 0 {
            return None;
        }
    }
    let started = Instant::now();
    let bytes = ask();
    let ns = started.elapsed().as_nanos() as f32;
    // One that was interrupted counts no more than one that is slow.
    let ns = ns.min(QUICK_NS * 2.0);
    let step = if ns > took_ns { STEP_UP } else { STEP_DOWN };
    TOOK_NS.store(
        (took_ns + (ns - took_ns) * step).to_bits(),
        Ordering::Relaxed,
    );
    bytes
}
