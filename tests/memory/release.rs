//! Memory is given back when it is short: by allocators, and by the service's hooks.

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use support::{MIB, eventually, fill, with};
use tower_memory_guard::{
    Detail, MemoryGuardLayer, MemoryLevel, MemorySource, Mode, Pressure, Sample,
};

#[tokio::test]
async fn a_hook_is_told_what_is_wanted_and_its_effect_is_measured() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(10 * MIB));
    let guard = layer.guard().clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, shrinks) = (Arc::clone(&calls), memory.clone());
    guard.on_pressure(Pressure::High, move |context| {
        counted.fetch_add(1, Ordering::Relaxed);
        assert_eq!(context.level(), Pressure::Critical);
        assert_eq!(context.limit_bytes(), Some(1000 * MIB));
        assert!(context.usage_bytes() == 990 * MIB && context.wanted_bytes() > 0);
        shrinks.set_usage_bytes(500 * MIB);
    });
    fill(&guard, &memory, 50);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    fill(&guard, &memory, 99);
    eventually("the hook ran", || guard.stats().released_mib >= 490.0).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(guard.pressure(), Pressure::Normal);
}

struct FullPod;

impl MemorySource for FullPod {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> std::io::Result<()> {
        sample.push(MemoryLevel::new(300 * MIB, None));
        sample.push(MemoryLevel::new(1000 * MIB, Some(1024 * MIB)));
        Ok(())
    }

    fn name(&self) -> String {
        "full pod".into()
    }
}

#[test]
fn a_hook_is_told_what_is_in_use_where_memory_ends_first() {
    let layer = MemoryGuardLayer::builder().memory_source(FullPod).build();
    let guard = layer.unwrap().guard().clone();
    let (tells, told) = channel();
    guard.on_pressure(Pressure::Warning, move |context| {
        let _ = tells.send((context.usage_bytes(), context.limit_bytes()));
    });
    guard.sample_now();
    let told = told.recv_timeout(Duration::from_secs(10));
    assert_eq!(told, Ok((1000 * MIB, Some(1024 * MIB))));
}

#[tokio::test]
async fn a_useless_hook_is_not_called_again_at_once_and_a_panic_in_it_harms_nobody() {
    let (layer, memory) = with(|builder| builder);
    let guard = layer.guard().clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    guard.on_pressure(Pressure::Critical, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::panic::resume_unwind(Box::new("expected"));
    });
    fill(&guard, &memory, 99);
    // Those of other tests may take long.
    eventually("it ran", || calls.load(Ordering::Relaxed) == 1).await;
    for _ in 0..30 {
        fill(&guard, &memory, 99);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let called = Arc::clone(&calls);
    guard.on_pressure(Pressure::Critical, move |_| {
        called.fetch_add(10, Ordering::Relaxed);
    });
    fill(&guard, &memory, 99);
    eventually("the thread lives", || calls.load(Ordering::Relaxed) >= 11).await;
}

#[tokio::test]
async fn a_hook_that_brought_much_is_called_again_however_long_it_took() {
    let (layer, memory) = with(|builder| builder);
    let guard = layer.guard().clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, shrinks) = (Arc::clone(&calls), memory.clone());
    guard.on_pressure(Pressure::Critical, move |_| {
        std::thread::sleep(Duration::from_millis(500));
        shrinks.set_usage_bytes(500 * MIB);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    eventually("it ran twice", || {
        fill(&guard, &memory, 99);
        calls.load(Ordering::Relaxed) == 2
    })
    .await;
}

#[tokio::test]
async fn while_a_hook_takes_long_allocators_are_asked_all_the_same() {
    let (layer, memory) = with(|builder| builder);
    let (calls, called) = channel();
    let (ends, ended) = channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    layer.guard().on_pressure(Pressure::Critical, move |_| {
        let _ = calls.send(());
        // Until the test has ended.
        let _ = ended.lock().unwrap().recv();
    });
    fill(layer.guard(), &memory, 99);
    eventually("it is called", || called.try_recv().is_ok()).await;
    let (other, other_memory) = with(|builder| builder);
    for (guard, memory) in [(layer.guard(), &memory), (other.guard(), &other_memory)] {
        let before = guard.stats().releases;
        let released = || {
            fill(guard, memory, 99);
            guard.stats().releases > before
        };
        eventually("it was trimmed", released).await;
    }
    drop(ends);
}

#[tokio::test]
async fn observing_gives_nothing_back() {
    let (layer, memory) = with(|builder| builder.mode(Mode::Observe));
    let guard = layer.guard().clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    guard.on_pressure(Pressure::Stable, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    fill(&guard, &memory, 99);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        (calls.load(Ordering::Relaxed), guard.stats().releases),
        (0, 0)
    );
}

#[tokio::test]
async fn a_large_request_that_waits_alone_has_memory_given_back() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(10 * MIB));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 80);
    let small = guard.acquire(10 * MIB).await.unwrap();
    fill(&guard, &memory, 81);
    // Room for many of the usual size, and nobody waits.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(guard.stats().releases, 0);
    let mut large = Box::pin(guard.acquire(300 * MIB));
    assert!(support::poll_once(large.as_mut()).is_pending());
    fill(&guard, &memory, 81);
    eventually("it was trimmed", || guard.stats().releases >= 1).await;
    drop((large, small));
    support::assert_empty(&guard);
}

/// What glibc keeps is really given back: of 256 MiB in small blocks, one in 64
/// stays, so that the heap cannot shrink by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn a_fragmented_heap_is_trimmed() {
    let blocks: Vec<Vec<u8>> = (0..8192).map(|_| vec![1; 32 << 10]).collect();
    // Others may have it trimmed as well, at any time.
    let before = support::resident::resident_mib();
    let kept: Vec<Vec<u8>> = blocks.into_iter().step_by(64).collect();
    let (layer, memory) = with(|builder| builder);
    fill(layer.guard(), &memory, 99);
    eventually("it was trimmed", || layer.guard().stats().releases >= 1).await;
    let after = support::resident::resident_mib();
    assert!(
        before > 100 && after + 100 < before,
        "{before} → {after} MiB"
    );
    assert!(layer.guard().stats().longest_release_ms > 0.0);
    drop(kept);
}
