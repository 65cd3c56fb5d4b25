//! Control groups, version 1 and 2, and hybrids of both.
//!
//! The process's own group and every group above it that can be seen is a
//! level with its own usage and limit: memory of a sibling counts against the
//! parent. Usage is read with `pread` on an open descriptor. `memory.stat`
//! costs twenty times as much, so it is read only when it could matter: when
//! usage is above half of the limit, or has moved since the last time, or no
//! limit is known here.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::discovery::{Location, discover};
use super::machine::Machine;
use super::process::resident_bytes;
use super::{Detail, MemoryLevel, MemorySource, Sample, psi, working_set};

/// Version 1 writes "no limit" as the largest number of whole pages.
const V1_UNLIMITED: u64 = 1 << 62;

/// Levels looked at above the own group: deeper trees do not exist in practice.
const MOST_LEVELS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// What the directory holds, if it is a memory control group.
    fn of(directory: &Path) -> Option<Self> {
        if directory.join(Self::V2.usage()).exists() {
            Some(Self::V2)
        } else if directory.join(Self::V1.usage()).exists() {
            Some(Self::V1)
        } else {
            None
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }
}

/// Reads the own control group and those above it.
#[derive(Debug)]
pub(super) struct CgroupMemory {
    machine: Machine,
    /// A directory one gave; else it is discovered, anew after each failure.
    given: Option<PathBuf>,
    levels: Vec<Level>,
    kernel: working_set::Kernel,
    buffer: Vec<u8>,
}

