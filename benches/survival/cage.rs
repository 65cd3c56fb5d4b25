//! A memory limit for a server: a control group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const V1_USAGE: &str = "memory.usage_in_bytes";
const V2_USAGE: &str = "memory.current";

pub(crate) struct Cage {
    directory: PathBuf,
}

impl Cage {
    pub(crate) fn new(limit_bytes: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("memory-guard-survival-{}-{number}", std::process::id());
        let directory = v1(limit_bytes, &name).or_else(|_| v2(limit_bytes, &name))?;
        Ok(Self { directory })
    }

    /// The directory that the server enters.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of the group that the kernel cannot take back: usage less page cache.
    pub(crate) fn memory_bytes(&self) -> io::Result<u64> {
        let usage_bytes = number(&usage_file(&self.directory))?;
        let stat = fs::read_to_string(self.directory.join("memory.stat"))?;
        // Version 1 prefixes what covers the groups below, too.
        let cached_bytes: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| matches!(*name, "active_file" | "inactive_file"))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        Ok(usage_bytes.saturating_sub(cached_bytes))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

fn remove(directory: &Path) {
    // A process that was just killed may still be on its way out.
    for _ in 0..100 {
        if fs::remove_dir(directory).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("survival: {} stays behind", directory.display());
}

/// A bound on processor time: a control group of version 1.
pub(crate) struct CpuQuota {
    directory: PathBuf,
}

impl CpuQuota {
    pub(crate) fn new(percent: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("memory-guard-survival-{}-{number}", std::process::id());
        let own = own_group(|line| line.split(':').nth(1) == Some("cpu"))?;
        let directory = Path::new("/sys/fs/cgroup/cpu").join(own).join(name);
        fs::create_dir(&directory)?;
        let quota = Self { directory };
        // Of periods of 100 ms.
        let microseconds = (percent * 1000).to_string();
        fs::write(quota.directory.join("cpu.cfs_quota_us"), microseconds)?;
        Ok(quota)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Where a group tells what it uses.
pub(crate) fn usage_file(directory: &Path) -> PathBuf {
    let v1 = directory.join(V1_USAGE);
    if v1.exists() {
        v1
    } else {
        directory.join(V2_USAGE)
    }
}

/// Moves this process into the group.
pub(crate) fn enter(directory: &Path) -> io::Result<()> {
    fs::write(
        directory.join("cgroup.procs"),
        std::process::id().to_string(),
    )
}

fn v1(limit_bytes: u64, name: &str) -> io::Result<PathBuf> {
    let own = own_group(|line| line.split(':').nth(1) == Some("memory"))?;
    let directory = Path::new("/sys/fs/cgroup/memory").join(own).join(name);
    make(&directory, "memory.limit_in_bytes", limit_bytes)?;
    // Without a bound on swap, a host that has some does not kill.
    let _ = fs::write(
        directory.join("memory.memsw.limit_in_bytes"),
        limit_bytes.to_string(),
    );
    Ok(directory)
}

/// Under the nearest group that may hand the controller down: one that holds
/// processes, as the own group does, may not, unless it is the root.
fn v2(limit_bytes: u64, name: &str) -> io::Result<PathBuf> {
    let own = own_group(|line| line.starts_with("0::"))?;
    let hands_down = |group: &Path| {
        let control = group.join("cgroup.subtree_control");
        fs::read_to_string(&control).is_ok_and(|all| all.split_whitespace().any(|c| c == "memory"))
            || fs::write(&control, "+memory").is_ok()
    };
    let group = own
        .ancestors()
        .map(|group| Path::new("/sys/fs/cgroup").join(group))
        .find(|group| hands_down(group))
        .ok_or(io::ErrorKind::PermissionDenied)?;
    let directory = group.join(name);
    make(&directory, "memory.max", limit_bytes)?;
    let _ = fs::write(directory.join("memory.swap.max"), "0");
    Ok(directory)
}

fn make(directory: &Path, file: &str, limit_bytes: u64) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::write(directory.join(file), limit_bytes.to_string()).inspect_err(|_| {
        let _ = fs::remove_dir(directory);
    })
}

/// This process's group, relative to the mount.
fn own_group(is_it: impl Fn(&str) -> bool) -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let line = groups
        .lines()
        .find(|line| is_it(line))
        .ok_or(io::ErrorKind::NotFound)?;
    let path = line.splitn(3, ':').nth(2).unwrap_or("/");
    Ok(PathBuf::from(path.trim_start_matches('/')))
}

fn number(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    text.trim().parse().map_err(io::Error::other)
}
