//! Settings and limits that change while requests run and wait.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{LIMIT, assert_empty, counting, eventually, fill, poll_once, with};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory_guard::{
    Class, Config, Detail, Guard, MemoryGuardLayer, MemoryLevel, MemorySource, Mode, Policy,
    Pressure, Priority, Sample, Source,
};

fn change(guard: &Guard, change: impl FnOnce(&mut Config)) {
    let mut config = (*guard.config()).clone();
    change(&mut config);
    guard.reload(config).expect("good settings");
}

#[tokio::test(start_paused = true)]
async fn waiters_keep_their_places_and_profit_at_once() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard().clone();
    let active = guard.acquire(1024).await.unwrap();
    let mut first = Box::pin(guard.acquire(1024));
    let mut second = Box::pin(guard.acquire(1024));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    change(&guard, |config| config.max_concurrent = Some(2));
    assert!(poll_once(second.as_mut()).is_pending());
    let first = first.await.unwrap();
    change(&guard, |config| config.max_concurrent = Some(3));
    let second = second.await.unwrap();
    assert_eq!(guard.stats().active_tasks, 3);
    drop((active, first, second));
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn who_waits_keeps_the_deadline_that_it_came_with() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard().clone();
    let _active = guard.acquire(1024).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut before = Box::pin(guard.acquire(1024));
    assert!(poll_once(before.as_mut()).is_pending());
    change(&guard, |config| {
        config.wait_timeout = Duration::from_secs(1)
    });
    assert!(guard.acquire(1024).await.is_err());
    assert_eq!(began.elapsed().as_secs(), 1);
    assert!(before.await.is_err());
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn thresholds_and_policy_change_with_the_next_sample() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 75);
    assert_eq!(guard.pressure(), Pressure::Warning);
    change(&guard, |config| config.warning_fraction = Some(0.78));
    assert_eq!(guard.pressure(), Pressure::Stable);
    change(&guard, |config| {
        config.policy = Policy::Predictive;
        config.max_concurrent = None;
    });
    assert_eq!(guard.policy(), Policy::Predictive);
    assert_eq!(guard.policy().to_string(), "predictive");
    assert_eq!(guard.stats().current_concurrency, None);
}

#[tokio::test]
async fn the_defaults_are_the_same_however_a_config_is_made() {
    let built = MemoryGuardLayer::builder().build_config().unwrap();
    assert_eq!(Config::default(), built);
    assert_eq!(built.decided_policy(), Policy::Predictive);
    let (layer, memory) = with(|builder| builder);
    let guard = layer.guard().clone();
    assert_eq!(*guard.config(), Config::default());
    fill(&guard, &memory, 92);
    assert_eq!(guard.pressure(), Pressure::Warning);
    guard.reload(Config::default()).unwrap();
    assert_eq!(
        (guard.policy(), guard.pressure()),
        (Policy::Predictive, Pressure::Warning)
    );
}

#[tokio::test]
async fn what_nobody_said_follows_the_policy_that_is_changed() {
    let (layer, memory) = with(|builder| builder.max_concurrent(10));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 88);
    assert_eq!(guard.pressure(), Pressure::Critical, "the ladder's");
    change(&guard, |config| config.max_concurrent = None);
    assert_eq!(guard.pressure(), Pressure::Stable, "predictive's");
    change(&guard, |config| config.warning_fraction = Some(0.75));
    assert_eq!(guard.config().thresholds(), [0.75, 0.80, 0.85]);
    assert_eq!(
        (guard.policy(), guard.pressure()),
        (Policy::Ladder, Pressure::Critical)
    );
}

#[tokio::test]
async fn bad_settings_are_reported_all_at_once_and_change_nothing() {
    let (layer, _memory) = with(|builder| builder.name("renders"));
    let guard = layer.guard().clone();
    let before = guard.config();
    let mut config = (*before).clone();
    config.wait_timeout = Duration::ZERO;
    config.share_fraction = 7.0;
    let report = guard.reload(config).unwrap_err().to_string();
    assert!(
        report.contains("wait_timeout") && report.contains("share"),
        "{report}"
    );
    let mut config = (*before).clone();
    config.name = None;
    config.source = Source::Cgroup;
    config.state = Some("elsewhere.state".into());
    let report = guard.reload(config).unwrap_err().to_string();
    assert!(
        ["name", "source", "state", "at the start"]
            .iter()
            .all(|word| report.contains(word)),
        "{report}"
    );
    assert_eq!(guard.config(), before);
}

