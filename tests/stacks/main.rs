//! Through the servers that services are built on.

mod axum;
mod hyper;
#[path = "../support/mod.rs"]
mod support;
mod tonic;

use support::eventually;
use tower_memory_guard::Guard;

const FRAME: usize = 50 << 20;

async fn active(guard: &Guard, active: u64, waiting: u64) {
    eventually("as many active and waiting", || {
        let stats = guard.stats();
        (stats.active_tasks, stats.waiting_requests) == (active, waiting)
    })
    .await;
}
