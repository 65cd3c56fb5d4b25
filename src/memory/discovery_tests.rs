//! Laid-out machines, and where the guard finds its memory on them.

use super::super::cgroup::CgroupMemory;
use super::super::laid_out::{LaidOut, MIB};
use super::super::{Detail, MemorySource, Sample};
use super::foreign_group;

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

#[test]
fn a_link_that_was_given_leads_to_all_that_is_above_its_group() {
    let laid_out = LaidOut::new();
    laid_out.group("groups/pod", 300 * MIB, LIMIT);
    laid_out.group("groups/pod/app", 200 * MIB, "max");
    let link = laid_out.path("app");
    std::os::unix::fs::symlink(laid_out.path("groups/pod/app"), &link).unwrap();
    let mut source = CgroupMemory::at(laid_out.machine(), &link);
    let mut sample = Sample::default();
    source.read(Detail::Full, &mut sample).unwrap();
    let limits: Vec<_> = sample
        .levels
        .iter()
        .map(|level| level.limit_bytes)
        .collect();
    assert_eq!(limits, [None, Some(1 << 30)]);
    assert!(sample.warnings.is_empty(), "{:?}", sample.warnings);
}

#[test]
fn a_path_that_leads_to_the_group_that_is_measured_anyway_is_not_anothers() {
    let laid_out = LaidOut::version_2("/pod/app/threads");
    laid_out.write("sys/fs/cgroup/pod/app/threads/cgroup.type", "threaded\n");
    laid_out.write("sys/fs/cgroup/pod/beside/cgroup.procs", "");
    laid_out.group("sys/fs/cgroup/pod", 300 * MIB, LIMIT);
    laid_out.group("sys/fs/cgroup/other", MIB, LIMIT);
    laid_out.write("sys/fs/cgroup/other/threads/cgroup.procs", "");
    let foreign = |group: &str| {
        let given = laid_out.path("sys/fs/cgroup").join(group);
        let found = foreign_group(&laid_out.machine(), &given)?;
        Some(below_root(&laid_out, found.to_str().unwrap()))
    };
    for own in ["pod/app/threads", "pod/app", "pod", "pod/beside"] {
        assert_eq!(foreign(own), None, "{own}");
    }
    // One ledger for all paths that lead there.
    for other in ["other", "other/threads"] {
        let found = foreign(other);
        assert_eq!(found.as_deref(), Some("/sys/fs/cgroup/other"));
    }
    // It may come.
    let missing = foreign("typo");
    assert_eq!(missing.as_deref(), Some("/sys/fs/cgroup/typo"));
}

const V2: &str = "cgroup2 cgroup2 rw";
const V1: &str = "cgroup cgroup rw,memory";

fn mounted(lines: &[(&str, &str, &str)]) -> Vec<u8> {
    let lines = lines.iter().map(|(root, point, kind)| {
        format!("40 23 0:28 {root} {point} rw shared:7 - {kind}\n").into_bytes()
    });
    lines.collect::<Vec<_>>().concat()
}

fn holding_this(laid_out: &LaidOut, group: &str) {
    let processes = format!("1\n{}\n", std::process::id());
    laid_out.write(&format!("{group}/cgroup.procs"), processes);
}

fn group_of_version_1(laid_out: &LaidOut, path: &str) {
    for (file, text) in [
        ("usage_in_bytes", "1000"),
        ("limit_in_bytes", LIMIT),
        ("stat", "total_cache 0\ntotal_rss 900\n"),
    ] {
        laid_out.write(&format!("{path}/memory.{file}"), text);
    }
}

#[test]
fn a_group_is_found_below_its_mount() {
    let laid_out = LaidOut::version_2("/system.slice/app.service");
    laid_out.group("sys/fs/cgroup/system.slice/app.service", MIB, LIMIT);
    let own = at("/sys/fs/cgroup/system.slice/app.service", 1);
    assert_eq!(found(&laid_out), own);
    // In a namespace of its own the group is the root; moved out of it, it cannot be seen.
    laid_out.group("sys/fs/cgroup", MIB, LIMIT);
    for group in ["/", "/../other"] {
        laid_out.enter(group);
        assert_eq!(found(&laid_out), at("/sys/fs/cgroup", 1), "{group}");
    }
}

