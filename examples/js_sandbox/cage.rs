//! A memory limit for a child process: a control group where one can be made,
//! otherwise its resident memory is watched and it is killed at the limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
        let kind = v1(limit_bytes, &name)
            .or_else(|_| v2(limit_bytes, &name))
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

    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        match &self.kind {
            Kind::V1(directory) => number(&directory.join("memory.max_usage_in_bytes")),
            Kind::V2(directory) => number(&directory.join("memory.peak")),
            Kind::Watched { peak_bytes } => Some(*peak_bytes),
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Some(directory) = self.directory() {
            // A process that was just killed may still be on its way out.
            for _ in 0..50 {
                if fs::remove_dir(directory).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}

/// Moves this process into the group.
pub(crate) fn enter(directory: &Path) -> io::Result<()> {
    fs::write(
        directory.join("cgroup.procs"),
        std::process::id().to_string(),
    )
}

fn v1(limit_bytes: u64, name: &str) -> io::Result<Kind> {
    let own = own_group(|line| line.split(':').nth(1) == Some("memory"))?;
    let directory = Path::new("/sys/fs/cgroup/memory").join(own).join(name);
    make(&directory, "memory.limit_in_bytes", limit_bytes)?;
    // Without a bound on swap, a host that has some does not kill.
    let _ = fs::write(
        directory.join("memory.memsw.limit_in_bytes"),
        limit_bytes.to_string(),
    );
    Ok(Kind::V1(directory))
}

fn v2(limit_bytes: u64, name: &str) -> io::Result<Kind> {
    let own = Path::new("/sys/fs/cgroup").join(own_group(|line| line.starts_with("0::"))?);
    fs::write(own.join("cgroup.subtree_control"), "+memory")?;
    let directory = own.join(name);
    make(&directory, "memory.max", limit_bytes)?;
    let _ = fs::write(directory.join("memory.swap.max"), "0");
    Ok(Kind::V2(directory))
}

fn make(directory: &Path, file: &str, limit_bytes: u64) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::write(directory.join(file), limit_bytes.to_string()).inspect_err(|_| {
        let _ = fs::remove_dir(directory);
    })
}

/// This process's group, relative to the mount.
fn own_group(is_it: impl Fn(&str) -> bool) -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let line = groups
        .lines()
        .find(|line| is_it(line))
        .ok_or(io::ErrorKind::NotFound)?;
    let path = line.splitn(3, ':').nth(2).unwrap_or("/");
    Ok(PathBuf::from(path.trim_start_matches('/')))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
