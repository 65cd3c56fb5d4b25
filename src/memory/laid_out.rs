//! Machines laid out in a directory, for tests.

use std::fs;
use std::path::PathBuf;

use super::machine::{Machine, page_bytes};

pub(super) const MIB: u64 = 1 << 20;

/// A machine with 24 GiB of memory, of which 12 are available; 100 MiB are resident.
pub(super) struct LaidOut(tempfile::TempDir);

impl LaidOut {
    pub(super) const TOTAL: u64 = 24 << 30;

    pub(super) fn new() -> Self {
        let laid_out = Self(tempfile::tempdir().unwrap());
        let pages = 100 * MIB / page_bytes();
        laid_out.write("proc/self/statm", format!("9999 {pages} 0 0 0 0 0\n"));
        let available = (12u64 << 30) / 1024;
        let meminfo = format!("MemTotal: 25165824 kB\nMemAvailable:   {available} kB\n");
        laid_out.write("proc/meminfo", meminfo);
        laid_out
    }

    /// One of version 2 whose process is in the group that `/proc/self/cgroup` names.
    pub(super) fn version_2(group: &str) -> Self {
        let laid_out = Self::new();
        laid_out.enter(group);
        let mount = "40 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        laid_out.write("proc/self/mountinfo", mount);
        laid_out
    }

    pub(super) fn machine(&self) -> Machine {
        Machine::laid_out(self.0.path(), Self::TOTAL)
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What `/proc/self/cgroup` says from now on.
    pub(super) fn enter(&self, group: &str) {
        self.write("proc/self/cgroup", format!("0::{group}\n"));
    }

    /// Files of a group of version 2, all of whose usage is anonymous memory.
    pub(super) fn group(&self, path: &str, usage: u64, limit: &str) {
        self.write(&format!("{path}/memory.current"), usage.to_string());
        self.write(&format!("{path}/memory.max"), limit);
        self.write(&format!("{path}/memory.high"), "max");
        let stat = format!("anon {usage}\nfile 0\nkernel 0\nshmem 0\nsock 0\n");
        self.write(&format!("{path}/memory.stat"), stat);
    }
}
