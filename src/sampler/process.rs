//! This process's resident memory, for machines without a control group limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::machine::Machine;
use super::{Detail, HOST, MemoryLevel, MemorySource, Sample};

const STATM: &str = "/proc/self/statm";
const MEMINFO: &str = "/proc/meminfo";

/// Resident memory against a limit that is given elsewhere or, `against_host`,
/// against itself plus what the host has available (`MemAvailable`, the
/// kernel's estimate of what can be had without swapping).
#[derive(Debug)]
pub(super) struct ProcessMemory {
    machine: Machine,
    against_host: bool,
    statm: Option<(u32, File)>,
    limit_bytes: Option<u64>,
    /// It has been said that nobody tells what is available.
    said_hidden: bool,
}

impl ProcessMemory {
    pub(super) fn new(machine: Machine, against_host: bool) -> Self {
        Self {
            machine,
            against_host,
            statm: None,
            limit_bytes: None,
            said_hidden: false,
        }
    }

    /// What may be had from the host. All there is where it does not tell what is
    /// available: of what is free, files that were read would leave next to nothing.
    fn host_bytes(&mut self, resident: u64, sample: &mut Sample) -> io::Result<u64> {
        let hidden = match available_bytes(&self.machine) {
            Ok(available) => return Ok(resident.saturating_add(available)),
            Err(error) => error,
        };
        let Some(total_bytes) = self.machine.total_bytes() else {
            return Err(hidden);
        };
        if !std::mem::replace(&mut self.said_hidden, true) {
            sample.warnings.push(format!(
                "{hidden}, so the memory guard goes by all physical memory and does not see what \
                 others use; systemd's ProcSubset=pid hides that file; set a control group \
                 limit or MEMORY_GUARD_MEMORY_LIMIT (such as 2GiB)"
            ));
        }
        Ok(total_bytes)
    }

    fn resident_bytes(&mut self) -> io::Result<u64> {
        // The descriptor belongs to the process that opened it: a forked child
        // would go on reading its parent's.
        let process = std::process::id();
        let statm = match self.statm.take() {
            Some((owner, statm)) if owner == process => statm,
            _ => open_statm(&self.machine)?,
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
            self.limit_bytes = Some(self.host_bytes(resident, sample)?);
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
pub(super) fn resident_bytes(machine: &Machine) -> io::Result<u64> {
    resident_in(&open_statm(machine)?)
}

fn open_statm(machine: &Machine) -> io::Result<File> {
    File::open(machine.path(STATM))
        .map_err(|error| io::Error::new(error.kind(), format!("{STATM}: {error}")))
}

fn resident_in(statm: &File) -> io::Result<u64> {
    let mut buffer = [0; 128];
    let length = statm.read_at(&mut buffer, 0)?;
    std::str::from_utf8(&buffer[..length])
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .map(|pages| pages.saturating_mul(procfs::page_size()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{STATM}: malformed")))
}

/// What can be had without swapping. Read by hand: a machine that is not quite Linux shows
/// a part of the lines only.
fn available_bytes(machine: &Machine) -> io::Result<u64> {
    let text = machine.read(MEMINFO)?;
    let text = String::from_utf8_lossy(&text);
    let kib = |name: &str| {
        let values = text.lines().find_map(|line| line.strip_prefix(name))?;
        values.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    // Kernels before 3.14 do not say how much is available.
    let available = kib("MemAvailable:").or_else(|| kib("MemFree:"));
    available
        .map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| {
            let message = format!("{MEMINFO}: expected a line MemAvailable or MemFree");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
