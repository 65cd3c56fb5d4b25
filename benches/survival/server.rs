//! The server that may be killed: this binary again, inside a control group.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{Read, Seek};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tower_memory_guard::{BoxError, Estimates, Guard};

use super::MIB;
use super::door::{self, Door, DoorReport};
use super::group;
use super::guard::GuardKind;
use super::pattern::Pattern;

const WORKERS: usize = 2;
const STEP_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);

/// Small enough that the allocator takes them from its heaps.
const RETENTION_BLOCK_BYTES: usize = 32 << 10;
const RETENTION_ONE_IN: usize = 64;
const RETENTION_MOST_BLOCKS: usize = 2000;

const LEAK_BYTES: usize = 1 << 20;

static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static RETAINED: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

/// How a server is started; the parent makes the same words.
pub(crate) struct ServerArguments {
    pub(crate) pattern: Pattern,
    pub(crate) guard: GuardKind,
    pub(crate) group: PathBuf,
    /// Bounds its processor time.
    pub(crate) cpu_group: Option<PathBuf>,
    /// What to read again and again.
    pub(crate) file: Option<PathBuf>,
    /// What an earlier server has learned.
    pub(crate) estimates: Option<PathBuf>,
}

/// Names the group that bounds processor time.
pub(crate) const CPU_GROUP: &str = "SURVIVAL_CPU_GROUP";
/// Names the file with what an earlier server has learned.
pub(crate) const ESTIMATES: &str = "SURVIVAL_ESTIMATES";

impl ServerArguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut next = || arguments.next().ok_or("--serve PATTERN GUARD GROUP [FILE]");
        Ok(Self {
            pattern: next()?.parse()?,
            guard: next()?.parse()?,
            group: next()?.into(),
            cpu_group: std::env::var_os(CPU_GROUP).map(PathBuf::from),
            file: next().ok().map(PathBuf::from),
            estimates: std::env::var_os(ESTIMATES).map(PathBuf::from),
        })
    }
}

/// What a server tells at the end of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) door: DoorReport,
    /// Of our guard, if it has one.
    pub(crate) stats: Option<serde_json::Value>,
    pub(crate) estimates: Option<Estimates>,
}

pub(crate) fn main(arguments: impl Iterator<Item = String>) -> Result<(), BoxError> {
    let arguments = ServerArguments::parse(arguments)?;
    crate::ACCOUNTED.store(arguments.guard.is_accounted(), Ordering::Relaxed);
    group::enter(&arguments.group)?;
    if let Some(group) = &arguments.cpu_group {
        group::enter(group)?;
    }
    exit_with_parent();
    if let Some(file) = arguments.file.clone() {
        thread::spawn(move || read_for_ever(&file));
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?
        .block_on(serve(&arguments))
}

/// The parent holds the other end of standard input, however the parent ends.
fn exit_with_parent() {
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

fn read_for_ever(path: &Path) {
    let outcome = std::fs::File::open(path).and_then(|mut file| {
        let mut block = vec![0; STEP_BYTES];
        loop {
            if file.read(&mut block)? == 0 {
                file.rewind()?;
            }
        }
    });
    let error: std::io::Result<()> = outcome;
    eprintln!("survival: {}: {error:?}", path.display());
}

async fn serve(arguments: &ServerArguments) -> Result<(), BoxError> {
    let door = Arc::new(Door::new());
    let work = Router::new()
        .route("/work", get(work))
        .with_state(arguments.pattern);
    let estimates = match &arguments.estimates {
        Some(path) => Some(serde_json::from_slice(&std::fs::read(path)?)?),
        None => None,
    };
    let (work, guard) = arguments.guard.protect(work, &arguments.group, estimates)?;
    let app = work
        .layer(from_fn_with_state(Arc::clone(&door), door::watch))
        .route("/light", get(|| async { "ok" }))
        .route(
            "/report",
            get(move || async move { Json(report(&door, guard.as_ref())) }),
        );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

fn report(door: &Door, guard: Option<&Guard>) -> Report {
    Report {
        door: door.report(),
        stats: guard.and_then(|guard| serde_json::to_value(guard.stats()).ok()),
        estimates: guard.map(Guard::estimates),
    }
}

#[derive(Deserialize)]
struct Work {
    mib: f64,
    ms: u64,
}

/// Grows to its size over the first half of its time, keeps it for the second.
async fn work(State(pattern): State<Pattern>, Query(work): Query<Work>) -> &'static str {
    let started = Instant::now();
    let time = Duration::from_millis(work.ms);
    let bytes = (work.mib * MIB) as usize;
    let block_bytes = match pattern {
        Pattern::Retention => RETENTION_BLOCK_BYTES,
        _ => STEP_BYTES,
    };
    if pattern == Pattern::Mapped {
        return mapped(bytes, started, time).await;
    }
    let most_steps = (time / 2).as_millis() / SHORTEST_SLEEP.as_millis();
    let steps = bytes.div_ceil(STEP_BYTES).min(most_steps as usize).max(1);
    let mut blocks = Vec::with_capacity(bytes.div_ceil(block_bytes));
    let mut held_bytes = 0;
    for step in 0..steps {
        sleep_until(started + time.mul_f64(step as f64 / (2 * steps) as f64)).await;
        while held_bytes < bytes * (step + 1) / steps {
            let next_bytes = block_bytes.min(bytes - held_bytes);
            blocks.push(touched(next_bytes));
            held_bytes += next_bytes;
        }
    }
    sleep_until(started + time).await;
    leave_behind(pattern, blocks);
    "ok"
}

/// The same with memory that no allocator sees.
async fn mapped(bytes: usize, started: Instant, time: Duration) -> &'static str {
    let Ok(mut map) = memmap2::MmapMut::map_anon(bytes.max(1)) else {
        return "no memory";
    };
    let steps = bytes.div_ceil(STEP_BYTES);
    for (step, block) in map.chunks_mut(STEP_BYTES).enumerate() {
        sleep_until(started + time.mul_f64(step as f64 / (2 * steps) as f64)).await;
        block.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
    }
    sleep_until(started + time).await;
    drop(map);
    "ok"
}

/// Memory that is really there.
fn touched(bytes: usize) -> Vec<u8> {
    let mut block = vec![0; bytes];
    block.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
    black_box(block)
}

fn leave_behind(pattern: Pattern, blocks: Vec<Vec<u8>>) {
    match pattern {
        Pattern::Leak => {
            let leak = touched(LEAK_BYTES);
            let mut leaked = LEAKED.lock().unwrap_or_else(PoisonError::into_inner);
            leaked.push(leak);
        }
        Pattern::Retention => {
            let mut retained = RETAINED.lock().unwrap_or_else(PoisonError::into_inner);
            for block in blocks.into_iter().step_by(RETENTION_ONE_IN) {
                if retained.len() == RETENTION_MOST_BLOCKS {
                    retained.pop_front();
                }
                retained.push_back(block);
            }
        }
        _ => {}
    }
}
