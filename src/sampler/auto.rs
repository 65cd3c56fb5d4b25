//! The control group while it has a limit, else the host.

use std::io;

use super::cgroup::CgroupMemory;
use super::process::ProcessMemory;
use super::{Detail, MemorySource, Sample};

#[derive(Debug)]
pub(super) struct Auto {
    cgroup: CgroupMemory,
    host: ProcessMemory,
    /// The last full read found a limit.
    limited: bool,
}

impl Auto {
    pub(super) fn new() -> Self {
        Self {
            cgroup: CgroupMemory::discover(),
            host: ProcessMemory::new(true),
            limited: false,
        }
    }
}

impl MemorySource for Auto {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        // A limit may appear while running, so a full read always looks.
        if self.limited || detail == Detail::Full {
            match self.cgroup.read(detail, sample) {
                Ok(()) if sample.is_limited() => {
                    self.limited = true;
                    return Ok(());
                }
                // A limit that was there and cannot be read any more is a
                // failure; a machine without control groups is not.
                Err(error) if self.limited => return Err(error),
                _ => self.limited = false,
            }
            sample.clear();
        }
        self.host.read(detail, sample)
    }

    fn name(&self) -> String {
        if self.limited {
            self.cgroup.name()
        } else {
            self.host.name()
        }
    }
}
