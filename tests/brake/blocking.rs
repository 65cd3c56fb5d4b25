//! A process has only so many threads for work that blocks: checkpoints leave half of
//! them. In a program of its own, since they are counted for the process.

#[path = "../support/mod.rs"]
mod support;

use support::{MIB, assert_empty, eventually, fill, with};
use tower_memory_guard::Cost;

#[tokio::test]
async fn checkpoints_leave_half_of_the_threads_to_others() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let mut permits = Vec::new();
    for _ in 0..300 {
        permits.push(guard.acquire(Cost::Estimated).await.unwrap());
    }
    fill(&guard, &memory, 100);
    let work = permits.into_iter().map(|permit| {
        let work = move || permit.checkpoint().map(|()| drop(permit));
        tokio::task::spawn_blocking(work)
    });
    let work: Vec<_> = work.collect();
    eventually("those beyond half of them go on", || {
        let done = work.iter().filter(|one| one.is_finished()).count();
        (done, guard.stats().paused_tasks) == (300 - 256, 256)
    })
    .await;
    // So there is one for whoever needs one.
    tokio::task::spawn_blocking(|| ()).await.unwrap();
    fill(&guard, &memory, 10);
    for one in work {
        one.await.unwrap().unwrap();
    }
    assert_empty(&guard);
}
