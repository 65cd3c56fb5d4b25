use std::fs;

use super::*;

const V2_STAT: &str = "anon 300\nfile 500\nkernel 40\nshmem 0\nsock 0\nfile_dirty 0\n\
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
        "anon 4000\nfile 0\n",
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
    fs::write(root.path().join("memory.current"), "1500\n").unwrap();
    assert_eq!(
        read(&mut source, Detail::Quick).unwrap()[0].usage_bytes,
        320 + 500
    );
    // It fell: that may have been cache, so nothing is known to be free.
    fs::write(root.path().join("memory.current"), "700\n").unwrap();
    assert_eq!(
        read(&mut source, Detail::Quick).unwrap()[0].usage_bytes,
        320
    );
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
    v2_group(root.path(), "9000\n", "max\n", V2_STAT);
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
        "hierarchical_memory_limit 12000\ntotal_cache 8000\ntotal_rss 700\n",
    );
    let mut source = CgroupMemory::at(Machine::here(), root.path());
    for detail in [Detail::Full, Detail::Quick, Detail::Full] {
        let levels = read(&mut source, detail).unwrap();
        assert_eq!(levels, [MemoryLevel::new(750, Some(12000))]);
    }
}