#[test]
fn in_a_hybrid_the_controller_of_version_1_decides() {
    let laid_out = LaidOut::new();
    let memory = ("/", "/sys/fs/cgroup/memory", V1);
    let mounts = mounted(&[("/", "/sys/fs/cgroup/unified", V2), memory]);
    laid_out.write("proc/self/mountinfo", mounts);
    laid_out.write("proc/self/cgroup", "4:cpu,memory:/jobs/7\n1:cpu:/\n0::/\n");
    group_of_version_1(&laid_out, "sys/fs/cgroup/memory/jobs/7");
    laid_out.write("sys/fs/cgroup/unified/cgroup.procs", "");
    let own = "cgroup v1 at /sys/fs/cgroup/memory/jobs/7".to_owned();
    assert_eq!(found(&laid_out), (own, 1));
}

#[test]
fn a_container_that_sees_the_paths_of_its_host_is_found_at_the_mount_point() {
    let laid_out = LaidOut::new();
    let memory = ("/docker/abc", "/sys/fs/cgroup/memory", V1);
    laid_out.write("proc/self/mountinfo", mounted(&[memory]));
    group_of_version_1(&laid_out, "sys/fs/cgroup/memory");
    group_of_version_1(&laid_out, "sys/fs/cgroup/memory/inner");
    for (group, directory, levels) in [
        ("/docker/abc", "/sys/fs/cgroup/memory", 1),
        ("/docker/abc/inner", "/sys/fs/cgroup/memory/inner", 2),
        ("/elsewhere", "/sys/fs/cgroup/memory", 1),
    ] {
        laid_out.write("proc/self/cgroup", format!("4:memory:{group}\n"));
        let expected = (format!("cgroup v1 at {directory}"), levels);
        assert_eq!(found(&laid_out), expected, "{group}");
    }
}

#[test]
fn a_line_that_is_not_utf_8_is_about_something_else() {
    let laid_out = LaidOut::version_2("/app");
    laid_out.group("sys/fs/cgroup/app", MIB, LIMIT);
    let mut mounts = b"9 1 0:1 / /media/\xe9t\xe9 rw - vfat /dev/\xff rw\n".to_vec();
    mounts.extend(mounted(&[("/", "/sys/fs/cgroup", V2)]));
    laid_out.write("proc/self/mountinfo", mounts);
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/app", 1));
}

#[test]
fn a_mount_point_may_have_spaces_and_backslashes() {
    let laid_out = LaidOut::version_2("/my app");
    let mounts = mounted(&[("/", r"/my\040groups\134\011", V2)]);
    laid_out.write("proc/self/mountinfo", mounts);
    laid_out.group("my groups\\\t/my app", MIB, LIMIT);
    assert_eq!(found(&laid_out), at("/my groups\\\t/my app", 1));
}

#[test]
fn a_mount_that_is_covered_or_stale_is_passed_over() {
    let laid_out = LaidOut::version_2("/app");
    // The first is covered: there is something else in its place.
    let stale = ("/", "/run/cgroup2", V2);
    let mounts = mounted(&[stale, ("/", "/sys/fs/cgroup", V2)]);
    laid_out.write("proc/self/mountinfo", mounts);
    laid_out.write("run/cgroup2/app/README", "");
    laid_out.group("sys/fs/cgroup/app", MIB, LIMIT);
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/app", 1));
    // Two at one point: the last can be seen.
    let point = "/sys/fs/cgroup";
    let mounts = mounted(&[("/app", point, V2), ("/", point, V2)]);
    laid_out.write("proc/self/mountinfo", mounts);
    laid_out.group("sys/fs/cgroup", MIB, LIMIT);
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/app", 2));
    // A controller of version 1 that is mounted nowhere does not keep version 2 away.
    laid_out.write("proc/self/cgroup", "4:memory:/\n0::/app\n");
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/app", 2));
}

#[test]
fn of_two_readings_that_have_files_the_one_that_holds_this_process_is_right() {
    let laid_out = LaidOut::version_2("/app");
    let mounts = mounted(&[("/", "/host/cgroup", V2), ("/app", "/sys/fs/cgroup", V2)]);
    laid_out.write("proc/self/mountinfo", mounts);
    laid_out.group("host/cgroup/app", MIB, LIMIT);
    laid_out.group("sys/fs/cgroup", MIB, LIMIT);
    assert_eq!(found(&laid_out), at("/host/cgroup/app", 1));
    laid_out.write("host/cgroup/app/cgroup.procs", "1\n");
    holding_this(&laid_out, "sys/fs/cgroup");
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup", 1));
    // Of threads, where the list of processes cannot be read.
    std::fs::remove_file(laid_out.path("host/cgroup/app/cgroup.procs")).unwrap();
    let thread = std::process::id().to_string();
    laid_out.write("host/cgroup/app/cgroup.threads", thread);
    assert_eq!(found(&laid_out), at("/host/cgroup/app", 1));
}

