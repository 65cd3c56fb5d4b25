//! Of this thread: what it was the first to touch (its minor page faults), and how long it ran.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::machine::page_bytes;

/// Bytes of the pages that this thread was the first to touch, ever. Some 0.3 µs.
/// With transparent huge pages a fault may bring more.
pub(crate) fn touched_bytes() -> i64 {
    let faults = usage().map_or(0, |usage| usage.minor_page_faults());
    faults.wrapping_mul(page_bytes() as i64)
}

/// For how long this thread has run, without what it waited for locks or a core. Some 0.3 µs.
pub(crate) fn run_time() -> Duration {
    usage().map_or(Duration::ZERO, |usage| {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(micros as u64)
    })
}

fn usage() -> Option<Usage> {
    getrusage(UsageWho::RUSAGE_THREAD).ok()
}
