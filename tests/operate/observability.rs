//! Statistics and metrics, by the names that operators know.

use std::collections::BTreeMap;

use std::time::Duration;

use crate::support::{self, LIMIT, MIB, Shared, counting, eventually, fill, with};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_memory_guard::{Class, ManualSource, MemoryGuardLayer, Pressure, Priority};

#[tokio::test]
async fn stats_serialise_with_the_published_keys() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let _active = guard.try_acquire(1024).unwrap();
    fill(&guard, &memory, 90);
    assert!(guard.try_acquire(1024).is_err());
    drop(guard.try_acquire(1024));
    let stats = serde_json::to_value(guard.stats()).unwrap();
    assert_eq!(stats["total_requests"], 3);
    assert_eq!(stats["rejected_requests"], 2);
    assert_eq!(stats["completed_requests"], 0);
    assert_eq!(stats["active_tasks"], 1);
    assert_eq!(stats["current_concurrency"], 1);
    assert_eq!(stats["base_concurrency"], 10);
    assert_eq!(stats["memory_percent"], 90.0);
    assert_eq!(stats["memory_alloc_mb"], 0.0);
    assert_eq!(
        stats["memory_sys_mb"],
        (LIMIT * 90 / 100) as f64 / MIB as f64
    );
    assert_eq!(stats["level"], "CRITICAL");
    // All keys are those that operators know.
    for size in [
        "memory_limit",
        "reserved",
        "estimated_mem_per_req",
        "outstanding",
        "released",
    ] {
        assert!(stats[format!("{size}_mb")].is_number(), "{size}: {stats}");
    }
    assert!(!stats.to_string().contains("_mib"), "{stats}");
}

#[tokio::test]
async fn what_is_not_known_or_not_bounded_is_none() {
    let (layer, _memory) = with(|builder| builder);
    let stats = layer.guard().stats();
    assert_eq!(
        (stats.current_concurrency, stats.base_concurrency),
        (None, None)
    );
    assert_eq!(
        (stats.estimate_error_ratio, stats.margin_deviations),
        (None, None)
    );
    assert_eq!(stats.memory_limit_mib, Some(1000.0));
    let published = serde_json::to_value(stats).unwrap();
    for key in [
        "current_concurrency",
        "estimate_error_ratio",
        "margin_deviations",
    ] {
        assert!(published[key].is_null(), "{key}: {published}");
    }
}

#[tokio::test]
async fn pressure_can_be_subscribed_to() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let mut levels = guard.subscribe();
    assert_eq!(*levels.borrow_and_update(), Pressure::Normal);
    fill(&guard, &memory, 75);
    levels.changed().await.unwrap();
    assert_eq!(*levels.borrow_and_update(), Pressure::Warning);
}

/// As `counting`, with a name.
fn named(name: &str, max_concurrent: u32) -> (MemoryGuardLayer, ManualSource) {
    with(|builder| {
        builder
            .name(name)
            .max_concurrent(max_concurrent)
            .estimated_bytes_per_request(1024)
    })
}

