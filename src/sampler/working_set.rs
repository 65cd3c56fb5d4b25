//! Which bytes count: those that the kernel cannot take back without I/O or swap.
//!
//! A control group's usage includes page cache, so a process that reads files
//! would look full for ever. `memory.stat` says what the usage is made of; the
//! fields differ between the two versions of control groups and between
//! kernels. Fields: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory>
//! and <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.

/// Version 2: `anon + kernel − reclaimable slab + shmem + sock` and the file
/// pages that must be written first.
///
/// `anon` still holds pages given back with `MADV_FREE` that the kernel has not
/// taken yet; `usage − inactive_file` would not, since it counts them as file
/// pages. Counting them is the safe side.
pub(super) fn v2(stat: &str, usage: u64) -> Option<u64> {
    let mut anon = None;
    let (mut kernel, mut kernel_parts, mut reclaimable) = (None, 0, 0);
    let (mut rest, mut file, mut inactive_file) = (0, None, None);
    for (name, bytes) in Fields::new(stat) {
        match name {
            "anon" => anon = Some(bytes),
            "kernel" => kernel = Some(bytes),
            // Before Linux 5.18 there is no sum.
            "slab" | "kernel_stack" | "pagetables" | "percpu" => kernel_parts += bytes,
            "slab_reclaimable" => reclaimable = bytes,
            "shmem" | "sock" | "file_dirty" | "file_writeback" => rest += bytes,
            "file" => file = Some(bytes),
            "inactive_file" => inactive_file = Some(bytes),
            _ => {}
        }
    }
    let kernel = kernel.unwrap_or(kernel_parts).saturating_sub(reclaimable);
    match anon {
        Some(anon) => Some((anon + kernel + rest).min(usage)),
        None => without_cache(usage, inactive_file, file),
    }
}

/// Version 1: `total_rss + total_shmem + total_dirty + total_writeback` and
/// kernel memory.
pub(super) fn v1(stat: &str, usage: u64, kernel: u64) -> Option<u64> {
    let (mut rss, mut rest) = (None, 0);
    let (mut cache, mut inactive_file) = (None, None);
    for (name, bytes) in Fields::new(stat) {
        match name {
            "total_rss" => rss = Some(bytes),
            "total_shmem" | "total_dirty" | "total_writeback" => rest += bytes,
            "total_cache" => cache = Some(bytes),
            "total_inactive_file" => inactive_file = Some(bytes),
            _ => {}
        }
    }
    match rss {
        Some(rss) => Some((rss + rest + kernel).min(usage)),
        None => without_cache(usage, inactive_file, cache),
    }
}

/// The limit that version 1 says holds here, ancestors that cannot be seen included.
pub(super) fn v1_hierarchical_limit(stat: &str) -> Option<u64> {
    Fields::new(stat)
        .find(|(name, _)| *name == "hierarchical_memory_limit")
        .map(|(_, bytes)| bytes)
}

fn without_cache(usage: u64, inactive_file: Option<u64>, file: Option<u64>) -> Option<u64> {
    let cache = match (inactive_file, file) {
        (Some(inactive), Some(file)) => inactive.min(file),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => return None,
    };
    Some(usage.saturating_sub(cache))
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

    #[test]
    fn page_cache_and_reclaimable_slab_do_not_count() {
        let stat = "anon 100\nfile 5000\nkernel 40\nsock 3\nshmem 7\nfile_dirty 11\n\
                    file_writeback 13\nslab_reclaimable 30\nslab_unreclaimable 5\nslab 35\n\
                    inactive_file 4000\n";
        assert_eq!(v2(stat, 6000), Some(100 + (40 - 30) + 3 + 7 + 11 + 13));
    }

    #[test]
    fn kernels_without_the_kernel_field_are_summed() {
        let stat = "anon 100\nfile 0\nkernel_stack 4\npagetables 6\npercpu 2\nsock 0\nshmem 0\n\
                    slab_reclaimable 10\nslab 15\n";
        assert_eq!(v2(stat, 6000), Some(100 + 4 + 6 + 2 + 15 - 10));
    }

    #[test]
    fn pages_given_back_with_madv_free_count_until_the_kernel_takes_them() {
        // 300 of the anonymous bytes stand on the inactive file list.
        let stat = "anon 500\nfile 0\nkernel 0\nshmem 0\nsock 0\ninactive_file 300\n";
        assert_eq!(v2(stat, 500), Some(500));
    }

    #[test]
    fn version_1_counts_what_its_subtree_holds() {
        let stat = "cache 1\nrss 2\ntotal_cache 4000\ntotal_rss 100\ntotal_shmem 7\n\
                    total_dirty 11\ntotal_writeback 13\ntotal_inactive_file 3900\n";
        assert_eq!(v1(stat, 5000, 20), Some(100 + 7 + 11 + 13 + 20));
        assert_eq!(v1("hierarchical_memory_limit 99\n", 1, 0), None);
        assert_eq!(
            v1_hierarchical_limit("rss 1\nhierarchical_memory_limit 99\n"),
            Some(99)
        );
    }

    #[test]
    fn without_the_parts_inactive_file_pages_are_taken_off_the_usage() {
        assert_eq!(v2("file 300\ninactive_file 400\n", 1000), Some(700));
        assert_eq!(v2("inactive_file 400\n", 100), Some(0));
        assert_eq!(v2("", 1000), None);
        assert_eq!(v2("anon\nanon x\n", 1000), None);
    }

    #[test]
    fn never_more_than_the_usage() {
        // memory.stat lags behind, by up to 64 pages for each CPU.
        assert_eq!(v2("anon 900\nfile 0\n", 800), Some(800));
    }
}
