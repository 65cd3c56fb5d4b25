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
    let (anon, file) = (40 * MIB, 60 * MIB);
    let named = anon + file;
    let stat = format!("anon {anon}\nfile {file}\nkernel 0\nshmem 0\nsock 0\n");
    assert_eq!(v2(&stat, named + MIB, &kernel), Some(anon));
    assert_eq!(v2(&stat, named + MIB + 1, &kernel), Some(anon + MIB + 1));
    let stat = format!("total_rss {anon}\ntotal_cache {file}\n");
    assert_eq!(v1(&stat, named + MIB, 0, &kernel), Some(anon));
    assert_eq!(v1(&stat, named + 3 * MIB, 0, &kernel), Some(anon + 3 * MIB));
}

#[test]
fn on_many_cpus_a_large_part_of_a_small_group_is_no_lag() {
    // 96 CPUs, and huge pages that the kernel does not name.
    let kernel = Kernel {
        lag_bytes: 48 * MIB,
        ..BY_LISTS
    };
    let stat = format!("anon {}\nfile 0\nkernel {}\n", 205 * MIB, 7 * MIB);
    let counted = v2(&stat, 250 * MIB, &kernel).unwrap();
    assert!(counted >= 246 * MIB, "{} MiB", counted / MIB);
    let counted = v2(&stat, 215 * MIB, &kernel);
    assert_eq!(counted, Some(212 * MIB));
}

#[test]
fn compressed_swap_is_kernel_memory_already() {
    let stat = "anon 100\nfile 0\nkernel 60\nshmem 0\nzswap 50\nzswapped 400\n\
                sec_pagetables 5\nvmalloc 3\nslab_reclaimable 0\n";
    assert_eq!(v2(stat, 160, &BY_LISTS), Some(160));
}

#[test]
fn kernels_without_the_kernel_field_are_summed() {
    let stat = "anon 100\nfile 0\nkernel_stack 4\npagetables 6\npercpu 2\nvmalloc 9\n\
                sock 0\nshmem 0\nslab_reclaimable 10\nslab 15\n";
    let parts = 4 + 6 + 2 + 9 + 15 - 10;
    assert_eq!(v2(stat, 100 + parts + 10, &BY_LISTS), Some(100 + parts));
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
}

/// Charged 1,000 bytes under one name: how many of them count, and where that stands.
struct Row {
    stat: &'static str,
    counts: u64,
}

const fn row(stat: &'static str, counts: u64) -> Row {
    Row { stat, counts }
}

#[test]
fn each_row_of_the_table_for_version_2() {
    let rows = [
        row("anon 1000", 1000),
        row("file 1000\nshmem 1000\ninactive_file 0", 1000),
        row("file 1000\nactive_file 1000", 0),
        row(
            "file 1000\ninactive_file 0\nactive_file 0\nunevictable 1000",
            1000,
        ),
        // Locked anonymous memory is on that list too.
        row(
            "anon 1000\ninactive_file 0\nactive_file 0\nunevictable 1000",
            1000,
        ),
        row("file 1000\nfile_dirty 1000", 1000),
        row("file 1000\nfile_writeback 1000", 1000),
        row("file 1000\nfile_mapped 1000\nfile_thp 1000", 0),
        row("kernel 1000", 1000),
        row("kernel 1000\nslab 1000\nslab_reclaimable 1000", 0),
        row("kernel 1000\nslab 1000\nslab_unreclaimable 1000", 1000),
        row("kernel 1000\nkernel_stack 400\npagetables 600", 1000),
        row("kernel 1000\npercpu 400\nvmalloc 600", 1000),
        row("kernel 1000\nsec_pagetables 1000", 1000),
        row("kernel 1000\nzswap 1000\nzswapped 9000", 1000),
        // Before Linux 5.18.
        row("kernel_stack 400\npagetables 600", 1000),
        row("percpu 400\nvmalloc 600", 1000),
        row("slab 1000\nslab_unreclaimable 1000", 1000),
        row("slab 1000\nslab_reclaimable 1000", 0),
        row("sock 1000", 1000),
        row("hugetlb 1000", 1000),
        // Nothing names it.
        row("", 1000),
        row(
            "anon 1000\nanon_thp 1000\nactive_anon 600\ninactive_anon 400",
            1000,
        ),
        row("file 1000\nshmem 1000\nshmem_thp 1000", 1000),
        row("anon 1000\nswapcached 300", 1000),
        row(
            "file 1000\npgfault 900\nworkingset_refault_file 9\npgscan 9",
            0,
        ),
    ];
    for Row { stat, counts } in rows {
        // The kernel writes every field.
        let absent = |name: &str| {
            !stat
                .lines()
                .any(|line| line.starts_with(&format!("{name} ")))
        };
        let rest = ["anon", "file"].into_iter().filter(|name| absent(name));
        let rest: String = rest.map(|name| format!("{name} 0\n")).collect();
        let stat = format!("{rest}{stat}\n");
        assert_eq!(v2(&stat, 1000, &BY_LISTS), Some(counts), "{stat}");
    }
}

#[test]
fn each_row_of_the_table_for_version_1() {
    let rows = [
        row("total_rss 1000", 1000),
        row("total_cache 1000\ntotal_shmem 1000", 1000),
        row("total_cache 1000\ntotal_inactive_file 1000", 0),
        row(
            "total_cache 1000\ntotal_inactive_file 0\ntotal_active_file 0\ntotal_unevictable 1000",
            1000,
        ),
        row("total_cache 1000\ntotal_dirty 600\ntotal_writeback 400", 0),
        row("total_cache 1000\ntotal_mapped_file 1000", 0),
        row("total_rss 1000\ntotal_rss_huge 1000\ntotal_swap 5000", 1000),
        row("total_cache 1000\ntotal_pgpgin 7\ntotal_pgfault 7", 0),
        // What stands for the group alone does not count: groups below it do.
        row("total_cache 1000\nrss 7\nunevictable 1000\ndirty 1000", 0),
        row("", 1000),
    ];
    for Row { stat, counts } in rows {
        let absent = |name: &str| !stat.contains(name);
        let rest = ["total_rss ", "total_cache "].into_iter();
        let rest = rest.filter(|name| absent(name));
        let rest: String = rest.map(|name| format!("{name}0\n")).collect();
        let stat = format!("{rest}{stat}\n");
        assert_eq!(v1(&stat, 1000, 0, &BY_LISTS), Some(counts), "{stat}");
    }
    // memory.kmem.usage_in_bytes: dentries and inodes cannot be told from the rest.
    let stat = "total_rss 500000\ntotal_cache 100000\n";
    assert_eq!(
        v1(stat, 17_100_000, 16_500_000, &BY_LISTS),
        Some(17_000_000)
    );
}