/// Name and labels → value.
fn published(recorder: &DebuggingRecorder) -> BTreeMap<String, f64> {
    let snapshot = recorder.snapshotter().snapshot().into_vec();
    let values = snapshot.into_iter().map(|(key, _, _, value)| {
        // Guards have names so that their counters are their own.
        let labels: Vec<_> = key
            .key()
            .labels()
            .filter(|label| label.key() != "guard")
            .map(|l| format!("{}={}", l.key(), l.value()))
            .collect();
        let value = match value {
            DebugValue::Counter(n) => n as f64,
            DebugValue::Gauge(x) => x.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        (
            format!("{}{{{}}}", key.key().name(), labels.join(",")),
            value,
        )
    });
    values.collect()
}

#[test]
fn metrics_have_the_published_names_also_with_a_recorder_that_came_late() {
    let (layer, memory) = named("late", 10);
    let guard = layer.guard().clone();
    let _active = guard.try_acquire(1024).unwrap();
    fill(&guard, &memory, 90);
    assert!(guard.try_acquire(1024).is_err());
    let recorder = DebuggingRecorder::new();
    let values = metrics::with_local_recorder(&recorder, || {
        guard.sample_now();
        published(&recorder)
    });
    assert_eq!(
        values["memory_guard_rejected_requests_total{reason=critical_pressure,class=,priority=normal}"],
        1.0
    );
    assert_eq!(
        values["memory_guard_rejected_requests_total{reason=wait_timeout,class=,priority=normal}"],
        0.0
    );
    assert_eq!(values["memory_guard_active_tasks{}"], 1.0);
    assert_eq!(values["memory_guard_current_concurrency{}"], 1.0);
    assert_eq!(values["memory_guard_memory_percent{}"], 90.0);
    assert_eq!(
        values["memory_guard_usage_bytes{}"],
        (LIMIT * 90 / 100) as f64
    );
    assert_eq!(values["memory_guard_limit_bytes{}"], LIMIT as f64);
    assert_eq!(values["memory_guard_sensor_errors_total{}"], 0.0);
    assert_eq!(values["memory_guard_wait_forecasts_total{}"], 0.0);
    assert_eq!(values["memory_guard_wait_forecast_error_seconds{}"], 0.0);
    assert!(values.contains_key("memory_guard_expected_wait_seconds{}"));
}

/// What a sample publishes.
fn sampled(guard: &tower_memory_guard::Guard) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        guard.sample_now();
        published(&recorder)
    })
}

#[tokio::test]
async fn requests_are_counted_by_class_and_priority() {
    let (layer, memory) = named("classes", 10);
    let guard = layer.guard().clone();
    let report = Class::new("report").priority(Priority::Low);
    let active = guard.acquire_for(&report).await.unwrap();
    drop(guard.acquire_for(&report).await.unwrap());
    drop(guard.acquire(1024).await.unwrap());
    fill(&guard, &memory, 75);
    assert!(guard.acquire_for(&report).await.is_err());
    let values = sampled(&guard);
    let admitted = |of: &str| values[&format!("memory_guard_admitted_requests_total{{{of}}}")];
    assert_eq!(admitted("class=report,priority=low"), 2.0);
    assert_eq!(admitted("class=,priority=normal"), 1.0);
    let rejected = "memory_guard_rejected_requests_total";
    assert_eq!(
        values[&format!("{rejected}{{reason=low_priority,class=report,priority=low}}")],
        1.0
    );
    assert_eq!(
        values[&format!("{rejected}{{reason=low_priority,class=,priority=normal}}")],
        0.0
    );
    assert_eq!(
        values["memory_guard_threshold_percent{level=CRITICAL}"],
        85.0
    );
    assert_eq!(values["memory_guard_level{}"], 2.0);
    drop(active);
}

#[tokio::test(start_paused = true)]
async fn waits_are_counted_by_what_became_of_them() {
    let (layer, _memory) = named("waits", 1);
    let guard = layer.guard().clone();
    let active = guard.acquire(1024).await.unwrap();
    let (admitted, rejected) = tokio::join!(guard.acquire(1024), async {
        let hasty = Class::new("hasty").deadline(Duration::from_millis(20));
        let rejected = guard.acquire_for(&hasty).await;
        drop(active);
        rejected
    });
    assert!(admitted.is_ok() && rejected.is_err());
    let values = sampled(&guard);
    assert_eq!(values["memory_guard_wait_seconds{outcome=admitted}"], 1.0);
    assert_eq!(values["memory_guard_wait_seconds{outcome=rejected}"], 1.0);
    assert_eq!(values["memory_guard_queued_requests_total{}"], 2.0);
}

#[test]
fn everything_that_is_published_is_documented() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 50);
    let documented = include_str!("../../docs/metrics.md");
    let documented: std::collections::BTreeSet<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let values = sampled(&guard);
    let names = values.keys().filter_map(|key| key.split('{').next());
    let published: std::collections::BTreeSet<&str> = names.collect();
    assert_eq!(published, documented);
}