impl CgroupMemory {
    pub(super) fn discover(machine: Machine) -> Self {
        Self {
            machine,
            given: None,
            levels: Vec::new(),
            kernel: working_set::Kernel::default(),
            buffer: vec![0; 16 << 10],
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
            Some(directory) => Location {
                directory: directory.clone(),
                top: PathBuf::from("/"),
            },
            None => discover(&self.machine)?,
        };
        let Some(version) = Version::of(&location.directory) else {
            let usage = location.directory.join(Version::V2.usage());
            let message = format!("{}: no memory control group here", usage.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        let mut levels = vec![Level::open(&location.directory, version)?];
        for above in location.directory.ancestors().skip(1).take(MOST_LEVELS) {
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

    fn read_levels(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        for (index, level) in self.levels.iter_mut().enumerate() {
            match detail {
                Detail::Full => level.read_full(&mut self.buffer, index == 0, &self.kernel)?,
                // What has no bound cannot change a decision.
                Detail::Quick if index > 0 && !level.is_bounded() => {}
                Detail::Quick => level.read_quick()?,
            }
            sample.push(level.last);
        }
        Ok(())
    }
}

impl MemorySource for CgroupMemory {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        if self.levels.is_empty() {
            self.levels = self.open()?;
            self.kernel = working_set::Kernel::of_this_machine();
            // New levels know no limits yet.
            return self.read(Detail::Full, sample);
        }
        if let Err(error) = self.read_levels(detail, sample) {
            // The group may have been replaced: look for it again next time.
            self.levels.clear();
            return Err(error);
        }
        if detail == Detail::Full {
            if let Some(stall) = self.levels[0].stall_percent(&mut self.buffer) {
                sample.set_stall_percent(stall);
            }
            if let Ok(bytes) = resident_bytes(&self.machine) {
                sample.set_process_bytes(bytes);
            }
        }
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

/// One group: its open files and what was read last.
#[derive(Debug)]
struct Level {
    path: PathBuf,
    version: Version,
    usage: File,
    limit: File,
    high: Option<File>,
    stat: Option<File>,
    kernel: Option<File>,
    pressure: Option<File>,
    last: MemoryLevel,
    /// Version 1: the limit of groups above that may not be visible.
    hierarchical: Option<u64>,
    /// Usage as the kernel counts it when `memory.stat` was read last, and the
    /// reclaimable part of it.
    usage_at_stat: u64,
    reclaimable: u64,
}

impl Level {
    fn open(path: &Path, version: Version) -> io::Result<Self> {
        let open = |name: &str| {
            File::open(path.join(name)).map_err(|error| {
                let file = path.join(name);
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })
        };
        let v2 = version == Version::V2;
        Ok(Self {
            path: path.to_path_buf(),
            version,
            usage: open(version.usage())?,
            limit: open(version.limit())?,
            high: if v2 { open("memory.high").ok() } else { None },
            stat: open("memory.stat").ok(),
            kernel: if v2 {
                None
            } else {
                open("memory.kmem.usage_in_bytes").ok()
            },
            pressure: if v2 {
                open("memory.pressure").ok()
            } else {
                None
            },
            last: MemoryLevel::default(),
            hierarchical: None,
            usage_at_stat: 0,
            reclaimable: 0,
        })
    }

    fn is_bounded(&self) -> bool {
        self.last.limit_bytes.is_some() || self.last.high_bytes.is_some()
    }

    fn version_number(&self) -> &'static str {
        match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }

    /// Usage alone. What could be reclaimed is taken from the last full read;
    /// if usage fell since, cache may have gone with it, so none of the fall
    /// counts. Either way the result is not below what is really in use, as
    /// long as nothing is reclaimed meanwhile, which happens near the limit
    /// only, where full reads are frequent.
    fn read_quick(&mut self) -> io::Result<()> {
        let usage = self.number(&self.usage, self.version.usage())?;
        let usage = usage.unwrap_or(0).max(self.usage_at_stat);
        self.last.usage_bytes = usage - self.reclaimable;
        Ok(())
    }

    fn read_full(
        &mut self,
        buffer: &mut [u8],
        own: bool,
        machine: &working_set::Kernel,
    ) -> io::Result<()> {
        if self.usage.metadata()?.nlink() == 0 {
            let usage = self.path.join(self.version.usage());
            let message = format!("{} was removed", usage.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        self.last.limit_bytes = self.number(&self.limit, self.version.limit())?;
        self.last.high_bytes = match &self.high {
            Some(high) => self.number(high, "memory.high")?,
            None => None,
        };
        let usage = self.number(&self.usage, self.version.usage())?;
        let usage = usage.ok_or_else(|| self.malformed(self.version.usage(), "max"))?;
        self.apply_hierarchical_limit();
        if self.is_unmoved(usage) {
            self.last.usage_bytes = usage.max(self.usage_at_stat) - self.reclaimable;
            return Ok(());
        }
        let kernel = match &self.kernel {
            Some(kernel) => self
                .number(kernel, "memory.kmem.usage_in_bytes")?
                .unwrap_or(0),
            None => 0,
        };
        let stat = self
            .stat
            .as_ref()
            .map_or("", |stat| text(stat, buffer).unwrap_or(""));
        let counted = match self.version {
            Version::V1 => working_set::v1(stat, usage, kernel, machine),
            Version::V2 => working_set::v2(stat, usage, machine),
        };
        if own && self.version == Version::V1 {
            let hierarchical = working_set::v1_hierarchical_limit(stat);
            self.hierarchical = hierarchical.filter(|&bytes| bytes < V1_UNLIMITED);
            self.apply_hierarchical_limit();
        }
        // Without a readable memory.stat all of the usage counts: the safe side.
        let counted = counted.unwrap_or(usage);
        self.usage_at_stat = usage;
        self.reclaimable = usage - counted;
        self.last.usage_bytes = counted;
        Ok(())
    }

    fn apply_hierarchical_limit(&mut self) {
        let limits = [self.last.limit_bytes, self.hierarchical];
        self.last.limit_bytes = limits.into_iter().flatten().min();
    }

    /// `memory.stat` need not be read: far below every bound, and hardly
    /// changed. The guard may have a lower limit of its own, so what counts is
    /// the change against the usage too.
    fn is_unmoved(&self, usage: u64) -> bool {
        let bound = self
            .last
            .limit_bytes
            .into_iter()
            .chain(self.last.high_bytes)
            .min();
        bound.is_some_and(|bound| {
            let little = bound.min(self.usage_at_stat) / 64;
            usage < bound / 2 && usage.abs_diff(self.usage_at_stat) < little
        })
    }

    fn stall_percent(&self, buffer: &mut [u8]) -> Option<f64> {
        psi::full_avg10(text(self.pressure.as_ref()?, buffer).ok()?)
    }

    /// A file that holds one number, or `max`.
    fn number(&self, file: &File, name: &str) -> io::Result<Option<u64>> {
        let mut buffer = [0; 32];
        let length = file.read_at(&mut buffer, 0).map_err(|error| {
            let file = self.path.join(name);
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        let text = buffer[..length].trim_ascii_end();
        match digits(text) {
            Some(bytes) if self.version == Version::V1 && bytes >= V1_UNLIMITED => Ok(None),
            Some(bytes) => Ok(Some(bytes)),
            None if text == b"max" => Ok(None),
            None => Err(self.malformed(name, &String::from_utf8_lossy(text))),
        }
    }

    fn malformed(&self, name: &str, text: &str) -> io::Error {
        let file = self.path.join(name);
        let message = format!("{}: expected bytes, found {text:?}", file.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

/// A number of nothing but digits.
fn digits(text: &[u8]) -> Option<u64> {
    let add = |sum: u64, &byte: &u8| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            None
        } else {
            sum.checked_mul(10)?.checked_add(u64::from(digit))
        }
    };
    if text.is_empty() {
        None
    } else {
        text.iter().try_fold(0, add)
    }
}

/// What a file of the kernel's says now.
fn text<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    std::str::from_utf8(&buffer[..length])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
