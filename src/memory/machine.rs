//! The machine, as a process sees it through its files.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

/// Where the files are, so that tests can lay out machines that are not at hand.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    root: PathBuf,
    /// Else the kernel is asked.
    total_bytes: Option<u64>,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        Self {
            root: "/".into(),
            total_bytes: None,
        }
    }

    /// One whose files stand below `root`.
    #[cfg(test)]
    pub(super) fn laid_out(root: &Path, total_bytes: u64) -> Self {
        Self {
            root: root.into(),
            total_bytes: Some(total_bytes),
        }
    }

    /// Where a file of the machine's is to be opened.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What a file says. An error names it.
    pub(super) fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(path)).map_err(of_file(path))
    }

    /// Physical memory. Not from `/proc/meminfo`, which some containers replace.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        let asked = || sysinfo().ok().map(|info| info.ram_total());
        self.total_bytes.or_else(asked)
    }
}

/// Bytes of a page of memory, from the C library: `procfs` looks at the vDSO first, which is
/// not there under valgrind.
pub(super) fn page_bytes() -> u64 {
    let known = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    known.map_or(4096, |bytes| bytes as u64)
}

/// The same error, with the name of the file.
pub(super) fn of_file(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> io::Error {
    move |error| {
        let message = format!("{}: {error}", path.as_ref().display());
        io::Error::new(error.kind(), message)
    }
}
