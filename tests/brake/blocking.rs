//! A process has only so many threads for work that blocks: checkpoints leave half of
//! them. In a program of its own, since they are counted for the process, and so is what
//! threads add.

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Barrier};

use support::{MIB, assert_empty, eventually, fill, with};
use tokio::sync::Mutex;
use tower_memory_guard::{Cost, Permit};

/// One test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn checkpoints_leave_half_of_the_threads_to_others() {
    let _alone = ALONE.lock().await;
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

#[tokio::test]
async fn what_one_of_two_threads_has_added_the_other_one_has_not() {
    let _alone = ALONE.lock().await;
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let permits = [(); 2].map(|()| guard.try_acquire(MIB).unwrap());
    fill(&guard, &memory, 95);
    let both = Arc::new(Barrier::new(2));
    let work = permits.clone().map(|permit| {
        let both = Arc::clone(&both);
        tokio::task::spawn_blocking(move || {
            permit.checkpoint().unwrap();
            both.wait();
            let held = vec![1_u8; 16 * MIB as usize];
            both.wait();
            permit.checkpoint().unwrap();
            held.len()
        })
    });
    eventually("both have come to their second checkpoint", || {
        let done = work.iter().filter(|one| one.is_finished()).count() as u64;
        done + guard.stats().paused_tasks == 2
    })
    .await;
    let charged = permits.each_ref().map(Permit::peak_bytes);
    fill(&guard, &memory, 10);
    for one in work {
        one.await.unwrap();
    }
    let all = charged[0] + charged[1];
    assert!((24 * MIB..40 * MIB).contains(&all), "{charged:?}");
    drop(permits);
    assert_empty(&guard);
}
