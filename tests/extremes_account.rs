//! The same figures where accounts show what requests hold.

use tower_memory_guard::account::TrackingAllocator;

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

#[path = "extremes.rs"]
mod extremes;
