//! Which bytes count: those that the kernel does not take back before it kills.
//!
//! A control group's usage includes page cache, so a process that reads files
//! would look full for ever. `memory.stat` says what the usage is made of; the
//! fields differ between the two versions of control groups and between
//! kernels. `docs/platforms.md` lists each field and what was measured.
//! Fields: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory>
//! and <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.

use std::{fs, io};

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
        let cpus = fs::read_to_string("/sys/devices/system/cpu/online");
        Self {
            by_generations: match generations {
                Ok(switches) => is_by_generations(&switches),
                // Kernels without it have no such file.
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            },
            lag_bytes: cpus.map_or(1, |list| number_of_cpus(&list))
                * LAG_PAGES
                * procfs::page_size(),
        }
    }
}

/// For each CPU the kernel charges up to 64 pages in advance and lets the
/// statistics lag behind by 64 more.
const LAG_PAGES: u64 = 2 * 64;

/// `0x0007`: bit 0 is the main switch. What cannot be read counts as on, the
/// safe side.
fn is_by_generations(switches: &str) -> bool {
    let hex = switches.trim().trim_start_matches("0x");
    u64::from_str_radix(hex, 16).map_or(true, |bits| bits & 1 == 1)
}

/// How many CPUs a list like `0-3,8` names.
fn number_of_cpus(list: &str) -> u64 {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => last.saturating_sub(first) + 1,
            _ => 0,
        }
    });
    ranges.sum::<u64>().max(1)
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
    /// What counts of `usage`. `waits`: the kernel has pages written and waits
    /// for that rather than kill.
    fn counted(&self, usage: u64, waits: bool, lag_bytes: u64) -> Option<u64> {
        let Some(anon) = self.anon else {
            return self.without_cache(usage);
        };
        let file = self.file.unwrap_or(0);
        let cache = file.saturating_sub(self.shmem);
        let unwritten = if waits {
            0
        } else {
            self.dirty + self.writeback
        };
        let kept = (self.locked(cache) + unwritten).min(cache);
        let kernel = self.kernel.saturating_sub(self.reclaimable);
        let named = anon + self.kernel + self.sock + self.hugetlb;
        let counted = anon + self.shmem + kept + kernel + self.sock + self.hugetlb;
        // Charged and not named, such as huge pages on some kernels: nothing
        // says that it could be had back.
        let unnamed = usage.saturating_sub(named + file.max(self.shmem));
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
    let mut parts = Parts::default();
    let (mut sum, mut summands) = (None, 0);
    for (name, bytes) in Fields::new(stat) {
        match name {
            "anon" => parts.anon = Some(bytes),
            "file" => parts.file = Some(bytes),
            "shmem" => parts.shmem = bytes,
            "file_dirty" => parts.dirty = bytes,
            "file_writeback" => parts.writeback = bytes,
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
    parts.counted(usage, false, kernel.lag_bytes)
}

/// Version 1 puts no limit on a group's dirty pages, so its reclaim waits until
/// they are written, unless it goes by generations. It does not say how much of
/// the kernel memory could be reclaimed.
pub(super) fn v1(stat: &str, usage: u64, kernel_bytes: u64, kernel: &Kernel) -> Option<u64> {
    let mut parts = Parts {
        kernel: kernel_bytes,
        ..Parts::default()
    };
    for (name, bytes) in Fields::new(stat) {
        match name {
            "total_rss" => parts.anon = Some(bytes),
            "total_cache" => parts.file = Some(bytes),
            "total_shmem" => parts.shmem = bytes,
            "total_dirty" => parts.dirty = bytes,
            "total_writeback" => parts.writeback = bytes,
            "total_inactive_file" => parts.inactive_file = Some(bytes),
            "total_active_file" => parts.active_file = Some(bytes),
            "total_unevictable" => parts.unevictable = bytes,
            _ => {}
        }
    }
    parts.counted(usage, !kernel.by_generations, kernel.lag_bytes)
}

/// What a `memory.stat` says under this name.
pub(super) fn field(stat: &str, name: &str) -> Option<u64> {
    let mut fields = Fields::new(stat);
    fields
        .find(|&(other, _)| other == name)
        .map(|field| field.1)
}

/// The `name value` lines of a `memory.stat`.
struct Fields<'a> {
    lines: std::str::Lines<'a>,
}

impl<'a> Fields<'a> {
    fn new(stat: &'a str) -> Self {
        Self {
            lines: stat.lines(),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        self.lines.find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A kernel with two lists of pages, and statistics without a lag.
    const BY_LISTS: Kernel = Kernel {
        by_generations: false,
        lag_bytes: 0,
    };
    const BY_GENERATIONS: Kernel = Kernel {
        by_generations: true,
        lag_bytes: 0,
    };

    #[test]
    fn page_cache_and_reclaimable_slab_do_not_count() {
        let stat = "anon 100\nfile 5000\nkernel 40\nsock 3\nshmem 7\nfile_dirty 0\n\
                    file_writeback 0\nslab_reclaimable 30\nslab_unreclaimable 5\nslab 35\n\
                    inactive_file 4000\nactive_file 993\nunevictable 0\n";
        let usage = 100 + 5000 + 40 + 3;
        assert_eq!(v2(stat, usage, &BY_LISTS), Some(100 + (40 - 30) + 3 + 7));
    }

    #[test]
    fn version_2_does_not_wait_for_a_disk() {
        let stat = "anon 100\nfile 5000\nkernel 0\nshmem 7\nfile_dirty 11\nfile_writeback 13\n";
        for kernel in [BY_LISTS, BY_GENERATIONS] {
            assert_eq!(v2(stat, 5100, &kernel), Some(100 + 7 + 11 + 13));
        }
    }

    #[test]
    fn version_1_waits_for_a_disk_unless_it_reclaims_by_generations() {
        let stat = "total_cache 4000\ntotal_rss 100\ntotal_dirty 3000\ntotal_writeback 500\n";
        assert_eq!(v1(stat, 4100, 0, &BY_LISTS), Some(100));
        assert_eq!(v1(stat, 4100, 0, &BY_GENERATIONS), Some(100 + 3000 + 500));
    }

    #[test]
    fn locked_file_pages_count() {
        // As a 6.12 kernel showed it: 100 MiB of a file mapped and locked, 60
        // MiB of another read, 100 MiB of anonymous memory.
        let stat = "anon 104988672\nfile 167780352\nkernel 5505024\nsock 0\nshmem 0\n\
                    file_dirty 0\nfile_writeback 0\ninactive_anon 0\nactive_anon 104988672\n\
                    inactive_file 62922752\nactive_file 0\nunevictable 104857600\n\
                    slab_reclaimable 4975616\n";
        let usage = 278274048;
        let counted = 104988672 + 5505024 - 4975616 + 104857600;
        assert_eq!(v2(stat, usage, &BY_LISTS), Some(counted));

        let stat = "total_cache 1000\ntotal_rss 50\ntotal_shmem 0\ntotal_dirty 400\n\
                    total_inactive_file 500\ntotal_active_file 100\ntotal_unevictable 400\n";
        assert_eq!(v1(stat, 1050, 0, &BY_LISTS), Some(50 + 400));
        // Locked and dirty at once is held once only, if all of the file is.
        let stat = "anon 50\nfile 400\nkernel 0\nshmem 0\nfile_dirty 400\n\
                    inactive_file 0\nactive_file 0\nunevictable 400\n";
        assert_eq!(v2(stat, 450, &BY_LISTS), Some(450));
    }

    #[test]
    fn locked_anonymous_and_shared_memory_counts_once() {
        // 300 of the anonymous and all shared pages are locked.
        let stat = "anon 500\nfile 1000\nkernel 0\nshmem 200\ninactive_file 700\n\
                    active_file 100\nunevictable 500\n";
        assert_eq!(v2(stat, 1500, &BY_LISTS), Some(500 + 200));
    }

    #[test]
    fn pages_on_no_list_yet_are_not_locked() {
        let stat = "anon 0\nfile 1000\nkernel 0\nshmem 0\ninactive_file 700\n\
                    active_file 200\nunevictable 0\n";
        assert_eq!(v2(stat, 1000, &BY_LISTS), Some(0));
    }

    #[test]
    fn huge_pages_count_whether_named_or_not() {
        let anon = 512 * MIB;
        let usage = 3 << 30;
        // 6.6 to 6.12 charge them and do not say so.
        let stat = format!("anon {anon}\nfile 0\nkernel 0\nshmem 0\nsock 0\n");
        assert_eq!(v2(&stat, usage, &BY_LISTS), Some(usage));
        let stat = format!("{stat}hugetlb {}\n", 2560 * MIB);
        assert_eq!(v2(&stat, usage, &BY_LISTS), Some(usage));
    }

    #[test]
    fn a_difference_that_is_a_lag_of_the_statistics_does_not_count() {
        let kernel = Kernel {
            lag_bytes: MIB,
            ..BY_LISTS
        };
        let stat = "anon 4096\nfile 8192\nkernel 0\nshmem 0\nsock 0\n";
        assert_eq!(v2(stat, 12288 + MIB, &kernel), Some(4096));
        assert_eq!(v2(stat, 12288 + MIB + 1, &kernel), Some(4096 + MIB + 1));
        let stat = "total_rss 4096\ntotal_cache 8192\n";
        assert_eq!(v1(stat, 12288 + MIB, 0, &kernel), Some(4096));
        assert_eq!(v1(stat, 12288 + 3 * MIB, 0, &kernel), Some(4096 + 3 * MIB));
    }

    #[test]
    fn compressed_swap_is_kernel_memory_already() {
        let stat = "anon 100\nfile 0\nkernel 60\nshmem 0\nzswap 50\nzswapped 400\n\
                    sec_pagetables 5\nvmalloc 3\nslab_reclaimable 0\n";
        assert_eq!(v2(stat, 1000, &LAGGING), Some(160));
    }

    /// Differences do not matter to these tests.
    const LAGGING: Kernel = Kernel {
        by_generations: false,
        lag_bytes: 1 << 30,
    };

    #[test]
    fn kernels_without_the_kernel_field_are_summed() {
        let stat = "anon 100\nfile 0\nkernel_stack 4\npagetables 6\npercpu 2\nvmalloc 9\n\
                    sock 0\nshmem 0\nslab_reclaimable 10\nslab 15\n";
        let parts = 4 + 6 + 2 + 9 + 15 - 10;
        assert_eq!(v2(stat, 6000, &LAGGING), Some(100 + parts));
    }

    #[test]
    fn pages_given_back_with_madv_free_count_until_the_kernel_takes_them() {
        // 300 of the anonymous bytes stand on the inactive file list.
        let stat = "anon 500\nfile 0\nkernel 0\nshmem 0\nsock 0\ninactive_file 300\n";
        assert_eq!(v2(stat, 500, &BY_LISTS), Some(500));
    }

    #[test]
    fn version_1_counts_what_its_subtree_holds() {
        let stat = "cache 1\nrss 2\ntotal_cache 4000\ntotal_rss 100\ntotal_shmem 7\n\
                    total_inactive_file 3900\n";
        assert_eq!(v1(stat, 4120, 20, &BY_LISTS), Some(100 + 7 + 20));
        assert_eq!(v1("hierarchical_memory_limit 99\n", 1, 0, &BY_LISTS), None);
        let limited = "rss 1\nhierarchical_memory_limit 99\n";
        assert_eq!(field(limited, "hierarchical_memory_limit"), Some(99));
    }

    #[test]
    fn without_the_parts_inactive_file_pages_are_taken_off_the_usage() {
        let stat = "file 300\ninactive_file 400\n";
        assert_eq!(v2(stat, 1000, &BY_LISTS), Some(700));
        assert_eq!(v2("inactive_file 400\n", 100, &BY_LISTS), Some(0));
        assert_eq!(v2("", 1000, &BY_LISTS), None);
        assert_eq!(v2("anon\nanon x\n", 1000, &BY_LISTS), None);
    }

    #[test]
    fn never_more_than_the_usage() {
        // memory.stat lags behind.
        assert_eq!(v2("anon 900\nfile 0\n", 800, &BY_LISTS), Some(800));
    }

    #[test]
    fn what_the_kernel_says_about_itself() {
        assert!(is_by_generations("0x0007\n"));
        assert!(is_by_generations("0x0001\n"));
        assert!(!is_by_generations("0x0000\n"));
        assert!(!is_by_generations("0x0006\n"));
        assert!(is_by_generations("?\n"));
        assert_eq!(number_of_cpus("0\n"), 1);
        assert_eq!(number_of_cpus("0-3,8,10-11\n"), 7);
        assert_eq!(number_of_cpus(""), 1);
    }
}
