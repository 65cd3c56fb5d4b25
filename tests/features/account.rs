//! Requests are charged for what they hold, whichever allocator does the work.

use tower_memory_guard::{Cost, Guard, ManualSource, MemoryGuardLayer};

use crate::{LIMIT, MIB, assert_empty, fill};

/// A request that holds 8 MiB, a part at a time; how much it is said to have held.
async fn work(guard: &Guard) -> u64 {
    let permit = guard.acquire(Cost::Estimated).await.unwrap();
    let measured = permit.clone();
    let grow = async move {
        let mut held = Vec::new();
        for part in 0..16 {
            held.push(vec![1_u8; 500 << 10]);
            held.push(vec![part; 12 << 10]);
            tokio::task::yield_now().await;
        }
        std::hint::black_box(&held);
        measured.peak_bytes()
    };
    permit.follow(grow).await
}

#[tokio::test]
async fn a_storm_is_measured_learned_and_released() {
    let memory = ManualSource::new(LIMIT);
    let builder = MemoryGuardLayer::builder()
        .memory_source(memory.clone())
        .estimated_bytes_per_request(100 * MIB);
    let layer = builder.build().unwrap();
    let guard = layer.guard();
    fill(guard, &memory, 20);
    for _ in 0..20 {
        let peaks = tokio::join!(work(guard), work(guard), work(guard), work(guard));
        for peak in [peaks.0, peaks.1, peaks.2, peaks.3] {
            assert!(peak.abs_diff(8 * MIB) < MIB / 4, "{peak}");
        }
        guard.sample_now();
    }
    guard.sample_now();
    assert_empty(guard);
    let estimate = guard.stats().estimated_mem_per_req_mib;
    assert!((7.0..12.0).contains(&estimate), "{estimate}");
}
