//! How much memory is in use; and, in [`release`], giving it back.
//!
//! A [`MemorySource`] reads usage and limits; a [`Sampler`] asks it, from a
//! thread of its own (a stalled runtime must not blind it) and, near the
//! limit, from the request that is about to be admitted. One sampler serves all
//! guards of a process that watch the same source.

#[cfg(target_os = "linux")]
mod auto;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod container;
#[cfg(target_os = "linux")]
mod discovery;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(all(test, target_os = "linux"))]
mod laid_out;
#[cfg(target_os = "linux")]
mod level;
#[cfg(target_os = "linux")]
mod machine;
mod manual;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod process;
pub(crate) mod release;
mod subscriber;
mod thread;
#[cfg(test)]
mod thread_tests;
#[cfg(not(target_os = "linux"))]
mod unseen;
mod watched;
#[cfg(target_os = "linux")]
mod working_set;

use std::io;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
pub(crate) use faults::{run_time, touched_bytes};
pub use manual::ManualSource;
#[cfg(target_os = "linux")]
pub(crate) use process::{anonymous_bytes, process_bytes};
pub(crate) use subscriber::Subscriber;
pub(crate) use thread::{Moment, Sampler};

/// Where memory is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The control group; where no limit is below physical memory, the host as well.
    #[default]
    Auto,
    /// The control group (v1 or v2) and those above it.
    Cgroup,
    /// This process's resident memory, against a limit one gives.
    Process,
    /// This process's resident memory, against that and what the host has available.
    Host,
}

/// How much a sample is to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// Usage only, as fast as possible: a request waits for it. Levels without a limit keep
    /// that of the last full sample.
    Quick,
    /// Everything, limits and reclaimable memory included.
    Full,
}

/// Usage and limit of one thing that can run out: a control group, one above
/// it, the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLevel {
    /// Bytes in use, less what the kernel takes back before it kills. `docs/platforms.md`
    /// says what that is of a control group: pages that wait for a disk count where the
    /// kernel does not wait for it.
    pub usage_bytes: u64,
    /// Bytes at which something is killed; `None` if there is no limit.
    pub limit_bytes: Option<u64>,
    /// Bytes at which the kernel throttles (`memory.high`); `None` if it does not.
    pub high_bytes: Option<u64>,
    /// Bytes that were in use and are on swap now, beside the usage. What of them requests
    /// in flight have written comes back before they end.
    pub swapped_bytes: u64,
}

impl MemoryLevel {
    /// A level with a limit and no throttling below it.
    pub fn new(usage_bytes: u64, limit_bytes: Option<u64>) -> Self {
        Self {
            usage_bytes,
            limit_bytes,
            high_bytes: None,
            swapped_bytes: 0,
        }
    }

    /// What bounds admission here: the limit, or where the kernel throttles.
    pub(crate) fn bound_bytes(&self) -> Option<u64> {
        let bounds = [self.limit_bytes, self.high_bytes];
        bounds.into_iter().flatten().min()
    }
}

/// What a [`MemorySource`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub(crate) levels: Vec<MemoryLevel>,
    pub(crate) process_bytes: Option<u64>,
    pub(crate) stall_percent: f64,
    /// The limit moves by itself, so that a change is no news.
    pub(crate) limit_drifts: bool,
    /// What is to be said, once.
    warnings: Vec<String>,
}

impl Sample {
    /// Adds a level: the process's own first, then those around it.
    pub fn push(&mut self, level: MemoryLevel) {
        self.levels.push(level);
    }

    /// Bytes this process has resident: what counts against a
    /// [`share`](crate::MemoryGuardBuilder::share) of the limit. Where a quick sample does not
    /// say, the guard reads it itself; where none ever does, all that is in use counts.
    pub fn set_process_bytes(&mut self, bytes: u64) {
        self.process_bytes = Some(bytes);
    }

    /// Percent of the last ten seconds in which every task waited for memory
    /// (the kernel's `full avg10`).
    pub fn set_stall_percent(&mut self, percent: f64) {
        self.stall_percent = percent;
    }

