//! What a request does: it grows to its size in even steps over the first half of its
//! time, and keeps that for the other half.
//!
//! What touching its memory takes is part of a step's time, as it is for the oracle. Each
//! step has a time of its own, so that who was held up does not catch up at once.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use tokio::time::{sleep, sleep_until};
use tower_memory_guard::Permit;

use super::MIB;
use super::pattern::Pattern;

const STEPS: usize = 10;
const BLOCK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
/// Requests that are larger allocate everything in one poll, where some do.
const ONE_POLL_ABOVE_BYTES: usize = 64 << 20;

/// Small enough that the allocator takes them from its heaps.
const RETAINED_BLOCK_BYTES: usize = 1 << 10;
const RETAINED_ONE_IN: usize = 64;
/// 24 MiB.
const RETAINED_MOST_BLOCKS: usize = 24 << 10;

static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static RETAINED: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());
/// What all requests want while they grow, where they share a lock.
static SHARED: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) fn router(pattern: Pattern) -> Router {
    let method = match pattern {
        Pattern::Blocking | Pattern::BlockingCheckpoints => get(blocking),
        Pattern::HalfBlocking => get(half_blocking),
        Pattern::Mapped => get(mapped),
        _ => get(stepwise),
    };
    Router::new().route("/work", method).with_state(pattern)
}

#[derive(Deserialize)]
struct Work {
    mib: f64,
    ms: u64,
}

impl Work {
    fn bytes(&self) -> usize {
        (self.mib * MIB) as usize
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// When a step of growth that begins now is over.
    fn step_ends(&self) -> Instant {
        Instant::now() + self.time() / (2 * STEPS as u32)
    }
}

/// Memory that is really there.
struct Blocks {
    blocks: Vec<Vec<u8>>,
    block_bytes: usize,
    held_bytes: usize,
}

impl Blocks {
    fn new(bytes: usize, pattern: Pattern) -> Self {
        let block_bytes = match pattern {
            Pattern::Retain => RETAINED_BLOCK_BYTES,
            _ => BLOCK_BYTES,
        };
        Self {
            blocks: Vec::with_capacity(bytes.div_ceil(block_bytes)),
            block_bytes,
            held_bytes: 0,
        }
    }

    fn grow_to(&mut self, bytes: usize) {
        while self.held_bytes < bytes {
            let next_bytes = self.block_bytes.min(bytes - self.held_bytes);
            self.blocks.push(touched(next_bytes));
            self.held_bytes += next_bytes;
        }
    }
}

fn touched(bytes: usize) -> Vec<u8> {
    let mut block = vec![0; bytes];
    block.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
    black_box(block)
}

async fn stepwise(State(pattern): State<Pattern>, Query(work): Query<Work>) -> &'static str {
    let bytes = work.bytes();
    let mut blocks = Blocks::new(bytes, pattern);
    if pattern == Pattern::OnePoll && bytes > ONE_POLL_ABOVE_BYTES {
        blocks.grow_to(bytes);
        sleep(work.time()).await;
        return "ok";
    }
    let mut turn = None;
    for step in 1..=STEPS {
        if pattern == Pattern::Mutex && step == STEPS / 2 + 1 {
            turn = Some(SHARED.lock().await);
        }
        let step_ends = work.step_ends();
        blocks.grow_to(bytes * step / STEPS);
        sleep_until(step_ends.into()).await;
    }
    drop(turn);
    sleep(work.time() / 2).await;
    leave_behind(pattern, blocks.blocks);
    "ok"
}

/// The same on a thread that may block.
async fn blocking(
    State(pattern): State<Pattern>,
    permit: Option<Extension<Permit>>,
    Query(work): Query<Work>,
) -> Result<&'static str, StatusCode> {
    let grow = move || {
        let permit = permit.map(|Extension(permit)| permit);
        let bytes = work.bytes();
        let mut blocks = Blocks::new(bytes, pattern);
        for step in 1..=STEPS {
            if pattern == Pattern::BlockingCheckpoints {
                checkpoint(permit.as_ref());
            }
            let step_ends = work.step_ends();
            blocks.grow_to(bytes * step / STEPS);
            std::thread::sleep(step_ends.saturating_duration_since(Instant::now()));
        }
        std::thread::sleep(work.time() / 2);
    };
    let done = tokio::task::spawn_blocking(grow).await;
    done.map(|()| "ok")
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn half_blocking(
    state: State<Pattern>,
    permit: Option<Extension<Permit>>,
    work: Query<Work>,
) -> Result<&'static str, StatusCode> {
    match fastrand::bool() {
        true => blocking(state, permit, work).await,
        false => Ok(stepwise(state, work).await),
    }
}

/// Where work on a thread may be held up.
fn checkpoint(permit: Option<&Permit>) {
    // Who is told to stop goes on all the same: the guards compared tell nobody else.
    let _ = permit.map(Permit::checkpoint);
}

/// The same with memory that no allocator sees.
async fn mapped(Query(work): Query<Work>) -> Result<&'static str, StatusCode> {
    let bytes = work.bytes().max(STEPS);
    let map = memmap2::MmapMut::map_anon(bytes);
    let mut map = map.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    for block in map.chunks_mut(bytes.div_ceil(STEPS)) {
        let step_ends = work.step_ends();
        block.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
        sleep_until(step_ends.into()).await;
    }
    sleep(work.time() / 2).await;
    Ok("ok")
}

fn leave_behind(pattern: Pattern, blocks: Vec<Vec<u8>>) {
    match pattern {
        Pattern::Leak => leak(1 << 20),
        Pattern::LeakToLimit => leak(8 << 20),
        Pattern::Retain => {
            let kept: Vec<Vec<u8>> = blocks.into_iter().step_by(RETAINED_ONE_IN).collect();
            let mut retained = RETAINED.lock().unwrap_or_else(PoisonError::into_inner);
            let too_many = (retained.len() + kept.len()).saturating_sub(RETAINED_MOST_BLOCKS);
            retained.drain(..too_many);
            retained.extend(kept);
        }
        _ => {}
    }
}

fn leak(bytes: usize) {
    let block = touched(bytes);
    let mut leaked = LEAKED.lock().unwrap_or_else(PoisonError::into_inner);
    leaked.push(block);
}
