//! What uses memory of a group beside requests.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tempfile::NamedTempFile;
use tower_memory_guard::BoxError;

use super::{group, lifeline};

/// Larger than the group.
const FILE_MIB: usize = 600;
const BLOCK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
/// What `statfs` says of file systems in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

const NEIGHBOUR_MIB: usize = 250;
const NEIGHBOUR_MIB_PER_SECOND: u32 = 20;

/// A place for the file that a server fills the page cache with.
pub(crate) fn cache_file() -> Result<NamedTempFile, BoxError> {
    let file = NamedTempFile::new()?;
    if rustix::fs::statfs(file.path())?.f_type == TMPFS_MAGIC {
        let place = file.path().display();
        return Err(format!("{place} is in memory, not on a disk; set TMPDIR").into());
    }
    Ok(file)
}

/// Writes a file, then reads it for ever.
pub(crate) fn fill_page_cache(path: &Path) {
    let outcome = write_and_read(path);
    eprintln!("survival: {}: {outcome:?}", path.display());
}

fn write_and_read(path: &Path) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .truncate(true)
        .open(path)?;
    // Bytes that are there: holes would be read without a disk.
    let mut block = vec![0xa5; BLOCK_BYTES];
    for _ in 0..FILE_MIB {
        file.write_all(&block)?;
    }
    loop {
        file.rewind()?;
        while file.read(&mut block)? > 0 {}
    }
}

/// Another process of the group: grows, gives everything back, and grows again.
pub(crate) fn neighbour(mut arguments: impl Iterator<Item = String>) -> Result<(), BoxError> {
    let group = arguments.next().ok_or("--neighbour GROUP")?;
    group::enter(Path::new(&group))?;
    lifeline::exit_with_parent();
    loop {
        let mut map = memmap2::MmapMut::map_anon(NEIGHBOUR_MIB << 20)?;
        for block in map.chunks_mut(BLOCK_BYTES) {
            block.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
            thread::sleep(Duration::from_secs(1) / NEIGHBOUR_MIB_PER_SECOND);
        }
    }
}