/// What an autoscaler goes by: as many times as much would be needed as came for each that
/// was served.
#[tokio::test(flavor = "multi_thread")]
async fn demand_reads_about_three_at_three_times_what_can_be_served() {
    let (layer, _memory) = support::with(|builder| {
        builder
            .max_concurrent(4)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_millis(100))
    });
    let guard = layer.guard().clone();
    let mut requests = tokio::task::JoinSet::new();
    // Four take 30 ms: some 130 a second are served, of three times as many.
    for _ in 0..400 {
        for _ in 0..2 {
            let asked = guard.clone();
            requests.spawn(async move {
                let permit = asked.acquire(1024).await;
                if permit.is_ok() {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
        guard.sample_now();
    }
    let stats = guard.stats();
    let came = stats.completed_requests + stats.rejected_requests;
    let times = came as f64 / stats.completed_requests as f64;
    assert!(times > 1.5, "it was no overload: {stats:?}");
    let off = stats.demand_ratio / times;
    assert!(
        (0.7..1.4).contains(&off),
        "{} for {times}",
        stats.demand_ratio
    );
    requests.join_all().await;
}

#[test]
fn counters_of_a_guard_go_on_where_those_of_its_predecessor_ended() {
    let rejected =
        "memory_guard_rejected_requests_total{reason=critical_pressure,class=,priority=normal}";
    let recorder = DebuggingRecorder::new();
    let published_after = |rejections: u32| {
        let (layer, memory) = named("successors", 10);
        let guard = layer.guard().clone();
        fill(&guard, &memory, 100);
        for _ in 0..rejections {
            assert!(guard.try_acquire(1024).is_err());
        }
        metrics::with_local_recorder(&recorder, || {
            guard.sample_now();
            published(&recorder)[rejected]
        })
    };
    assert_eq!(published_after(5), 5.0);
    assert_eq!(published_after(2), 7.0);
}

/// What a recorder of the whole process shows of a guard.
fn scraped(recorder: &PrometheusHandle, guard: &str, name: &str) -> Option<f64> {
    let start = format!("memory_guard_{name}{{guard=\"{guard}\"}} ");
    let scraped = recorder.render();
    let mut lines = scraped.lines();
    let value = lines.find_map(|line| line.strip_prefix(&start))?;
    value.parse().ok()
}

#[tokio::test]
async fn a_guard_that_ends_publishes_what_came_last() {
    let recorder = PrometheusBuilder::new().install_recorder().unwrap();
    let enforcing = |name: &str| scraped(&recorder, name, "enforcing");
    let completed = |name: &str| scraped(&recorder, name, "completed_requests_total");
    for name in ["closes", "is dropped"] {
        // Its thread publishes once a second.
        let builder = MemoryGuardLayer::builder().memory_source(Shared::default());
        let layer = builder.name(name).build().unwrap();
        let first = || enforcing(name) == Some(1.0);
        eventually("it was published", first).await;
        let held = layer.guard().try_acquire(1024).unwrap();
        drop(layer.guard().try_acquire(1024).unwrap());
        if name == "closes" {
            layer.guard().close();
        }
        drop(layer);
        drop(held);
        let last = || (enforcing(name), completed(name)) == (Some(0.0), Some(2.0));
        eventually("its end was published", last).await;
    }
}

#[test]
fn a_guard_that_nobody_sampled_any_more_publishes_what_came_last_once_it_is_gone() {
    let (layer, memory) = named("unsampled", 10);
    let recorder = PrometheusBuilder::new().build_recorder();
    let values = recorder.handle();
    let shown = |name| scraped(&values, "unsampled", name);
    metrics::with_local_recorder(&recorder, || {
        fill(layer.guard(), &memory, 50);
        assert_eq!(shown("enforcing"), Some(1.0));
        drop(layer.guard().try_acquire(1024).unwrap());
        drop((layer, memory));
        // It is found by those that begin, after those of other tests.
        let found = (0..1000).any(|_| {
            drop(counting(10));
            shown("enforcing") == Some(0.0)
        });
        assert!(found, "{}", values.render());
    });
    assert_eq!(shown("completed_requests_total"), Some(1.0));
}
