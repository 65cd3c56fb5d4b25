//! One run: one server behind one guard under one pattern of one seed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};
use tower_memory_guard::BoxError;

use super::beside;
use super::cage::{Cage, CpuQuota};
use super::child;
use super::guard::GuardKind;
use super::load::{Caller, LONGEST_WAIT, PATIENCE, Tally};
use super::oracle;
use super::pattern::Pattern;
use super::server::{Report, ServerArguments};
use super::{LIMIT_BYTES, MIB};
use crate::allocator::Allocator;

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
    pub(crate) allocator: Allocator,
}

/// Memory without page cache, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemorySample {
    pub(crate) seconds: f64,
    pub(crate) mib: f64,
    /// Somebody waited at the guard.
    pub(crate) is_waited_for: bool,
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

    /// Over the time in which somebody waited; `None` if nobody did.
    pub(crate) fn mean_mib_while_waiting(&self) -> Option<f64> {
        let waited_for = self.memory.iter().filter(|at| at.is_waited_for);
        let samples = waited_for.clone().count();
        (samples > 0).then(|| waited_for.map(|at| at.mib).sum::<f64>() / samples as f64)
    }

    /// The latency that all but a hundredth of the answers had at most.
    pub(crate) fn p99_ms(&self) -> Option<f64> {
        let mut latencies = self.tally.latencies.clone();
        latencies.sort();
        let rank = (latencies.len() * 99).div_ceil(100);
        Some(latencies.get(rank.checked_sub(1)?)?.as_secs_f64() * 1000.0)
    }

    /// For how long the guard held up requests that had begun, if it tells.
    pub(crate) fn paused_seconds(&self) -> Option<f64> {
        self.stat("paused_seconds_total")
    }

    /// Requests that the guard ended, if there is a guard of ours.
    pub(crate) fn cancelled(&self) -> Option<f64> {
        let of_stats = ["cancelled", "cancelled_requests", "cancellations"];
        let told = of_stats.iter().find_map(|name| self.stat(name));
        let report = self.report.as_ref()?;
        report.stats.as_ref()?;
        // What was told to callers.
        let by_reason = report.door.by_reason.get("cancelled");
        told.or_else(|| Some(by_reason.copied().unwrap_or(0) as f64))
    }

    fn stat(&self, name: &str) -> Option<f64> {
        self.report.as_ref()?.stats.as_ref()?.get(name)?.as_f64()
    }
}

/// A run that ends by itself, whatever happens.
pub(crate) async fn bounded(case: Case) -> Result<Record, BoxError> {
    let bound = Duration::from_secs(case.seconds) + PATIENCE + SLACK;
    match timeout(bound, run(case)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not finished after {} s", bound.as_secs()).into()),
    }
}

async fn run(case: Case) -> Result<Record, BoxError> {
    let arrivals = case.pattern.arrivals(case.seed, case.seconds);
    let answerable = oracle::answers(&arrivals, LIMIT_BYTES - ORACLE_SPARE_BYTES, LONGEST_WAIT);
    let oracle_byte_seconds = oracle::goodput_byte_seconds(&arrivals, &answerable);
    // Before the server in the order of declaration: dropped, and removed, after it.
    let cage = Cage::new(LIMIT_BYTES)?;
    let quota = case.cpu_percent.map(CpuQuota::new).transpose()?;
    let cache_file = (case.pattern == Pattern::Cache)
        .then(beside::cache_file)
        .transpose()?;
    let arguments = ServerArguments {
        pattern: case.pattern,
        guard: case.guard,
        group: cage.directory().to_owned(),
        allocator: case.allocator,
        cpu_group: quota.as_ref().map(|quota| quota.directory().to_owned()),
        file: cache_file.as_ref().map(|file| file.path().to_owned()),
    };
    let (address, address_seen) = watch::channel(None);
    let kills = AtomicU64::new(0);
    let mut memory = Vec::new();
    let waiting = Arc::new(AtomicU64::new(0));
    let mut caller = Caller::new(address_seen, Arc::clone(&waiting));
    let has_neighbour = case.pattern == Pattern::Neighbour;
    let (tally, report) = tokio::select! {
        outcome = async {
            let tally = caller.drive(&arrivals, &answerable).await?;
            Ok::<_, BoxError>((tally, caller.report().await))
        } => outcome?,
        outcome = child::keep_running(&arguments, &address, &kills) => match outcome? {},
        outcome = child::keep_neighbour(cage.directory(), &kills), if has_neighbour => match outcome? {},
        outcome = sample(&cage, &waiting, &mut memory) => match outcome? {},
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

async fn sample(
    cage: &Cage,
    waiting: &AtomicU64,
    memory: &mut Vec<MemorySample>,
) -> Result<Infallible, BoxError> {
    let started = Instant::now();
    let mut ticks = interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        memory.push(MemorySample {
            seconds: started.elapsed().as_secs_f64(),
            mib: cage.memory_bytes()? as f64 / MIB,
            is_waited_for: waiting.load(Ordering::Relaxed) > 0,
        });
    }
}
