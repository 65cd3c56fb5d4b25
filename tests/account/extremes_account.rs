//! The same figures where accounts show what requests hold.

use tower_memory_guard::account::TrackingAllocator;

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

#[path = "../admission/extremes.rs"]
mod extremes;
#[path = "../support/mod.rs"]
mod support;