    /// The tightest bound of any level.
    #[cfg(target_os = "linux")]
    fn bound_bytes(&self) -> Option<u64> {
        let levels = self.levels.iter();
        levels.filter_map(MemoryLevel::bound_bytes).min()
    }

    fn clear(&mut self) {
        self.levels.clear();
        self.process_bytes = None;
        self.stall_percent = 0.0;
        self.limit_drifts = false;
        self.warnings.clear();
    }
}

/// Measures memory.
///
/// The built-in sources cover control groups, the process and the host. Your
/// own can read what they do not see; for tests there is [`ManualSource`].
///
/// ```
/// use std::io;
/// use tower_memory_guard::{Detail, MemoryGuardLayer, MemoryLevel, MemorySource, Sample};
///
/// struct Arena;
///
/// impl MemorySource for Arena {
///     fn read(&mut self, _: Detail, sample: &mut Sample) -> io::Result<()> {
///         let (used, capacity) = (300 << 20, 1 << 30);
///         sample.push(MemoryLevel::new(used, Some(capacity)));
///         Ok(())
///     }
///
///     fn name(&self) -> String {
///         "arena".into()
///     }
/// }
///
/// let layer = MemoryGuardLayer::builder().memory_source(Arena).build()?;
/// assert_eq!(layer.guard().stats().memory_percent.round(), 29.0);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
pub trait MemorySource: Send + 'static {
    /// Fills `sample`, which is empty.
    ///
    /// # Errors
    ///
    /// Any error makes the guard follow its
    /// [`on_sensor_failure`](crate::MemoryGuardBuilder::on_sensor_failure)
    /// policy until a later call succeeds.
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()>;

    /// What it watches, for people and logs: [`Guard::source`](crate::Guard::source).
    fn name(&self) -> String;

    /// `true`: sampled by a thread. `false`: only by
    /// [`Guard::sample_now`](crate::Guard::sample_now) and by requests, where something
    /// happens (see [`ManualSource`]), with tokio's clock, which tests can pause. Default
    /// `true`.
    fn in_background(&self) -> bool {
        true
    }
}

/// Elsewhere nobody tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn touched_bytes() -> i64 {
    0
}

/// Nor for how long one has run.
#[cfg(not(target_os = "linux"))]
pub(crate) fn run_time() -> std::time::Duration {
    std::time::Duration::ZERO
}

/// Nor of that.
#[cfg(not(target_os = "linux"))]
pub(crate) fn anonymous_bytes() -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn process_bytes() -> Option<u64> {
    None
}

/// The name of the source that goes by what the host has available.
#[cfg(target_os = "linux")]
pub(crate) const HOST: &str = "host memory";

/// The source that is asked for. `group`: whose directory one gave; `has_limit`: one gave a
/// limit, too.
#[cfg(target_os = "linux")]
pub(crate) fn open(source: Source, group: Option<&Path>, has_limit: bool) -> Box<dyn MemorySource> {
    let here = machine::Machine::here();
    match (source, group) {
        (Source::Process, _) => Box::new(process::ProcessMemory::new(here, false)),
        (Source::Host, _) => Box::new(process::ProcessMemory::new(here, true)),
        (_, Some(path)) => Box::new(cgroup::CgroupMemory::at(here, path)),
        (Source::Cgroup, None) => Box::new(auto::Auto::of_groups(here)),
        (Source::Auto, None) => Box::new(auto::Auto::new(here, !has_limit)),
    }
}

/// The group that what one gave leads to, unless it is the process's own: whose memory is
/// measured.
#[cfg(target_os = "linux")]
pub(crate) fn foreign_group(source: Source, group: Option<&Path>) -> Option<PathBuf> {
    let given = match source {
        Source::Process | Source::Host => None,
        _ => group,
    };
    discovery::foreign_group(&machine::Machine::here(), given?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn foreign_group(_: Source, group: Option<&Path>) -> Option<PathBuf> {
    group.map(Path::to_owned)
}

/// No source: the guard counts and queues.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open(_: Source, _: Option<&Path>, _: bool) -> Box<dyn MemorySource> {
    Box::new(unseen::Unseen)
}
