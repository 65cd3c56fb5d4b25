//! Laid-out machines, and where the guard finds its memory on them.

use super::super::cgroup::CgroupMemory;
use super::super::laid_out::{LaidOut, MIB};
use super::super::{Detail, MemorySource, Sample};

const LIMIT: &str = "1073741824";

/// What a source says that reads the process's own group.
fn found(laid_out: &LaidOut) -> (String, usize) {
    let mut source = CgroupMemory::discover(laid_out.machine());
    let mut sample = Sample::default();
    match source.read(Detail::Full, &mut sample) {
        Ok(()) => (below_root(laid_out, &source.name()), sample.levels.len()),
        Err(error) => (below_root(laid_out, &error.to_string()), 0),
    }
}

fn below_root(laid_out: &LaidOut, text: &str) -> String {
    text.replace(laid_out.path("").to_str().unwrap(), "/")
}

fn at(directory: &str, levels: usize) -> (String, usize) {
    (format!("cgroup v2 at {directory}"), levels)
}

#[test]
fn a_group_without_memory_files_is_measured_by_the_nearest_that_has_them() {
    // Threaded, or its parent does not enable the memory controller for it.
    let laid_out = LaidOut::version_2("/pod/app/threads");
    laid_out.write("sys/fs/cgroup/pod/app/threads/cgroup.type", "threaded\n");
    laid_out.write("sys/fs/cgroup/pod/app/cgroup.procs", "");
    laid_out.group("sys/fs/cgroup/pod", 300 * MIB, LIMIT);
    laid_out.group("sys/fs/cgroup", 400 * MIB, "max");
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/pod", 2));
}

#[test]
fn nothing_above_the_mount_is_looked_at() {
    let laid_out = LaidOut::version_2("/app");
    laid_out.write("sys/fs/cgroup/app/cgroup.procs", "");
    laid_out.group("sys/fs", 300 * MIB, LIMIT);
    let (error, levels) = found(&laid_out);
    assert!(error.contains("no memory control group"), "{error}");
    assert_eq!(levels, 0);
}

#[test]
fn a_path_that_was_given_leads_to_the_nearest_too_and_says_so_once() {
    let laid_out = LaidOut::new();
    laid_out.write("groups/pod/app/cgroup.procs", "");
    laid_out.group("groups/pod", 300 * MIB, LIMIT);
    let given = laid_out.path("groups/pod/app");
    let mut source = CgroupMemory::at(laid_out.machine(), &given);
    let mut said = Vec::new();
    for _ in 0..3 {
        let mut sample = Sample::default();
        source.read(Detail::Full, &mut sample).unwrap();
        assert_eq!(sample.levels.len(), 1);
        said.extend(sample.warnings);
        // It is found anew.
        laid_out.write("groups/pod/memory.current", "?");
        source
            .read(Detail::Full, &mut Sample::default())
            .unwrap_err();
        laid_out.write("groups/pod/memory.current", "1000");
    }
    assert_eq!(said.len(), 1);
    let named = ["groups/pod/app", "those of ", "MEMORY_GUARD_CGROUP_PATH"];
    for part in named {
        assert!(said[0].contains(part), "{said:?}");
    }
    // What is not there is a mistake.
    let missing = laid_out.path("groups/pod/typo");
    let mut source = CgroupMemory::at(laid_out.machine(), &missing);
    let error = source
        .read(Detail::Full, &mut Sample::default())
        .unwrap_err();
    assert!(error.to_string().contains("groups/pod/typo"), "{error}");
}
