//! One run: one server behind one guard under one pattern of one seed.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};
use tower_memory_guard::BoxError;

use super::cage::{Cage, CpuQuota};
use super::child;
use super::guard::GuardKind;
use super::load::{Caller, PATIENCE, Tally};
use super::oracle;
use super::pattern::{Pattern, drop_cached_pages};
use super::server::{Report, ServerArguments};
use super::{LIMIT_BYTES, MIB};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// What the server needs for itself.
const ORACLE_SPARE_BYTES: u64 = 10 << 20;
/// For starting and the end of a run, beside the load and the last patience.
const SLACK: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) pattern: Pattern,
    pub(crate) guard: GuardKind,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    /// Of one processor; `None`: as much as there is.
    pub(crate) cpu_percent: Option<u64>,
}

/// What a run reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// To fill the page cache with.
    pub(crate) page: Option<PathBuf>,
    /// What an earlier server behind this guard has learned of this pattern.
    pub(crate) estimates: Option<PathBuf>,
}

/// Memory without page cache, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemorySample {
    pub(crate) seconds: f64,
    pub(crate) mib: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) case: Case,
    pub(crate) kills: u64,
    pub(crate) tally: Tally,
    pub(crate) oracle_byte_seconds: f64,
    /// Of the server that was there at the end; `None` if it did not tell.
    pub(crate) report: Option<Report>,
    pub(crate) memory: Vec<MemorySample>,
}

impl Record {
    pub(crate) fn score_percent(&self) -> f64 {
        100.0 * self.tally.goodput_byte_seconds / self.oracle_byte_seconds.max(1.0)
    }

    /// What was told at once that its wait would be too long, although the oracle
    /// answers it, as a share of what the oracle answers.
    pub(crate) fn misjudged_percent(&self) -> f64 {
        100.0 * self.tally.misjudged_byte_seconds / self.oracle_byte_seconds.max(1.0)
    }

    pub(crate) fn peak_mib(&self) -> f64 {
        self.memory.iter().map(|at| at.mib).fold(0.0, f64::max)
    }
}

/// A run that ends by itself, whatever happens.
pub(crate) async fn bounded(case: Case, files: Files) -> Result<Record, BoxError> {
    let bound = Duration::from_secs(case.seconds) + PATIENCE + SLACK;
    match timeout(bound, run(case, files)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not finished after {} s", bound.as_secs()).into()),
    }
}

async fn run(case: Case, files: Files) -> Result<Record, BoxError> {
    let arrivals = case.pattern.arrivals(case.seed, case.seconds);
    let answerable = oracle::answers(&arrivals, LIMIT_BYTES - ORACLE_SPARE_BYTES, PATIENCE);
    let oracle_byte_seconds = oracle::goodput_byte_seconds(&arrivals, &answerable);
    // Before the server in the order of declaration: dropped, and removed, after it.
    let cage = Cage::new(LIMIT_BYTES)?;
    let quota = case.cpu_percent.map(CpuQuota::new).transpose()?;
    let arguments = ServerArguments {
        pattern: case.pattern,
        guard: case.guard,
        group: cage.directory().to_owned(),
        cpu_group: quota.as_ref().map(|quota| quota.directory().to_owned()),
        file: files.page.filter(|_| case.pattern == Pattern::PageCache),
        estimates: files.estimates,
    };
    if let Some(file) = &arguments.file {
        drop_cached_pages(file)?;
    }
    let (address, address_seen) = watch::channel(None);
    let kills = AtomicU64::new(0);
    let mut memory = Vec::new();
    let mut caller = Caller::new(address_seen);
    let (tally, report) = tokio::select! {
        outcome = async {
            let tally = caller.drive(&arrivals, &answerable).await?;
            Ok::<_, BoxError>((tally, caller.report().await))
        } => outcome?,
        outcome = child::keep_running(&arguments, &address, &kills) => match outcome? {},
        outcome = sample(&cage, &mut memory) => match outcome? {},
    };
    Ok(Record {
        case,
        kills: kills.into_inner(),
        tally,
        oracle_byte_seconds,
        report,
        memory,
    })
}

async fn sample(cage: &Cage, memory: &mut Vec<MemorySample>) -> Result<Infallible, BoxError> {
    let started = Instant::now();
    let mut ticks = interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        memory.push(MemorySample {
            seconds: started.elapsed().as_secs_f64(),
            mib: cage.memory_bytes()? as f64 / MIB,
        });
    }
}
