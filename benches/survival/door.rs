//! How fast a server turns requests away, and why: measured inside the server,
//! outside its guard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

const MOST_PROBLEM_BYTES: usize = 4096;
/// The reason of a rejection that waited: its time is no measure of the door.
const WAITED: &str = "wait_timeout";

/// Times in buckets that are at most an eighth wide.
struct Histogram {
    buckets: [AtomicU64; Self::BUCKETS],
}

impl Histogram {
    const STEPS_LOG2: u32 = 3;
    const STEPS: u64 = 1 << Self::STEPS_LOG2;
    const BUCKETS: usize = 64 << Self::STEPS_LOG2;

    fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// Below `STEPS` one bucket for each value; above, `STEPS` for each doubling.
    fn bucket(us: u64) -> usize {
        let doublings = (us | Self::STEPS).ilog2() - Self::STEPS_LOG2;
        (u64::from(doublings) * Self::STEPS + (us >> doublings)) as usize
    }

    /// The end of a bucket.
    fn end_us(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        let doublings = (bucket / Self::STEPS).saturating_sub(1);
        (bucket - doublings * Self::STEPS + 1) << doublings
    }

    fn counts(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        self.buckets.iter().map(|n| n.load(Ordering::Relaxed))
    }

    fn percentile_us(&self, percent: u64) -> Option<u64> {
        let total: u64 = self.counts().sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.counts().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Self::end_us(bucket))
    }
}

/// What stands beside a guard and watches it.
pub(crate) struct Door {
    at_once: Histogram,
    by_reason: Mutex<BTreeMap<String, u64>>,
}

/// What a server tells of its rejections, since it started.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct DoorReport {
    /// Of rejections that did not wait.
    pub(crate) at_once: u64,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) by_reason: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Problem {
    reason: String,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self {
            at_once: Histogram {
                buckets: [const { AtomicU64::new(0) }; Histogram::BUCKETS],
            },
            by_reason: Mutex::default(),
        }
    }

    pub(crate) fn report(&self) -> DoorReport {
        let by_reason = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        DoorReport {
            at_once: self.at_once.counts().sum(),
            p99_ms: self.at_once.percentile_us(99).map(|us| us as f64 / 1000.0),
            by_reason: by_reason.clone(),
        }
    }

    fn record(&self, reason: String, time: Duration) {
        if reason != WAITED {
            self.at_once.record(time);
        }
        let mut by_reason = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *by_reason.entry(reason).or_default() += 1;
    }
}

/// The middleware.
pub(crate) async fn watch(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    if !is_rejection(response.status()) {
        return response;
    }
    let time = started.elapsed();
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MOST_PROBLEM_BYTES).await else {
        return parts.status.into_response();
    };
    let problem = serde_json::from_slice::<Problem>(&body);
    let reason = problem.map_or_else(|_| "unknown".to_owned(), |problem| problem.reason);
    door.record(reason, time);
    Response::from_parts(parts, Body::from(body))
}

/// The statuses with which guards turn requests away.
pub(crate) fn is_rejection(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::PAYLOAD_TOO_LARGE
    )
}
