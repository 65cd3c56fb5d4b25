use std::fs;

use super::super::MemoryLevel;
use super::super::laid_out::MIB;
use super::*;

/// Of a usage of 1,000.
const V2_STAT: &str = "anon 300\nfile 660\nkernel 40\nshmem 0\nsock 0\nfile_dirty 0\n\
                       file_writeback 0\nslab_reclaimable 20\ninactive_file 400\n";

fn v2_group(directory: &Path, usage: &str, limit: &str, stat: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("memory.current"), usage).unwrap();
    fs::write(directory.join("memory.max"), limit).unwrap();
    fs::write(directory.join("memory.high"), "max\n").unwrap();
    fs::write(directory.join("memory.stat"), stat).unwrap();
}

fn read(source: &mut CgroupMemory, detail: Detail) -> io::Result<Vec<MemoryLevel>> {
    let mut sample = Sample::default();
    source.read(detail, &mut sample)?;
    Ok(sample.levels)
}

#[test]
fn every_group_up_to_the_root_is_a_level() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("pod/app");
    v2_group(&own, "1000\n", "max\n", V2_STAT);
    v2_group(
        &root.path().join("pod"),
        "5000\n",
        "8000\n",
        "anon 4000\nfile 1000\n",
    );
    let levels = read(&mut CgroupMemory::at(Machine::here(), &own), Detail::Full).unwrap();
    assert_eq!(
        levels,
        [
            MemoryLevel::new(300 + 40 - 20, None),
            MemoryLevel::new(4000, Some(8000)),
        ]
    );
}

#[test]
fn a_quick_read_takes_off_what_the_last_full_one_found_reclaimable() {
    let root = tempfile::tempdir().unwrap();
    v2_group(root.path(), "1000\n", "8000\n", V2_STAT);
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    read(&mut source, Detail::Full).unwrap();
    fs::write(root.path().join("memory.current"), "1250\n").unwrap();
    assert_eq!(
        read(&mut source, Detail::Quick).unwrap()[0].usage_bytes,
        320 + 250
    );
    // It fell: that may have been cache, so nothing is known to be free.
    fs::write(root.path().join("memory.current"), "800\n").unwrap();
    assert_eq!(
        read(&mut source, Detail::Quick).unwrap()[0].usage_bytes,
        320
    );
}

#[test]
fn a_file_written_between_two_full_reads_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    v2_group(root.path(), "1000\n", "8000\n", V2_STAT);
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    read(&mut source, Detail::Full).unwrap();
    let written = V2_STAT.replace("file 660", "file 7560");
    v2_group(root.path(), "7900\n", "8000\n", &written);
    let quick = |source: &mut CgroupMemory| read(source, Detail::Quick).unwrap()[0].usage_bytes;
    assert_eq!(quick(&mut source), 320);
    // From there on what is added counts again.
    fs::write(root.path().join("memory.current"), "7950\n").unwrap();
    assert_eq!(quick(&mut source), 320 + 50);
    // Deleted; what grows in its place is seen.
    let grown = V2_STAT.replace("anon 300", "anon 3300");
    v2_group(root.path(), "4000\n", "8000\n", &grown);
    assert_eq!(quick(&mut source), 3320);
}

