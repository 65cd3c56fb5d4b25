//! What both programs do: parse and serialise JSON, as requests of a guard.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_memory_guard::{Cost, ManualSource, MemoryGuardLayer};

/// A document of about 100 KiB: records with texts, numbers and lists.
fn document() -> String {
    let records: Vec<Value> = (0..600)
        .map(|i| {
            json!({
                "id": i,
                "name": format!("record number {i}"),
                "tags": ["red", "green", i.to_string()],
                "score": f64::from(i) / 7.0,
                "nested": { "x": i * 2, "y": -i, "label": "a longer piece of text that is kept" },
            })
        })
        .collect();
    serde_json::to_string(&records).expect("it has a JSON form")
}

fn parse_and_serialise(document: &str) {
    let value: Value = serde_json::from_str(black_box(document)).expect("it is JSON");
    black_box(serde_json::to_string(&value).expect("it has a JSON form"));
}

/// Does it so many times, each as a request of its own; says how long that took.
pub(crate) fn run(times: usize) -> Duration {
    let layer = MemoryGuardLayer::builder()
        .memory_source(ManualSource::new(1 << 40))
        .build()
        .expect("good settings");
    let guard = layer.guard();
    let document = document();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let started = Instant::now();
        for _ in 0..times {
            let permit = guard.try_acquire(Cost::Estimated).expect("it fits");
            permit
                .follow(async { parse_and_serialise(&document) })
                .await;
        }
        started.elapsed()
    })
}
