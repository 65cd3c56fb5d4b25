//! A memory limit for a child process: a control group where one can be made,
//! otherwise its resident memory is watched and it is killed at the limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::group;

pub(crate) struct Cage {
    limit_bytes: u64,
    kind: Kind,
}

enum Kind {
    V1(PathBuf),
    V2(PathBuf),
    Watched { peak_bytes: u64 },
}

impl Cage {
    pub(crate) fn new(limit_bytes: u64, name: &str) -> Self {
        let name = format!("memory-guard-storm-{}-{name}", std::process::id());
        let kind = group::v1(limit_bytes, &name)
            .map(Kind::V1)
            .or_else(|_| group::v2(limit_bytes, &name).map(Kind::V2))
            .unwrap_or(Kind::Watched { peak_bytes: 0 });
        Self { limit_bytes, kind }
    }

    /// What enforces the limit.
    pub(crate) fn describe(&self) -> &'static str {
        match self.kind {
            Kind::V1(_) => "a control group (version 1)",
            Kind::V2(_) => "a control group (version 2)",
            Kind::Watched { .. } => "watching resident memory (no control group could be made)",
        }
    }

    /// The directory that the child enters, if it is to enter one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.kind {
            Kind::V1(directory) | Kind::V2(directory) => Some(directory),
            Kind::Watched { .. } => None,
        }
    }

    /// Looks at the child; `true` if it must be killed now.
    pub(crate) fn is_over(&mut self, pid: u32) -> bool {
        let Kind::Watched { peak_bytes } = &mut self.kind else {
            return false;
        };
        let resident = resident_bytes(pid).unwrap_or(0);
        *peak_bytes = resident.max(*peak_bytes);
        resident > self.limit_bytes
    }

    /// What the child uses now.
    pub(crate) fn used_bytes(&self, pid: u32) -> Option<u64> {
        match &self.kind {
            Kind::V1(directory) => group::number(&directory.join("memory.usage_in_bytes")).ok(),
            Kind::V2(directory) => group::number(&directory.join("memory.current")).ok(),
            Kind::Watched { .. } => resident_bytes(pid),
        }
    }

    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        match &self.kind {
            Kind::V1(directory) => group::number(&directory.join("memory.max_usage_in_bytes")).ok(),
            Kind::V2(directory) => group::number(&directory.join("memory.peak")).ok(),
            Kind::Watched { peak_bytes } => Some(*peak_bytes),
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Some(directory) = self.directory() {
            group::remove(directory);
        }
    }
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// What a process has taken of all processors.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in brackets, may be anything. User's and system's time, of which Linux
    // counts a hundred in a second.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    Some(Duration::from_millis(ticks * 10))
}