#[test]
fn a_limit_that_changes_is_followed() {
    let root = tempfile::tempdir().unwrap();
    v2_group(root.path(), "1000\n", "8000\n", V2_STAT);
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    assert_eq!(
        read(&mut source, Detail::Full).unwrap()[0].limit_bytes,
        Some(8000)
    );
    fs::write(root.path().join("memory.max"), "4000\n").unwrap();
    fs::write(root.path().join("memory.high"), "3000\n").unwrap();
    let level = read(&mut source, Detail::Full).unwrap()[0];
    assert_eq!(
        (level.limit_bytes, level.high_bytes),
        (Some(4000), Some(3000))
    );
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_the_file_and_heals() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("app");
    let mut source = CgroupMemory::at(Machine::here(), &own);
    let missing = read(&mut source, Detail::Full).unwrap_err();
    assert!(
        missing.to_string().contains("app/memory.current"),
        "{missing}"
    );

    v2_group(&own, "10x\n", "8000\n", V2_STAT);
    let malformed = read(&mut source, Detail::Full).unwrap_err();
    assert!(
        malformed
            .to_string()
            .contains("memory.current: expected bytes"),
        "{malformed}"
    );

    // Half written: there is nothing in it yet.
    fs::write(own.join("memory.current"), "").unwrap();
    assert!(read(&mut source, Detail::Full).is_err());

    fs::write(own.join("memory.current"), "1000\n").unwrap();
    assert_eq!(read(&mut source, Detail::Full).unwrap()[0].usage_bytes, 320);

    fs::remove_dir_all(&own).unwrap();
    let removed = read(&mut source, Detail::Full).unwrap_err();
    assert!(removed.to_string().contains("was removed"), "{removed}");
}

#[test]
fn cache_that_grows_in_a_group_without_a_limit_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    v2_group(root.path(), "1000\n", "max\n", V2_STAT);
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    read(&mut source, Detail::Full).unwrap();
    let grown = V2_STAT.replace("file 660", "file 8660");
    v2_group(root.path(), "9000\n", "max\n", &grown);
    assert_eq!(read(&mut source, Detail::Full).unwrap()[0].usage_bytes, 320);
}

#[test]
fn what_is_charged_and_not_named_counts() {
    let root = tempfile::tempdir().unwrap();
    // Huge pages, which some kernels charge and do not list.
    v2_group(
        root.path(),
        "3221225472\n",
        "4294967296\n",
        "anon 536870912\nfile 0\nkernel 0\nshmem 0\nsock 0\n",
    );
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    for detail in [Detail::Full, Detail::Quick] {
        let levels = read(&mut source, detail).unwrap();
        assert_eq!(levels, [MemoryLevel::new(3 << 30, Some(4 << 30))]);
    }
}

#[test]
fn version_1_takes_the_tightest_limit_it_is_told_of() {
    let root = tempfile::tempdir().unwrap();
    let write = |name, text: &str| fs::write(root.path().join(name), text).unwrap();
    write("memory.usage_in_bytes", "9000\n");
    write("memory.limit_in_bytes", "9223372036854771712\n");
    write("memory.kmem.usage_in_bytes", "50\n");
    write(
        "memory.stat",
        "hierarchical_memory_limit 12000\ntotal_cache 8250\ntotal_rss 700\n",
    );
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    for detail in [Detail::Full, Detail::Quick, Detail::Full] {
        let levels = read(&mut source, detail).unwrap();
        assert_eq!(levels, [MemoryLevel::new(750, Some(12000))]);
    }
}

#[test]
fn what_is_on_swap_and_not_in_memory_too_is_told() {
    let root = tempfile::tempdir().unwrap();
    let stat = format!("{V2_STAT}swapcached 30\n");
    v2_group(root.path(), "1000\n", "8000\n", &stat);
    fs::write(root.path().join("memory.swap.current"), "200\n").unwrap();
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    for detail in [Detail::Full, Detail::Quick, Detail::Full] {
        let level = read(&mut source, detail).unwrap()[0];
        assert_eq!((level.usage_bytes, level.swapped_bytes), (320, 170));
    }
}