#[test]
fn a_hierarchy_of_the_host_in_a_namespace_is_searched_for_this_process() {
    let laid_out = LaidOut::version_2("/");
    let mounts = mounted(&[("/../../..", "/host/cgroup", V2)]);
    laid_out.write("proc/self/mountinfo", mounts);
    for pod in ["pods/one/a", "pods/two/b", "system.slice/x/y", "pods/two/c"] {
        laid_out.group(&format!("host/cgroup/{pod}"), MIB, LIMIT);
        laid_out.write(&format!("host/cgroup/{pod}/cgroup.procs"), "1\n2\n");
    }
    laid_out.group("host/cgroup/pods/two", MIB, LIMIT);
    laid_out.group("host/cgroup/pods", MIB, "max");
    holding_this(&laid_out, "host/cgroup/pods/two/b");
    assert_eq!(found(&laid_out), at("/host/cgroup/pods/two/b", 3));
    // And below the namespace's root.
    laid_out.enter("/inner");
    laid_out.group("host/cgroup/pods/two/b/inner", MIB, LIMIT);
    laid_out.write("host/cgroup/pods/two/b/cgroup.procs", "");
    holding_this(&laid_out, "host/cgroup/pods/two/b/inner");
    assert_eq!(found(&laid_out), at("/host/cgroup/pods/two/b/inner", 4));
}

#[test]
fn a_namespace_whose_root_is_below_what_is_mounted_is_found_there() {
    // The mount shows the parent of the namespace's root.
    let laid_out = LaidOut::version_2("/");
    laid_out.write(
        "proc/self/mountinfo",
        mounted(&[("/..", "/sys/fs/cgroup", V2)]),
    );
    laid_out.group("sys/fs/cgroup", MIB, LIMIT);
    laid_out.group("sys/fs/cgroup/ours", MIB, LIMIT);
    laid_out.group("sys/fs/cgroup/theirs", MIB, LIMIT);
    holding_this(&laid_out, "sys/fs/cgroup/ours");
    assert_eq!(found(&laid_out), at("/sys/fs/cgroup/ours", 2));
}

#[test]
fn a_machine_without_a_memory_controller_has_none() {
    let laid_out = LaidOut::new();
    laid_out.write("proc/self/cgroup", "3:cpu:/\n");
    let mounts = mounted(&[("/", "/sys/fs/cgroup/cpu", "cgroup cgroup rw,cpu")]);
    laid_out.write("proc/self/mountinfo", mounts);
    let (error, levels) = found(&laid_out);
    assert!(error.contains("/proc/self/cgroup"), "{error}");
    assert_eq!(levels, 0);
    std::fs::remove_file(laid_out.path("proc/self/mountinfo")).unwrap();
    let (error, _) = found(&laid_out);
    assert!(error.contains("/proc/self/mountinfo"), "{error}");
}

#[test]
fn a_process_that_is_moved_is_followed() {
    let laid_out = LaidOut::version_2("/one");
    laid_out.group("sys/fs/cgroup/one", MIB, LIMIT);
    laid_out.group("sys/fs/cgroup/two", 2 * MIB, "2147483648");
    let mut source = CgroupMemory::discover(laid_out.machine());
    let mut limit = || {
        // It has rested long enough.
        source.looked_at = None;
        let mut sample = Sample::default();
        source.read(Detail::Full, &mut sample)?;
        Ok::<_, std::io::Error>(sample.levels[0].limit_bytes)
    };
    assert_eq!(limit().unwrap(), Some(1 << 30));
    // The group it was in stays as it was.
    laid_out.enter("/two");
    assert_eq!(limit().unwrap(), Some(2 << 30));
    // Where it is now nobody can tell: that is a failure, until it is known again.
    laid_out.enter("/gone");
    assert!(limit().is_err());
    laid_out.enter("/one");
    assert_eq!(limit().unwrap(), Some(1 << 30));
    // What cannot be read for a moment is no move.
    std::fs::remove_file(laid_out.path("proc/self/cgroup")).unwrap();
    assert_eq!(limit().unwrap(), Some(1 << 30));
}

#[test]
fn a_path_that_was_given_is_not_left() {
    let laid_out = LaidOut::version_2("/one");
    laid_out.group("sys/fs/cgroup/one", MIB, LIMIT);
    laid_out.group("sys/fs/cgroup/two", MIB, "2147483648");
    let given = laid_out.path("sys/fs/cgroup/one");
    let mut source = CgroupMemory::at(laid_out.machine(), &given);
    for group in ["/one", "/two"] {
        laid_out.enter(group);
        let mut sample = Sample::default();
        source.read(Detail::Full, &mut sample).unwrap();
        assert_eq!(sample.levels[0].limit_bytes, Some(1 << 30));
    }
}
