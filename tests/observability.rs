//! Statistics and metrics, by the names that operators know.

mod support;

use std::collections::BTreeMap;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use support::{LIMIT, MIB, counting, fill};
use tower_memory_guard::Pressure;

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

/// Name and labels → value.
fn published(recorder: &DebuggingRecorder) -> BTreeMap<String, f64> {
    let snapshot = recorder.snapshotter().snapshot().into_vec();
    let values = snapshot.into_iter().map(|(key, _, _, value)| {
        assert!(matches!(
            key.kind(),
            MetricKind::Counter | MetricKind::Gauge
        ));
        let labels: Vec<_> = key
            .key()
            .labels()
            .map(|l| format!("{}={}", l.key(), l.value()))
            .collect();
        let value = match value {
            DebugValue::Counter(n) => n as f64,
            DebugValue::Gauge(x) => x.into_inner(),
            DebugValue::Histogram(_) => unreachable!("none yet"),
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
    let (layer, memory) = counting(10);
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
        values["memory_guard_rejected_requests_total{reason=critical_pressure}"],
        1.0
    );
    assert_eq!(
        values["memory_guard_rejected_requests_total{reason=wait_timeout}"],
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