#[test]
fn version_1_may_end_where_memory_and_swap_do() {
    let root = tempfile::tempdir().unwrap();
    let write = |name, text: &str| fs::write(root.path().join(name), text).unwrap();
    write("memory.usage_in_bytes", "700\n");
    write("memory.limit_in_bytes", "9000\n");
    write("memory.memsw.usage_in_bytes", "1000\n");
    write("memory.memsw.limit_in_bytes", "10000\n");
    write("memory.stat", "total_cache 0\ntotal_rss 700\n");
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    let own = MemoryLevel {
        swapped_bytes: 300,
        ..MemoryLevel::new(700, Some(9000))
    };
    let with_swap = MemoryLevel::new(1000, Some(10000));
    for detail in [Detail::Full, Detail::Quick, Detail::Full] {
        assert_eq!(read(&mut source, detail).unwrap(), [own, with_swap]);
    }
    // Of a group above that cannot be seen.
    let tighter = "hierarchical_memsw_limit 1100\ntotal_cache 0\ntotal_rss 700\n";
    write("memory.stat", tighter);
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    let levels = read(&mut source, Detail::Full).unwrap();
    assert_eq!(levels[1], MemoryLevel::new(1000, Some(1100)));
    // Nothing is swapped: the limit is the lower one.
    write("memory.memsw.usage_in_bytes", "700\n");
    assert_eq!(read(&mut source, Detail::Full).unwrap().len(), 1);
}

#[test]
fn levels_keep_their_places_when_swap_is_used_no_more() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("app");
    fs::create_dir_all(&own).unwrap();
    let write = |name: &str, usage: u64| {
        fs::write(root.path().join(name), format!("{usage}\n")).unwrap();
    };
    let unlimited = 9223372036854771712;
    write("memory.usage_in_bytes", 50_000);
    write("memory.limit_in_bytes", unlimited);
    write("app/memory.limit_in_bytes", 9000);
    write("app/memory.memsw.limit_in_bytes", 10_000);
    let hold = |usage: u64, with_swap: u64| {
        write("app/memory.usage_in_bytes", usage);
        write("app/memory.memsw.usage_in_bytes", with_swap);
    };
    hold(700, 1000);
    let mut source = CgroupMemory::at(Machine::here(), &own);
    let mut usages = |detail| -> Vec<_> {
        let levels = read(&mut source, detail).unwrap();
        levels.iter().map(|level| level.usage_bytes).collect()
    };
    assert_eq!(usages(Detail::Full), [700, 50_000, 1000]);
    // Far enough from there that a quick sample looks.
    hold(1400, 1400);
    assert_eq!(usages(Detail::Quick), [1400, 50_000]);
}

#[test]
fn a_quick_read_keeps_what_is_known_of_stalls() {
    let root = tempfile::tempdir().unwrap();
    v2_group(root.path(), "1000\n", "8000\n", V2_STAT);
    let pressure = "some avg10=9.00\nfull avg10=7.50 avg60=0.00 avg300=0.00 total=4\n";
    fs::write(root.path().join("memory.pressure"), pressure).unwrap();
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    for detail in [Detail::Full, Detail::Quick] {
        let mut sample = Sample::default();
        source.read(detail, &mut sample).unwrap();
        assert_eq!(sample.stall_percent, 7.5);
    }
}

#[test]
fn a_file_written_far_below_the_groups_limit_does_not_count_either() {
    // The guard may have a lower limit of its own.
    for limit in ["17179869184\n", "max\n"] {
        let root = tempfile::tempdir().unwrap();
        let group = |anon: u64, file: u64| {
            let stat = format!("anon {}\nfile {}\nkernel 0\n", anon * MIB, file * MIB);
            let usage = format!("{}\n", (anon + file) * MIB);
            v2_group(root.path(), &usage, limit, &stat);
        };
        group(1600, 0);
        let mut source = CgroupMemory::at(Machine::here(), root.path());
        read(&mut source, Detail::Full).unwrap();
        group(1600, 450);
        let quick = |source: &mut CgroupMemory| read(source, Detail::Quick).unwrap()[0].usage_bytes;
        assert_eq!(quick(&mut source), 1600 * MIB, "{limit}");
        // What is little may be anything.
        group(1600, 460);
        assert_eq!(quick(&mut source), 1610 * MIB, "{limit}");
    }
}
