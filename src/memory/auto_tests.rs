use super::super::MemoryLevel;
use super::super::laid_out::{LaidOut, MIB};
use super::*;

const OWN: &str = "sys/fs/cgroup/app";
const RESIDENT: u64 = 100 * MIB;

/// Own memory, and what the machine has available.
const HOST_LEVEL: MemoryLevel = MemoryLevel {
    usage_bytes: RESIDENT,
    limit_bytes: Some((12 << 30) + RESIDENT),
    high_bytes: None,
    swapped_bytes: 0,
};

fn read(laid_out: &LaidOut) -> (Sample, String) {
    read_by(Auto::new(laid_out.machine(), true))
}

fn read_by(mut source: Auto) -> (Sample, String) {
    let mut sample = Sample::default();
    source.read(Detail::Full, &mut sample).unwrap();
    (sample, source.name())
}

fn limited(limit: &str) -> LaidOut {
    let laid_out = LaidOut::version_2("/app");
    laid_out.group(OWN, 300 * MIB, limit);
    laid_out
}

#[test]
fn a_limit_below_physical_memory_is_all_that_counts() {
    let (sample, name) = read(&limited("1073741824"));
    let group = MemoryLevel::new(300 * MIB, Some(1 << 30));
    assert_eq!((sample.levels, sample.limit_drifts), (vec![group], false));
    assert!(name.starts_with("cgroup v2 at "), "{name}");
}

#[test]
fn where_the_limit_is_above_physical_memory_the_machine_counts_as_well() {
    for limit in [LaidOut::TOTAL, 1 << 50] {
        let (sample, name) = read(&limited(&limit.to_string()));
        let group = MemoryLevel::new(300 * MIB, Some(limit));
        assert_eq!(sample.levels, [group, HOST_LEVEL]);
        assert!(sample.limit_drifts);
        assert!(
            name.starts_with("cgroup v2 at ") && name.ends_with(HOST),
            "{name}"
        );
    }
}

#[test]
fn whoever_goes_by_groups_alone_has_the_machine_beside_limits_that_cannot_be_reached() {
    let group = |limit| MemoryLevel::new(300 * MIB, limit);
    let read = |limit: &str| read_by(Auto::of_groups(limited(limit).machine()));
    let (sample, name) = read(&(1u64 << 50).to_string());
    assert_eq!(sample.levels, [group(Some(1 << 50)), HOST_LEVEL]);
    assert!(name.ends_with(HOST), "{name}");
    let (sample, name) = read("1073741824");
    assert_eq!(sample.levels, [group(Some(1 << 30))]);
    assert!(!name.ends_with(HOST), "{name}");
    // None is none, and a machine without groups is an error.
    assert_eq!(read("max").0.levels, [group(None)]);
    let nowhere = LaidOut::version_2("/app");
    let mut source = Auto::of_groups(nowhere.machine());
    assert!(source.read(Detail::Full, &mut Sample::default()).is_err());
}

#[test]
fn a_group_above_that_has_a_limit_is_enough() {
    let laid_out = LaidOut::version_2("/pod/app");
    laid_out.group("sys/fs/cgroup/pod/app", 300 * MIB, "1125899906842624");
    laid_out.group("sys/fs/cgroup/pod", 400 * MIB, "1073741824");
    let (sample, _) = read(&laid_out);
    assert_eq!((sample.levels.len(), sample.limit_drifts), (2, false));
}

#[test]
fn without_any_limit_it_is_the_machine_alone() {
    let (sample, name) = read(&limited("max"));
    assert_eq!((sample.levels, name), (vec![HOST_LEVEL], HOST.to_owned()));
}

#[test]
fn throttling_is_a_limit() {
    let laid_out = limited("max");
    laid_out.write(&format!("{OWN}/memory.high"), "1073741824");
    let (sample, name) = read(&laid_out);
    assert_eq!(sample.levels[0].high_bytes, Some(1 << 30));
    assert_eq!(sample.levels.len(), 1);
    assert!(name.starts_with("cgroup"), "{name}");
}

#[test]
fn what_binds_may_change_while_running() {
    let laid_out = limited("1125899906842624");
    let (mut source, mut sample) = (Auto::new(laid_out.machine(), true), Sample::default());
    let mut levels = |detail| {
        sample.clear();
        source.read(detail, &mut sample).unwrap();
        sample.levels.len()
    };
    assert_eq!((levels(Detail::Full), levels(Detail::Quick)), (2, 2));
    laid_out.write(&format!("{OWN}/memory.max"), "1073741824");
    assert_eq!((levels(Detail::Full), levels(Detail::Quick)), (1, 1));
    laid_out.write(&format!("{OWN}/memory.max"), "max");
    assert_eq!((levels(Detail::Full), levels(Detail::Quick)), (1, 1));
}

#[test]
fn in_a_container_a_limit_that_is_missing_is_said_once() {
    let warnings = |laid_out: &LaidOut, advises| {
        let mut source = Auto::new(laid_out.machine(), advises);
        let mut all = Vec::new();
        for limit in ["1073741824", "max", "1125899906842624", "max"] {
            laid_out.write(&format!("{OWN}/memory.max"), limit);
            let mut sample = Sample::default();
            source.read(Detail::Full, &mut sample).unwrap();
            all.push(sample.warnings.len());
            if let Some(warning) = sample.warnings.first() {
                assert!(warning.contains("MEMORY_GUARD_MEMORY_LIMIT"), "{warning}");
            }
        }
        all
    };
    let container = limited("max");
    container.write("proc/1/environ", "container=lxc\0");
    assert_eq!(warnings(&container, true), [0, 1, 0, 0]);
    // A limit of one's own was given.
    assert_eq!(warnings(&container, false), [0, 0, 0, 0]);
}

#[test]
fn in_a_container_a_group_that_cannot_be_read_is_said_once() {
    // Named, and mounted nowhere.
    let container = LaidOut::version_2("/app");
    container.write("proc/1/environ", "container=lxc\0");
    let (mut source, mut sample) = (Auto::new(container.machine(), true), Sample::default());
    let mut warnings = || {
        sample.clear();
        source.read(Detail::Full, &mut sample).unwrap();
        assert_eq!(sample.levels, [HOST_LEVEL]);
        std::mem::take(&mut sample.warnings)
    };
    let said = warnings();
    assert!(said[0].contains("cannot read the container's"), "{said:?}");
    assert!(said[0].contains("no memory control group"), "{said:?}");
    assert!(warnings().is_empty());
}
