//! This process's resident memory, for machines without a control group limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::machine::{Machine, of_file, page_bytes};
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
    statm: Statm,
    limit_bytes: Option<u64>,
    /// It has been said that nobody tells what is available.
    said_hidden: bool,
}

impl ProcessMemory {
    pub(super) fn new(machine: Machine, against_host: bool) -> Self {
        Self {
            machine,
            against_host,
            statm: Statm::new(),
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
}

impl MemorySource for ProcessMemory {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        let resident = self.statm.read(|| open_statm(&self.machine))?;
        let resident = resident.resident_bytes;
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
    Ok(resident_in(&open_statm(machine)?)?.resident_bytes)
}

/// What of this process's memory stands in no file, as the kernel counts it: what has been
/// allocated, touched and not given back. Some 1 µs. `None`: it does not say.
pub(crate) fn anonymous_bytes() -> Option<u64> {
    let Resident {
        resident_bytes,
        shared_bytes,
    } = resident_now()?;
    Some(resident_bytes.saturating_sub(shared_bytes))
}

/// The same, and what stands in files.
pub(crate) fn process_bytes() -> Option<u64> {
    resident_now().map(|resident| resident.resident_bytes)
}

fn resident_now() -> Option<Resident> {
    static STATM: Mutex<Statm> = Mutex::new(Statm::new());
    let mut statm = STATM.lock().unwrap_or_else(PoisonError::into_inner);
    statm.read(|| open_statm(&Machine::here())).ok()
}

/// `/proc/self/statm`, kept open.
#[derive(Debug)]
struct Statm {
    /// The descriptor belongs to the process that opened it: a forked child would go on
    /// reading its parent's.
    opened: Option<(u32, File)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Resident {
    resident_bytes: u64,
    /// Of files, and of memory shared with others.
    shared_bytes: u64,
}

impl Statm {
    const fn new() -> Self {
        Self { opened: None }
    }

    fn read(&mut self, open: impl FnOnce() -> io::Result<File>) -> io::Result<Resident> {
        let process = std::process::id();
        let statm = match self.opened.take() {
            Some((owner, statm)) if owner == process => statm,
            _ => open()?,
        };
        let resident = resident_in(&statm);
        self.opened = Some((process, statm));
        resident
    }
}

fn open_statm(machine: &Machine) -> io::Result<File> {
    File::open(machine.path(STATM)).map_err(of_file(STATM))
}

fn resident_in(statm: &File) -> io::Result<Resident> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("{STATM}: malformed"));
    let mut buffer = [0; 128];
    let length = statm.read_at(&mut buffer, 0)?;
    let text = std::str::from_utf8(&buffer[..length]).map_err(|_| malformed())?;
    let mut fields = text.split(' ').skip(1).map(|field| {
        let pages = field.parse::<u64>().ok()?;
        Some(pages.saturating_mul(page_bytes()))
    });
    let mut next = || fields.next().flatten().ok_or_else(malformed);
    Ok(Resident {
        resident_bytes: next()?,
        shared_bytes: next()?,
    })
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
    let available = available.map(|kib| kib.saturating_mul(1024));
    available.ok_or_else(|| {
        let message = format!("{MEMINFO}: expected a line MemAvailable or MemFree");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
