//! Where the process's memory control group is.
//!
//! Names do not always tell: a mount may be covered by another, a container may see its
//! host's paths, a namespace hides the names above its root. So every reading is tried,
//! and a group counts that has memory's files; of several, the one that holds this process.

use std::io;
use std::path::{Path, PathBuf};

use super::level::Version;
use super::machine::Machine;
use super::mounts::{Mount, below, group, mounts};

/// The groups that the process is in.
pub(super) const MEMBERSHIP: &str = "/proc/self/cgroup";
/// Most groups looked at to find one whose name is hidden.
const MOST_GROUPS: usize = 10_000;

/// A control group's directory, and the one above which nothing is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) directory: PathBuf,
    pub(super) top: PathBuf,
}

impl Location {
    /// Of a path that one gave: what is above a link is not what is above the group.
    pub(super) fn given(directory: &Path) -> Self {
        let real = directory.canonicalize();
        Self {
            directory: real.unwrap_or_else(|_| directory.into()),
            top: PathBuf::from("/"),
        }
    }

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

    /// Where memory is measured: there, or in what is named if nothing is.
    fn measured(&self) -> PathBuf {
        let nearest = self.nearest();
        nearest
            .map_or(&*self.directory, |(nearest, _)| nearest)
            .into()
    }

    fn has_files(&self, version: Version) -> bool {
        self.nearest().is_some_and(|(_, found)| found == version)
    }
}

/// The process's own memory control group.
pub(super) fn discover(machine: &Machine) -> io::Result<Location> {
    let cgroups = machine.read(MEMBERSHIP)?;
    let mounts = mounts(&machine.read("/proc/self/mountinfo")?);
    // A memory controller of version 1 decides where there is one: in a hybrid
    // the hierarchy of version 2 beside it accounts for no memory.
    let found = [Version::V1, Version::V2].into_iter().find_map(|version| {
        let group = group(&cgroups, version)?;
        let of_version = mounts.iter().filter(|mount| mount.version == version);
        let mut readings: Vec<_> = of_version
            .flat_map(|mount| readings(machine, mount, &group))
            .filter(|(_, location)| location.has_files(version))
            .collect();
        readings.sort_by_key(|&(likely, _)| likely);
        let holds = |(_, location): &Reading| holds_this_process(&location.directory);
        let may_be = |&(likely, _): &Reading| likely < Likely::No;
        let best = readings.iter().position(holds);
        let best = best.or_else(|| readings.iter().position(may_be))?;
        Some(readings.swap_remove(best).1)
    });
    found.ok_or_else(|| {
        let message = "/proc/self/cgroup and mountinfo lead to no memory control group";
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// The group whose memory is measured where one gave this path, unless it is the process's own.
pub(super) fn foreign_group(machine: &Machine, given: &Path) -> Option<PathBuf> {
    let given = Location::given(given).measured();
    let is_own = discover(machine).is_ok_and(|own| own.measured() == given);
    (!is_own).then_some(given)
}

/// Where the group may be.
type Reading = (Likely, Location);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likely {
    /// The names say so.
    Named,
    /// No name fits: a container that sees its host's paths, or a group moved out of the
    /// namespace's root. The mount point is as near as one gets.
    Nameless,
    /// Only if it holds this process: the names say otherwise.
    No,
}

fn readings(machine: &Machine, mount: &Mount, group: &Path) -> Vec<Reading> {
    let top = machine.path(&mount.point);
    let below = below(group, &mount.root);
    let (named, at_the_point) = match below {
        Some((0, rest)) => (Some(top.join(rest)), Likely::No),
        Some((hidden, rest)) => (find_hidden(&top, hidden, rest), Likely::Nameless),
        None => (None, Likely::Nameless),
    };
    let named = named.map(|named| (Likely::Named, named));
    let directories = named.into_iter().chain([(at_the_point, top.clone())]);
    let readings = directories.map(|(likely, directory)| {
        let location = Location {
            // Without the slash that joining nothing leaves.
            directory: directory.components().collect(),
            top: top.clone(),
        };
        (likely, location)
    });
    readings.collect()
}

/// The group that holds this process, `depth` unknown names below `top` and then at `rest`.
fn find_hidden(top: &Path, depth: usize, rest: &Path) -> Option<PathBuf> {
    let mut left = MOST_GROUPS;
    let mut to_see = vec![(top.to_path_buf(), depth)];
    while let Some((directory, depth)) = to_see.pop() {
        if depth == 0 {
            let group = directory.join(rest);
            if holds_this_process(&group) {
                return Some(group);
            }
            continue;
        }
        let entries = std::fs::read_dir(&directory).into_iter().flatten();
        let entries = entries.flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for group in groups {
            left = left.checked_sub(1)?;
            to_see.push((group.path(), depth - 1));
        }
    }
    None
}

/// By the first list that can be read: of a threaded group that is the threads'.
fn holds_this_process(group: &Path) -> bool {
    let read = |name| std::fs::read_to_string(group.join(name)).ok();
    let list = read("cgroup.procs").or_else(|| read("cgroup.threads"));
    let own = std::process::id().to_string();
    list.is_some_and(|list| list.lines().any(|process| process == own))
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
