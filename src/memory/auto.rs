//! The control group while it has a limit, and the host where that binds nothing.

use std::io;

use super::cgroup::CgroupMemory;
use super::container::is_container;
use super::machine::Machine;
use super::process::ProcessMemory;
use super::{Detail, HOST, MemorySource, Sample};

const NO_LIMIT: &str = "the memory guard finds no control group limit below physical memory and \
    goes by what the host has available; in a container, set a limit or \
    MEMORY_GUARD_MEMORY_LIMIT (such as 2GiB)";

/// The same where the groups that there are cannot be read.
fn unreadable(error: &io::Error) -> String {
    format!(
        "the memory guard cannot read the container's control group and goes by what the host \
         has available: {error}; mount /sys/fs/cgroup, or set MEMORY_GUARD_MEMORY_LIMIT (such \
         as 2GiB)"
    )
}

/// What bounds memory, as of the last full read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BoundBy {
    /// No control group has a limit.
    Host,
    Group,
    /// Groups have limits, all of them above physical memory.
    Both,
}

#[derive(Debug)]
pub(super) struct Auto {
    machine: Machine,
    cgroup: CgroupMemory,
    host: ProcessMemory,
    bound_by: BoundBy,
    /// What bounds it where no group has a limit.
    without_limit: BoundBy,
    /// Still to be said: where a limit that is missing is a mistake, and what to do.
    advises: bool,
}

impl Auto {
    /// Says once where a limit is missing, if it `advises`.
    pub(super) fn new(machine: Machine, advises: bool) -> Self {
        Self {
            cgroup: CgroupMemory::discover(machine.clone()),
            host: ProcessMemory::new(machine.clone(), true),
            machine,
            bound_by: BoundBy::Host,
            without_limit: BoundBy::Host,
            advises,
        }
    }

    /// Where no group has a limit, there is none: the host counts beside limits alone that
    /// cannot be reached.
    pub(super) fn of_groups(machine: Machine) -> Self {
        Self {
            bound_by: BoundBy::Group,
            without_limit: BoundBy::Group,
            ..Self::new(machine, false)
        }
    }

    fn advise(&mut self, sample: &mut Sample, error: Option<&io::Error>) {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if std::mem::take(&mut self.advises) && is_container(&self.machine, is_set) {
            let advice = error.map_or_else(|| NO_LIMIT.into(), unreadable);
            sample.warnings.push(advice);
        }
    }

    /// What the groups' limits leave to be bound by the host. Whatever its neighbours
    /// do, a group whose limit can be reached is measured against that alone.
    fn bound_by(&self, groups: &Sample) -> BoundBy {
        let physical_bytes = self.machine.total_bytes().unwrap_or(u64::MAX);
        match groups.bound_bytes() {
            None => self.without_limit,
            Some(bytes) if bytes < physical_bytes => BoundBy::Group,
            Some(_) => BoundBy::Both,
        }
    }
}

impl MemorySource for Auto {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        let mut unread = None;
        // A limit may appear while running, so a full read always looks.
        if detail == Detail::Full || self.bound_by != BoundBy::Host {
            let read = self.cgroup.read(detail, sample);
            match read {
                // A quick read does not find out what bounds.
                Ok(()) if detail == Detail::Full => self.bound_by = self.bound_by(sample),
                Ok(()) => {}
                // A limit that was there and cannot be read any more is a
                // failure; a machine without control groups is not.
                Err(error) if self.bound_by != BoundBy::Host => return Err(error),
                Err(error) => {
                    self.bound_by = BoundBy::Host;
                    unread = Some(error);
                }
            }
        }
        match self.bound_by {
            BoundBy::Group => return Ok(()),
            BoundBy::Both => {}
            BoundBy::Host => sample.clear(),
        }
        self.advise(sample, unread.as_ref());
        self.host.read(detail, sample)
    }

    fn name(&self) -> String {
        match self.bound_by {
            BoundBy::Host => self.host.name(),
            BoundBy::Group => self.cgroup.name(),
            BoundBy::Both => format!("{} and {HOST}", self.cgroup.name()),
        }
    }
}

#[cfg(test)]
#[path = "auto_tests.rs"]
mod tests;
