//! Log events, by the names that operators know.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;

use axum::body::Body;
use http::{Request, Response};
use support::events::Events;
use support::{counting, fill};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{MemoryGuardLayer, Mode, Reason};

#[test]
fn the_log_tells_of_start_adjustments_and_rejections() {
    let events = Events::record(|| {
        let (layer, memory) = counting(10);
        let guard = layer.guard().clone();
        fill(&guard, &memory, 75);
        // Levels that change are said once a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        fill(&guard, &memory, 90);
        for _ in 0..5 {
            assert_eq!(
                guard.try_acquire(1024).unwrap_err().reason(),
                Reason::CriticalPressure
            );
        }
    });
    let messages: Vec<_> = events
        .iter()
        .map(|event| event["message"].as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "memory guard initialised",
            "memory guard adjusted",
            "memory guard adjusted",
            "memory guard rejected a request",
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event["target"] == "tower_memory_guard")
    );
    let (start, adjusted, rejected) = (&events[0], &events[1], &events[3]);
    assert_eq!((&*start["source"], &*start["policy"]), ("manual", "ladder"));
    for setting in [
        "warning_fraction",
        "high_fraction",
        "critical_fraction",
        "wait_timeout",
        "max_pause",
    ] {
        assert!(start.contains_key(setting), "{setting}");
    }
    assert_eq!(adjusted["action"], "reduce");
    assert_eq!(
        (&*adjusted["old_concurrency"], &*adjusted["new_concurrency"]),
        ("10", "7")
    );
    assert_eq!(
        (&*adjusted["memory_percent"], &*adjusted["active_tasks"]),
        ("75.0", "0")
    );
    assert_eq!(
        (&*rejected["at"], &*rejected["reason"]),
        ("WARN", "critical_pressure")
    );
    assert_eq!(rejected["rejected_requests"], "1");
}

#[test]
fn rejections_are_logged_once_a_second_with_a_count_of_the_rest() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let events = Events::record(|| {
        runtime.block_on(async {
            let (layer, memory) = counting(10);
            let guard = layer.guard().clone();
            fill(&guard, &memory, 90);
            for _ in 0..5 {
                assert!(guard.try_acquire(1024).is_err());
            }
            tokio::time::advance(std::time::Duration::from_secs(2)).await;
            guard.sample_now();
            assert!(guard.try_acquire(1024).is_err());
            // Nor need anybody sample.
            tokio::time::advance(std::time::Duration::from_secs(2)).await;
            assert!(guard.try_acquire(1024).is_err());
        });
    });
    let rejected: Vec<_> = events
        .iter()
        .filter(|event| event["at"] == "WARN")
        .collect();
    let suppressed: Vec<_> = rejected
        .iter()
        .map(|event| event["suppressed"].as_str())
        .collect();
    assert_eq!(suppressed, ["0", "4", "0"]);
}

#[test]
fn a_failing_sensor_is_one_line_and_its_recovery_another() {
    let events = Events::record(|| {
        let (layer, memory) = counting(10);
        let guard = layer.guard().clone();
        memory.set_failing(true);
        for _ in 0..5 {
            guard.sample_now();
        }
        memory.set_failing(false);
        guard.sample_now();
    });
    let messages: Vec<_> = events
        .iter()
        .skip(1)
        .map(|event| event["message"].as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "the memory guard cannot read memory",
            "the memory guard reads memory again"
        ]
    );
}

#[test]
fn a_guard_inside_of_one_that_only_observes_says_so_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let said = |outer: Mode, inner: Mode| {
        let events = Events::record(|| {
            // On the process's ledger.
            let guarded = |mode| MemoryGuardLayer::builder().mode(mode).build().unwrap();
            let answer =
                |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
            let stack = guarded(outer).layer(guarded(inner).layer(service_fn(answer)));
            for _ in 0..3 {
                let request = Request::new(Body::empty());
                runtime.block_on(stack.clone().oneshot(request)).unwrap();
            }
        });
        let says = |event: &&std::collections::BTreeMap<String, String>| {
            event["message"].contains("inside of one that only observes")
        };
        events.iter().filter(says).count()
    };
    assert_eq!(said(Mode::Observe, Mode::Observe), 0);
    assert_eq!(said(Mode::Enforce, Mode::Enforce), 0);
    assert_eq!(said(Mode::Observe, Mode::Enforce), 1);
}