#[tokio::test(start_paused = true)]
async fn in_observe_mode_nobody_goes_on_waiting() {
    let (layer, _memory) = counting(1);
    let guard = layer.guard().clone();
    let active = guard.acquire(1024).await.unwrap();
    let mut waiting = Box::pin(guard.acquire(1024));
    assert!(poll_once(waiting.as_mut()).is_pending());
    change(&guard, |config| config.mode = Mode::Observe);
    let admitted = waiting.await.unwrap();
    let observed = guard.acquire(1024).await.unwrap();
    assert_eq!(guard.stats().observed_requests, 1);
    change(&guard, |config| config.mode = Mode::Enforce);
    assert!(guard.try_acquire(1024).is_err());
    drop((active, admitted, observed));
    assert_empty(&guard);
}

#[tokio::test]
async fn a_guard_that_was_switched_off_can_be_switched_on() {
    let (layer, memory) = with(|builder| builder.enabled(false).max_concurrent(1));
    let guard = layer.guard().clone();
    memory.set_usage_bytes(LIMIT);
    drop(guard.try_acquire(1024).unwrap());
    change(&guard, |config| config.enabled = true);
    assert!(guard.try_acquire(1024).is_err());
    change(&guard, |config| config.enabled = false);
    drop(guard.try_acquire(1024).unwrap());
    assert_eq!(guard.stats().observed_requests, 0);
}

#[tokio::test]
async fn a_limit_that_changes_is_followed_and_told() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let mut limits = guard.subscribe_limit();
    assert_eq!(*limits.borrow_and_update(), Some(LIMIT));
    fill(&guard, &memory, 50);
    memory.set_limit_bytes(LIMIT * 2);
    guard.sample_now();
    assert!(limits.has_changed().unwrap());
    assert_eq!(*limits.borrow_and_update(), Some(LIMIT * 2));
    assert_eq!(guard.stats().memory_percent, 25.0);
    guard.sample_now();
    assert!(!limits.has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_lost_while_settings_change_under_load() {
    let (layer, _memory) = counting(2);
    let guard = layer.guard().clone();
    let work = (0..16).map(|_| {
        let guard = guard.clone();
        tokio::spawn(async move {
            for _ in 0..200 {
                let permit = guard.acquire(1024).await.expect("it is never turned away");
                tokio::task::yield_now().await;
                drop(permit);
            }
        })
    });
    let work: Vec<_> = work.collect();
    for round in 0..100 {
        change(&guard, |config| {
            config.max_concurrent = Some(1 + round % 5);
            config.mode = if round % 7 == 0 {
                Mode::Observe
            } else {
                Mode::Enforce
            };
        });
        tokio::task::yield_now().await;
    }
    for task in work {
        task.await.unwrap();
    }
    assert_eq!(guard.stats().completed_requests, 3200);
    assert_empty(&guard);
}

#[tokio::test]
async fn in_observe_mode_a_request_is_counted_once_whatever_is_in_its_way() {
    let (layer, memory) = with(|builder| builder.mode(Mode::Observe));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let low = Class::new("report").priority(Priority::Low);
    drop(guard.acquire_for(&low).await.unwrap());
    assert_eq!(guard.stats().observed_requests, 1);
    let answer = service_fn(|n: u32| async move { Ok::<_, Infallible>(n) });
    let classify = move |_: &u32| low.clone();
    let mut service = layer.classify(classify).into_error_layer().layer(answer);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!(guard.stats().observed_requests, 2);
}

/// Says how often it was read.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicU32>);

impl MemorySource for Counted {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        sample.push(MemoryLevel::new(0, Some(1 << 50)));
        Ok(())
    }

    fn name(&self) -> String {
        "counted".into()
    }
}

#[tokio::test]
async fn a_shorter_interval_does_not_wait_for_the_end_of_the_one_before() {
    let counted = Counted::default();
    let reads = || counted.0.load(Ordering::Relaxed);
    let builder = MemoryGuardLayer::builder().memory_source(counted.clone());
    let layer = builder.check_interval(Duration::from_secs(3600)).build();
    let guard = layer.unwrap().guard().clone();
    eventually("its thread rests", || reads() == 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    change(&guard, |config| {
        config.check_interval = Duration::from_millis(10)
    });
    eventually("it is read again and again", || reads() > 9).await;
}
