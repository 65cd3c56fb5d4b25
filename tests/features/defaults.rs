//! Metrics and log events are there without being asked for.

#[path = "../support/events.rs"]
mod events;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_memory_guard::Reason;

use crate::{MIB, fill, one_at_a_time};

#[test]
fn metrics_count_what_was_admitted() {
    let (layer, _memory) = one_at_a_time();
    drop(layer.guard().try_acquire(MIB).unwrap());
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || layer.guard().sample_now());
    let found = recorder.snapshotter().snapshot().into_vec();
    let admitted = found
        .into_iter()
        .find(|(key, ..)| key.key().name() == "memory_guard_admitted_requests_total");
    let (.., value) = admitted.expect("it is published");
    assert_eq!(value, DebugValue::Counter(1));
}

#[test]
fn a_rejection_is_logged() {
    let events = events::Events::record(|| {
        let (layer, memory) = one_at_a_time();
        fill(layer.guard(), &memory, 99);
        let refused = layer.guard().try_acquire(MIB).unwrap_err();
        assert_eq!(refused.reason(), Reason::CriticalPressure);
    });
    let rejected = events
        .iter()
        .find(|event| event["message"] == "memory guard rejected a request");
    assert_eq!(rejected.expect("an event")["reason"], "critical_pressure");
}
