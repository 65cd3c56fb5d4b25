//! What the process has allocated stays right, however many threads come and go.

#[path = "../support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::sync::mpsc::channel;

use support::{MIB, counting};
use tower_memory_guard::account::TrackingAllocator;

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// A piece that a thread leaves behind: less than it would tell of by itself.
const PIECE: usize = 40 << 10;

thread_local! {
    static KEPT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

// One test: they would see each other's memory.
#[tokio::test]
async fn what_threads_leave_behind_or_take_along_is_not_forgotten() {
    let (layer, _) = counting(1);
    let allocated = || (layer.guard().stats().memory_alloc_mib * MIB as f64) as i64;
    let before = allocated();
    let (give, take) = channel();
    let held: Vec<Vec<u8>> = (0..2001)
        .map(|_| std::thread::spawn(|| vec![1_u8; PIECE]).join().unwrap())
        .collect();
    let expected = (held.len() * PIECE) as i64;
    let grown = allocated() - before;
    assert!(
        (grown - expected).abs() < MIB as i64,
        "{grown} of {expected}"
    );
    // And threads that free what others have made.
    let pieces = held.len();
    for piece in held {
        give.send(piece).unwrap();
    }
    for _ in 0..pieces {
        let piece = take.recv().unwrap();
        std::thread::spawn(move || drop(piece)).join().unwrap();
    }
    let left = allocated() - before;
    assert!(left.abs() < MIB as i64, "{left}");
    // And what they free while they end.
    for _ in 0..1001 {
        let thread = std::thread::spawn(|| KEPT.with_borrow_mut(|kept| kept.resize(PIECE, 1)));
        thread.join().unwrap();
    }
    let left = allocated() - before;
    assert!(left.abs() < MIB as i64, "{left}");
}
