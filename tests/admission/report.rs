//! Memory that the allocator does not see, as several threads say at once.

use std::sync::Barrier;

use crate::support::{MIB, assert_empty, counting};
use tower_memory_guard::Cost;

#[tokio::test]
async fn what_two_threads_report_at_once_is_reserved_once() {
    let (layer, _) = counting(1);
    let guard = layer.guard();
    for round in 0..2000 {
        let permit = guard.try_acquire(Cost::Bytes(1024)).unwrap();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    permit.report(3 * MIB);
                });
            }
        });
        assert_eq!(guard.stats().reserved_mib, 3.0, "round {round}");
        assert_eq!(permit.bytes(), 3 * MIB);
        drop(permit);
        guard.sample_now();
    }
    assert_empty(guard);
}
