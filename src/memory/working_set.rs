//! Which bytes count: those that the kernel does not take back before it kills.
//!
//! A control group's usage includes page cache, so a process that reads files
//! would look full for ever. `memory.stat` says what the usage is made of; the
//! fields differ between the two versions of control groups and between
//! kernels. `docs/platforms.md` lists each field and what was measured.
//! Fields: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory>
//! and <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.

use std::{fs, io};

use nix::unistd::{SysconfVar, sysconf};

use super::machine::page_bytes;

/// What the running kernel does, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kernel {
    /// Reclaim goes by generations (MGLRU) and does not wait for a disk.
    by_generations: bool,
    /// By so much `memory.stat` may differ from the usage without meaning anything.
    lag_bytes: u64,
}

impl Kernel {
    pub(super) fn of_this_machine() -> Self {
        let generations = fs::read_to_string("/sys/kernel/mm/lru_gen/enabled");
        let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        Self {
            by_generations: match generations {
                Ok(switches) => is_by_generations(&switches),
                // Kernels without it have no such file.
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            },
            lag_bytes: cpus.map_or(1, |cpus| cpus as u64) * LAG_PAGES * page_bytes(),
        }
    }
}

/// For each CPU the kernel charges up to 64 pages in advance and lets the
/// statistics lag behind by 64 more.
const LAG_PAGES: u64 = 2 * 64;
/// That is never so much of the usage: where CPUs are many, it is a large part of a small
/// group, and few of them charge for that.
const MOST_LAG_PART: u64 = 64;

/// `0x0007`: bit 0 is the main switch. What cannot be read counts as on, the
/// safe side.
fn is_by_generations(switches: &str) -> bool {
    let hex = switches.trim().trim_start_matches("0x");
    u64::from_str_radix(hex, 16).map_or(true, |bits| bits & 1 == 1)
}

/// What a `memory.stat` says the usage is made of, in bytes.
#[derive(Default)]
struct Parts {
    /// Includes pages given back with `MADV_FREE` that the kernel has not taken
    /// yet, although they stand on the list of inactive file pages: the safe side.
    anon: Option<u64>,
    /// Files' pages, those of memory without a file (`shmem`) included.
    file: Option<u64>,
    shmem: u64,
    dirty: u64,
    writeback: u64,
    kernel: u64,
    reclaimable: u64,
    sock: u64,
    hugetlb: u64,
    inactive_file: Option<u64>,
    active_file: Option<u64>,
    unevictable: u64,
}

impl Parts {
    /// Of the lines whose names begin so, by the names of either version.
    fn read(stat: &str, prefix: &str) -> Self {
        let mut parts = Self::default();
        let (mut sum, mut summands) = (None, 0);
        for (name, bytes) in fields(stat) {
            match name.strip_prefix(prefix).unwrap_or_default() {
                "anon" | "rss" => parts.anon = Some(bytes),
                "file" | "cache" => parts.file = Some(bytes),
                "shmem" => parts.shmem = bytes,
                "file_dirty" | "dirty" => parts.dirty = bytes,
                "file_writeback" | "writeback" => parts.writeback = bytes,
                // Holds `zswap` and `sec_pagetables` too.
                "kernel" => sum = Some(bytes),
                // Before Linux 5.18 there is no sum.
                "slab" | "kernel_stack" | "pagetables" | "percpu" | "vmalloc" => summands += bytes,
                "slab_reclaimable" => parts.reclaimable = bytes,
                "sock" => parts.sock = bytes,
                "hugetlb" => parts.hugetlb = bytes,
                "inactive_file" => parts.inactive_file = Some(bytes),
                "active_file" => parts.active_file = Some(bytes),
                "unevictable" => parts.unevictable = bytes,
                _ => {}
            }
        }
        parts.kernel = sum.unwrap_or(summands);
        parts
    }

    /// What counts of `usage`. `waits`: the kernel has pages written and waits
    /// for that rather than kill.
    fn counted(&self, usage: u64, waits: bool, lag_bytes: u64) -> Option<u64> {
        let Some(anon) = self.anon else {
            return self.without_cache(usage);
        };
        let file = self.file.unwrap_or(0);
        let cache = file.saturating_sub(self.shmem);
        let unwritten = match waits {
            true => 0,
            false => self.dirty + self.writeback,
        };
        let kept = (self.locked(cache) + unwritten).min(cache);
        let kernel = self.kernel.saturating_sub(self.reclaimable);
        let named = anon + self.kernel + self.sock + self.hugetlb;
        let counted = anon + self.shmem + kept + kernel + self.sock + self.hugetlb;
        // Charged and not named, such as huge pages on some kernels: nothing
        // says that it could be had back.
        let unnamed = usage.saturating_sub(named + file.max(self.shmem));
        let lag_bytes = lag_bytes.min(usage / MOST_LAG_PART);
        let unnamed = if unnamed > lag_bytes { unnamed } else { 0 };
        Some((counted + unnamed).min(usage))
    }

    /// Of the `cache`, what is on neither list that is reclaimed from, because
    /// it is locked or has nowhere else to be. `unevictable` itself holds
    /// anonymous and shared memory too.
    fn locked(&self, cache: u64) -> u64 {
        match (self.inactive_file, self.active_file) {
            (Some(inactive), Some(active)) => cache
                .saturating_sub(inactive + active)
                .min(self.unevictable),
            _ => 0,
        }
    }

    fn without_cache(&self, usage: u64) -> Option<u64> {
        let cache = match (self.inactive_file, self.file) {
            (Some(inactive), Some(file)) => inactive.min(file),
            (Some(bytes), None) | (None, Some(bytes)) => bytes,
            (None, None) => return None,
        };
        Some(usage.saturating_sub(cache))
    }
}

/// Version 2, whose reclaim does not wait for a disk: it relies on the limit it
/// puts on dirty pages, and kills with those still there.
pub(super) fn v2(stat: &str, usage: u64, kernel: &Kernel) -> Option<u64> {
    Parts::read(stat, "").counted(usage, false, kernel.lag_bytes)
}

/// Version 1 puts no limit on a group's dirty pages, so its reclaim waits until
/// they are written, unless it goes by generations. It does not say how much of
/// the kernel memory could be reclaimed.
pub(super) fn v1(stat: &str, usage: u64, kernel_bytes: u64, kernel: &Kernel) -> Option<u64> {
    let parts = Parts {
        kernel: kernel_bytes,
        ..Parts::read(stat, "total_")
    };
    parts.counted(usage, !kernel.by_generations, kernel.lag_bytes)
}

/// What a `memory.stat` says under this name.
pub(super) fn field(stat: &str, name: &str) -> Option<u64> {
    let found = fields(stat).find(|&(other, _)| other == name);
    found.map(|(_, value)| value)
}

/// The `name value` lines of a `memory.stat`.
fn fields(stat: &str) -> impl Iterator<Item = (&str, u64)> {
    stat.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
#[path = "working_set_tests.rs"]
mod tests;
