//! Control groups, version 1 and 2, and hybrids of both.
//!
//! The process's own group and every group above it that can be seen is a
//! level with its own usage and limit: memory of a sibling counts against the
//! parent. Usage is read with `pread` on an open descriptor. `memory.stat`
//! costs twenty times as much, so it is read only when it could matter: when
//! usage is above half of the limit, or has moved since the last time, or no
//! limit is known here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::discovery::{Location, MEMBERSHIP, discover};
use super::level::{Level, Reader, Version};
use super::machine::Machine;
use super::process::resident_bytes;
use super::{Detail, MemorySource, Sample, working_set};

/// How often it is asked whether the process has been moved.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Levels looked at above the own group: deeper trees do not exist in practice.
const MOST_LEVELS: usize = 32;

/// Reads the own control group and those above it.
#[derive(Debug)]
pub(super) struct CgroupMemory {
    machine: Machine,
    /// A directory one gave; else it is discovered, anew after each failure.
    given: Option<PathBuf>,
    /// Which groups the process was in when its own was discovered.
    membership: Vec<u8>,
    pub(super) looked_at: Option<Instant>,
    said_elsewhere: bool,
    levels: Vec<Level>,
    reader: Reader,
    stall_percent: f64,
}

impl CgroupMemory {
    pub(super) fn discover(machine: Machine) -> Self {
        Self {
            machine,
            given: None,
            membership: Vec::new(),
            looked_at: None,
            said_elsewhere: false,
            levels: Vec::new(),
            reader: Reader::new(),
            stall_percent: 0.0,
        }
    }

    pub(super) fn at(machine: Machine, directory: &Path) -> Self {
        Self {
            given: Some(directory.to_path_buf()),
            ..Self::discover(machine)
        }
    }

    fn open(&self) -> io::Result<Vec<Level>> {
        let location = match &self.given {
            Some(directory) => Location::given(directory),
            None => discover(&self.machine)?,
        };
        let Some((directory, version)) = location.nearest() else {
            let usage = location.directory.join(Version::V2.usage());
            let message = format!("{}: no memory control group here", usage.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        let mut levels = vec![Level::open(directory, version)?];
        for above in directory.ancestors().skip(1).take(MOST_LEVELS) {
            // The root of version 2 has neither usage nor limit.
            if !above.starts_with(&location.top) || !above.join(version.limit()).exists() {
                break;
            }
            match Level::open(above, version) {
                Ok(level) => levels.push(level),
                // Not ours to see; the kernel enforces it all the same.
                Err(_) => break,
            }
        }
        Ok(levels)
    }

    /// The process has been moved to another group since its own was discovered. Looks now
    /// and then: some ten microseconds.
    fn has_moved(&mut self) -> bool {
        let rested = |at: Instant| at.elapsed() >= LOOKS_EVERY;
        if self.given.is_some() || !self.looked_at.is_none_or(rested) {
            return false;
        }
        self.looked_at = Some(Instant::now());
        let Ok(groups) = self.machine.read(MEMBERSHIP) else {
            return false; // Nobody knows.
        };
        let moved = groups != self.membership;
        self.membership = groups;
        moved
    }

    /// Says, once, that the directory one gave has no memory files.
    fn elsewhere(&mut self) -> Option<String> {
        let (given, found) = (self.given.as_ref()?, &self.levels.first()?.path);
        let is_there = Location::given(given).directory == *found;
        let is_news = !is_there && !std::mem::replace(&mut self.said_elsewhere, true);
        is_news.then(|| {
            format!(
                "{} has no memory files, so the memory guard reads those of {}; a group is \
                 threaded, or the one above does not enable the memory controller for it; \
                 MEMORY_GUARD_CGROUP_PATH should name a group that has a memory.current",
                given.display(),
                found.display()
            )
        })
    }

    fn read_levels(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        let reader = &mut self.reader;
        for (index, level) in self.levels.iter_mut().enumerate() {
            let own = index == 0;
            match detail {
                Detail::Full => level.read_full(own, reader)?,
                // What has no bound cannot change a decision.
                Detail::Quick if !own && !level.is_bounded() => {}
                Detail::Quick => level.read_quick(own, reader)?,
            }
            sample.push(level.last);
        }
        // Behind them, since they come and go: each level keeps its place.
        let with_swap = self.levels.iter().filter_map(Level::with_swap);
        sample.levels.extend(with_swap);
        Ok(())
    }
}

impl MemorySource for CgroupMemory {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        if detail == Detail::Full && self.has_moved() {
            self.levels.clear();
        }
        if self.levels.is_empty() {
            self.levels = self.open()?;
            sample.warnings.extend(self.elsewhere());
            self.reader.kernel = working_set::Kernel::of_this_machine();
            // New levels know no limits yet.
            return self.read(Detail::Full, sample);
        }
        if let Err(error) = self.read_levels(detail, sample) {
            // The group may have been replaced: look for it again next time.
            self.levels.clear();
            return Err(error);
        }
        if detail == Detail::Full {
            let stall = self.levels[0].stall_percent(&mut self.reader);
            self.stall_percent = stall.unwrap_or(0.0);
            if let Ok(bytes) = resident_bytes(&self.machine) {
                sample.set_process_bytes(bytes);
            }
        }
        // What quick reads do not look at has not changed.
        sample.set_stall_percent(self.stall_percent);
        Ok(())
    }

    fn name(&self) -> String {
        match (self.levels.first(), &self.given) {
            (Some(own), _) => format!("cgroup {} at {}", own.version_number(), own.path.display()),
            (None, Some(path)) => format!("cgroup at {}", path.display()),
            (None, None) => "cgroup".into(),
        }
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
