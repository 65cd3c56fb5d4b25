//! This process's resident memory, for machines without a control group limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use procfs::Current;

use super::{Detail, HOST, MemoryLevel, MemorySource, Sample};

/// Resident memory against a limit that is given elsewhere or, `against_host`,
/// against itself plus what the host has available (`MemAvailable`, the
/// kernel's estimate of what can be had without swapping).
#[derive(Debug)]
pub(super) struct ProcessMemory {
    against_host: bool,
    statm: Option<(u32, File)>,
    limit_bytes: Option<u64>,
}

impl ProcessMemory {
    pub(super) fn new(against_host: bool) -> Self {
        Self {
            against_host,
            statm: None,
            limit_bytes: None,
        }
    }

    fn resident_bytes(&mut self) -> io::Result<u64> {
        // The descriptor belongs to the process that opened it: a forked child
        // would go on reading its parent's.
        let process = std::process::id();
        let statm = match self.statm.take() {
            Some((owner, statm)) if owner == process => statm,
            _ => open_statm()?,
        };
        let bytes = resident_in(&statm);
        self.statm = Some((process, statm));
        bytes
    }
}

impl MemorySource for ProcessMemory {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        let resident = self.resident_bytes()?;
        if self.against_host && (detail == Detail::Full || self.limit_bytes.is_none()) {
            let host = procfs::Meminfo::current().map_err(io::Error::other)?;
            let available = host.mem_available.unwrap_or(host.mem_free);
            self.limit_bytes = Some(resident + available);
        }
        sample.push(MemoryLevel::new(resident, self.limit_bytes));
        sample.set_process_bytes(resident);
        sample.limit_drifts = self.against_host;
        Ok(())
    }

    fn name(&self) -> String {
        if self.against_host {
            HOST.into()
        } else {
            "process memory".into()
        }
    }
}

/// Resident bytes of this process.
pub(super) fn resident_bytes() -> io::Result<u64> {
    resident_in(&open_statm()?)
}

fn open_statm() -> io::Result<File> {
    File::open("/proc/self/statm")
}

fn resident_in(statm: &File) -> io::Result<u64> {
    let mut buffer = [0; 128];
    let length = statm.read_at(&mut buffer, 0)?;
    std::str::from_utf8(&buffer[..length])
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .map(|pages| pages * procfs::page_size())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/statm: malformed"))
}
