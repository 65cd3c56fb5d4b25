use std::fs;

use super::super::laid_out::{LaidOut, MIB};
use super::*;

fn read(source: &mut ProcessMemory) -> io::Result<Sample> {
    let mut sample = Sample::default();
    source.read(Detail::Full, &mut sample)?;
    Ok(sample)
}

fn host_of(laid_out: &LaidOut) -> ProcessMemory {
    ProcessMemory::new(laid_out.machine(), true)
}

#[test]
fn the_host_is_own_memory_and_what_is_available() {
    let laid_out = LaidOut::new();
    let sample = read(&mut host_of(&laid_out)).unwrap();
    let limit = (12 << 30) + 100 * MIB;
    assert_eq!(sample.levels, [MemoryLevel::new(100 * MIB, Some(limit))]);
    assert!(sample.limit_drifts && sample.warnings.is_empty());
}

#[test]
fn a_part_of_meminfo_is_enough() {
    let laid_out = LaidOut::new();
    // Before Linux 3.14.
    laid_out.write("proc/meminfo", "MemTotal: 9 kB\nMemFree:    1024 kB\n");
    let sample = read(&mut host_of(&laid_out)).unwrap();
    assert_eq!(sample.levels[0].limit_bytes, Some(101 * MIB));
}

#[test]
fn where_meminfo_is_hidden_all_physical_memory_counts_and_that_is_said_once() {
    let laid_out = LaidOut::new();
    fs::remove_file(laid_out.path("proc/meminfo")).unwrap();
    let mut host = host_of(&laid_out);
    let sample = read(&mut host).unwrap();
    let level = MemoryLevel::new(100 * MIB, Some(LaidOut::TOTAL));
    assert_eq!(sample.levels, [level]);
    let [warning] = &sample.warnings[..] else {
        panic!("{:?}", sample.warnings);
    };
    for part in [
        "/proc/meminfo",
        "ProcSubset=pid",
        "MEMORY_GUARD_MEMORY_LIMIT",
    ] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(read(&mut host).unwrap().warnings.len(), 0);
    // It can be read again.
    laid_out.write("proc/meminfo", "MemAvailable: 1024 kB\n");
    let sample = read(&mut host).unwrap();
    assert_eq!(sample.levels[0].limit_bytes, Some(101 * MIB));
}

#[test]
fn what_makes_no_sense_is_as_good_as_hidden() {
    let laid_out = LaidOut::new();
    for nonsense in ["", "MemAvailable:", "MemAvailable: x kB", "MemFree: -1 kB"] {
        laid_out.write("proc/meminfo", nonsense);
        let sample = read(&mut host_of(&laid_out)).unwrap();
        assert_eq!(sample.levels[0].limit_bytes, Some(LaidOut::TOTAL));
        assert_eq!(sample.warnings.len(), 1, "{nonsense:?}");
    }
    laid_out.write("proc/meminfo", "MemAvailable: 99999999999999999999 kB");
    assert!(read(&mut host_of(&laid_out)).is_ok());
    laid_out.write("proc/meminfo", "MemAvailable: 18446744073709551615 kB");
    assert!(read(&mut host_of(&laid_out)).is_ok());
}

#[test]
fn without_its_own_resident_memory_there_is_nothing_to_go_by() {
    let laid_out = LaidOut::new();
    laid_out.write("proc/self/statm", "99\n");
    let malformed = read(&mut host_of(&laid_out)).unwrap_err();
    assert!(
        malformed.to_string().contains("/proc/self/statm"),
        "{malformed}"
    );
    fs::remove_file(laid_out.path("proc/self/statm")).unwrap();
    let missing = read(&mut host_of(&laid_out)).unwrap_err();
    assert!(
        missing.to_string().contains("/proc/self/statm"),
        "{missing}"
    );
}
