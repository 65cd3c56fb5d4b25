//! A memory limit for a server: a control group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::group;

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
        let directory = group::v1(limit_bytes, &name).or_else(|_| group::v2(limit_bytes, &name))?;
        Ok(Self { directory })
    }

    /// The directory that the server enters.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of the group that the kernel cannot take back: usage less page cache.
    pub(crate) fn memory_bytes(&self) -> io::Result<u64> {
        let usage_bytes = group::number(&usage_file(&self.directory))?;
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
        group::remove(&self.directory);
    }
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
        let own = group::own_group(|line| line.split(':').nth(1) == Some("cpu"))?;
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
        group::remove(&self.directory);
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
