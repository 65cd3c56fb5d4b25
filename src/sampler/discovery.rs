//! Where the process's memory control group is.

use std::io;
use std::path::{Path, PathBuf};

use procfs::process::MountInfos;
use procfs::{FromBufRead, ProcessCGroups};

use super::level::Version;
use super::machine::Machine;

/// A control group's directory, and the one above which nothing is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) directory: PathBuf,
    pub(super) top: PathBuf,
}

impl Location {
    /// The directory, or the next above, that has memory's files: a group that is threaded
    /// or for which the one above does not enable the controller is counted there.
    pub(super) fn nearest(&self) -> Option<(&Path, Version)> {
        if !self.directory.is_dir() {
            return None;
        }
        let upwards = self.directory.ancestors();
        let mut within = upwards.take_while(|above| above.starts_with(&self.top));
        within.find_map(|directory| Some((directory, Version::of(directory)?)))
    }
}

/// The process's own memory control group.
pub(super) fn discover(machine: &Machine) -> io::Result<Location> {
    let cgroups = machine.read("/proc/self/cgroup")?;
    let mounts = machine.read("/proc/self/mountinfo")?;
    let parse = io::Error::other::<procfs::ProcError>;
    let cgroups = ProcessCGroups::from_buf_read(&cgroups[..]).map_err(parse)?;
    let mounts = MountInfos::from_buf_read(&mounts[..]).map_err(parse)?;
    let found = locate(&cgroups, &mounts).map(|Location { directory, top }| Location {
        directory: machine.path(directory),
        top: machine.path(top),
    });
    found.ok_or_else(|| {
        let message = "/proc/self/cgroup: no memory controller is mounted";
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// A memory controller of version 1 decides where there is one: in a hybrid
/// the hierarchy of version 2 beside it accounts for no memory.
pub(super) fn locate(cgroups: &ProcessCGroups, mounts: &MountInfos) -> Option<Location> {
    let memory = |names: &[String]| names.iter().any(|name| name == "memory");
    let v1 = cgroups
        .0
        .iter()
        .find(|group| memory(&group.controllers))
        .and_then(|group| {
            let mount = mounts.iter().find(|mount| {
                mount.fs_type == "cgroup" && mount.super_options.contains_key("memory")
            })?;
            Some((group, mount))
        });
    let v2 = || {
        let group = cgroups.0.iter().find(|group| group.hierarchy == 0)?;
        let mount = mounts.iter().find(|mount| mount.fs_type == "cgroup2")?;
        Some((group, mount))
    };
    let (group, mount) = v1.or_else(v2)?;
    // The mount shows the hierarchy from `root` on. Where the group is not
    // below it (a container that sees the host's paths, or a namespace's
    // "/.."), the mount point itself is the container's group.
    let below = Path::new(&group.pathname)
        .strip_prefix(&mount.root)
        .ok()
        .filter(|path| !path.components().any(|part| part.as_os_str() == ".."));
    let directory = match below {
        Some(path) if path.as_os_str().is_empty() => mount.mount_point.clone(),
        Some(path) => mount.mount_point.join(path),
        None => mount.mount_point.clone(),
    };
    Some(Location {
        directory,
        top: mount.mount_point.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(cgroup: &str, mountinfo: &str) -> Option<(String, String)> {
        let cgroups = ProcessCGroups::from_buf_read(cgroup.as_bytes()).unwrap();
        let mounts = MountInfos::from_buf_read(mountinfo.as_bytes()).unwrap();
        let location = locate(&cgroups, &mounts)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Some((text(&location.directory), text(&location.top)))
    }

    fn at(directory: &str, top: &str) -> Option<(String, String)> {
        Some((directory.into(), top.into()))
    }

    const V2_MOUNT: &str = "40 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_group_of_version_2_is_found_below_its_mount() {
        assert_eq!(
            located("0::/system.slice/app.service\n", V2_MOUNT),
            at("/sys/fs/cgroup/system.slice/app.service", "/sys/fs/cgroup")
        );
        // In a container with a namespace of its own the group is the root.
        assert_eq!(
            located("0::/\n", V2_MOUNT),
            at("/sys/fs/cgroup", "/sys/fs/cgroup")
        );
        // Moved out of the namespace's root: only the mount point can be seen.
        assert_eq!(
            located("0::/../other\n", V2_MOUNT),
            at("/sys/fs/cgroup", "/sys/fs/cgroup")
        );
    }

    #[test]
    fn in_a_hybrid_the_controller_of_version_1_decides() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            located("4:memory:/jobs/7\n0::/\n", mounts),
            at("/sys/fs/cgroup/memory/jobs/7", "/sys/fs/cgroup/memory")
        );
    }

    #[test]
    fn a_container_that_sees_the_paths_of_its_host_is_found_at_the_mount_point() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let memory = "/sys/fs/cgroup/memory";
        assert_eq!(
            located("4:memory:/docker/abc\n", mounts),
            at(memory, memory)
        );
        assert_eq!(
            located("4:memory:/docker/abc/inner\n", mounts),
            at("/sys/fs/cgroup/memory/inner", memory)
        );
        assert_eq!(located("4:memory:/elsewhere\n", mounts), at(memory, memory));
    }

    #[test]
    fn a_machine_without_a_memory_controller_has_none() {
        assert_eq!(
            located(
                "3:cpu:/\n",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            ),
            None
        );
    }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod machines;
