//! One control group: its open files, and what they say.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::machine::of_file;
use super::{MemoryLevel, working_set};

const SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";
const KERNEL: &str = "memory.kmem.usage_in_bytes";

/// What changed by less is not far, unless a bound is so low: where little is in use,
/// `memory.stat` would be read all the time.
const LEAST_FAR_BYTES: u64 = 4 << 20;

/// Version 1 writes "no limit" as the largest number of whole pages.
const V1_UNLIMITED: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Version {
    /// What the directory holds, if it is a memory control group.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let has_its = |version: &Self| directory.join(version.usage()).exists();
        [Self::V2, Self::V1].into_iter().find(has_its)
    }

    pub(super) fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    pub(super) fn limit(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    /// Version 1 counts memory and swap together, version 2 swap alone.
    fn swap(self) -> &'static str {
        match self {
            Self::V1 => "memory.memsw.usage_in_bytes",
            Self::V2 => "memory.swap.current",
        }
    }
}

/// By whom levels are read.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) kernel: working_set::Kernel,
    buffer: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            kernel: working_set::Kernel::default(),
            buffer: vec![0; 16 << 10],
        }
    }
}

/// One group: its open files and what was read last.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) path: PathBuf,
    version: Version,
    usage: File,
    limit: File,
    high: Option<File>,
    stat: Option<File>,
    kernel: Option<File>,
    swap: Option<File>,
    /// Version 1: the limit of memory and swap together. Version 2 limits swap by itself,
    /// which kills nobody whose memory is below its limit.
    swap_limit: Option<File>,
    pressure: Option<File>,
    pub(super) last: MemoryLevel,
    /// Version 1: the limits of groups above that may not be visible, without swap and with.
    hierarchical: Option<u64>,
    hierarchical_with_swap: Option<u64>,
    /// Where memory and swap together end, and what they hold.
    with_swap: MemoryLevel,
    /// What the file of swap says, and what of it is in memory all the same.
    swap_held: u64,
    swap_cached: u64,
    /// Usage as the kernel counts it when `memory.stat` was read last, and the
    /// reclaimable part of it.
    usage_at_stat: u64,
    reclaimable: u64,
}

impl Level {
    pub(super) fn open(path: &Path, version: Version) -> io::Result<Self> {
        let open = |name: &str| File::open(path.join(name)).map_err(of_file(path.join(name)));
        let of = |one: Version, name| open(name).ok().filter(|_| version == one);
        let of_v1 = |name| of(Version::V1, name);
        let of_v2 = |name| of(Version::V2, name);
        Ok(Self {
            path: path.to_path_buf(),
            version,
            usage: open(version.usage())?,
            limit: open(version.limit())?,
            high: of_v2("memory.high"),
            stat: open("memory.stat").ok(),
            kernel: of_v1(KERNEL),
            swap: open(version.swap()).ok(),
            swap_limit: of_v1(SWAP_LIMIT),
            pressure: of_v2("memory.pressure"),
            last: MemoryLevel::default(),
            hierarchical: None,
            hierarchical_with_swap: None,
            with_swap: MemoryLevel::default(),
            swap_held: 0,
            swap_cached: 0,
            usage_at_stat: 0,
            reclaimable: 0,
        })
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.last.bound_bytes().is_some()
    }

    pub(super) fn version_number(&self) -> &'static str {
        match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }

    /// Usage alone. What could be reclaimed is taken from the last read of `memory.stat`;
    /// if usage fell since, cache may have gone with it, so none of the fall
    /// counts. Either way the result is not below what is really in use, as
    /// long as nothing is reclaimed meanwhile, which happens near the limit
    /// only, where full reads are frequent. If usage has moved far, what it is made of is
    /// read again: a file can be written faster than anything else grows, and be deleted.
    pub(super) fn read_quick(&mut self, own: bool, reader: &mut Reader) -> io::Result<()> {
        let usage = self.number(&self.usage, self.version.usage())?;
        let usage = usage.unwrap_or(0);
        if self.has_moved_far(usage) {
            self.read_swap()?;
            return self.read_stat(usage, own, reader);
        }
        self.set_usage(usage.max(self.usage_at_stat) - self.reclaimable);
        Ok(())
    }

    pub(super) fn read_full(&mut self, own: bool, reader: &mut Reader) -> io::Result<()> {
        if self.usage.metadata()?.nlink() == 0 {
            let usage = self.path.join(self.version.usage());
            let message = format!("{} was removed", usage.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        self.last.limit_bytes = self.number(&self.limit, self.version.limit())?;
        self.last.high_bytes = self.perhaps(&self.high, "memory.high")?;
        let usage = self.number(&self.usage, self.version.usage())?;
        let usage = usage.ok_or_else(|| self.malformed(self.version.usage(), "max"))?;
        self.apply_hierarchical_limit();
        self.read_swap()?;
        if self.is_unmoved(usage) {
            self.set_swapped(usage);
            self.set_usage(usage.max(self.usage_at_stat) - self.reclaimable);
            return Ok(());
        }
        self.read_stat(usage, own, reader)
    }

    fn read_stat(&mut self, usage: u64, own: bool, reader: &mut Reader) -> io::Result<()> {
        let Reader {
            kernel: machine,
            buffer,
        } = reader;
        let kernel = self.perhaps(&self.kernel, KERNEL)?.unwrap_or(0);
        let stat = self.stat.as_ref().and_then(|stat| text(stat, buffer).ok());
        let stat = stat.unwrap_or("");
        let counted = match self.version {
            Version::V1 => working_set::v1(stat, usage, kernel, machine),
            Version::V2 => working_set::v2(stat, usage, machine),
        };
        self.swap_cached = working_set::field(stat, "swapcached").unwrap_or(0);
        if own && self.version == Version::V1 {
            let limit = |name| working_set::field(stat, name).filter(|&bytes| bytes < V1_UNLIMITED);
            self.hierarchical = limit("hierarchical_memory_limit");
            self.hierarchical_with_swap = limit("hierarchical_memsw_limit");
            self.apply_hierarchical_limit();
        }
        self.set_swapped(usage);
        // Without a readable memory.stat all of the usage counts: the safe side.
        let counted = counted.unwrap_or(usage);
        self.usage_at_stat = usage;
        self.reclaimable = usage - counted;
        self.set_usage(counted);
        Ok(())
    }

    fn read_swap(&mut self) -> io::Result<()> {
        let held = self.perhaps(&self.swap, self.version.swap())?;
        self.swap_held = held.unwrap_or(0);
        self.with_swap.limit_bytes = self.perhaps(&self.swap_limit, SWAP_LIMIT)?;
        Ok(())
    }

    /// How much is on swap and not in memory too.
    fn set_swapped(&mut self, usage: u64) {
        let in_memory = match self.version {
            Version::V1 => usage,
            Version::V2 => self.swap_cached,
        };
        self.last.swapped_bytes = self.swap_held.saturating_sub(in_memory);
    }

    fn set_usage(&mut self, counted: u64) {
        self.last.usage_bytes = counted;
        self.with_swap.usage_bytes = counted + self.last.swapped_bytes;
    }

    /// Memory and swap together, where they have an end and swap is in use: else
    /// memory's own end comes first.
    pub(super) fn with_swap(&self) -> Option<MemoryLevel> {
        let limits = [self.with_swap.limit_bytes, self.hierarchical_with_swap];
        let limit = limits.into_iter().flatten().min()?;
        let level = MemoryLevel::new(self.with_swap.usage_bytes, Some(limit));
        (self.last.swapped_bytes > 0).then_some(level)
    }

    fn apply_hierarchical_limit(&mut self) {
        let limits = [self.last.limit_bytes, self.hierarchical];
        self.last.limit_bytes = limits.into_iter().flatten().min();
    }

    /// `memory.stat` need not be read: far below every bound, and hardly
    /// changed. The guard may have a lower limit of its own, so what counts is
    /// the change against the usage too.
    fn is_unmoved(&self, usage: u64) -> bool {
        self.last.bound_bytes().is_some_and(|bound| {
            let little = bound.min(self.usage_at_stat) / 64;
            usage < bound / 2 && usage.abs_diff(self.usage_at_stat) < little
        })
    }

    /// Usage changed by so much since `memory.stat` was read that it could be taken for
    /// another level of pressure, of a lower limit of the guard's own, too.
    fn has_moved_far(&self, usage: u64) -> bool {
        let far = (self.usage_at_stat / 32).max(LEAST_FAR_BYTES);
        let bound = self.last.bound_bytes().unwrap_or(u64::MAX);
        usage.abs_diff(self.usage_at_stat) > far.min(bound / 32)
    }

    pub(super) fn stall_percent(&self, reader: &mut Reader) -> Option<f64> {
        full_avg10(text(self.pressure.as_ref()?, &mut reader.buffer).ok()?)
    }

    /// The same of a file that may not be there.
    fn perhaps(&self, file: &Option<File>, name: &str) -> io::Result<Option<u64>> {
        let number = file.as_ref().map(|file| self.number(file, name));
        number.transpose().map(Option::flatten)
    }

    /// A file that holds one number, or `max`.
    fn number(&self, file: &File, name: &str) -> io::Result<Option<u64>> {
        let mut buffer = [0; 32];
        let length = file.read_at(&mut buffer, 0);
        let length = length.map_err(of_file(self.path.join(name)))?;
        let text = String::from_utf8_lossy(buffer[..length].trim_ascii_end());
        match text.parse() {
            Ok(bytes) if self.version == Version::V1 && bytes >= V1_UNLIMITED => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) if text == "max" => Ok(None),
            Err(_) => Err(self.malformed(name, &text)),
        }
    }

    fn malformed(&self, name: &str, text: &str) -> io::Error {
        let file = self.path.join(name);
        let message = format!("{}: expected bytes, found {text:?}", file.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

/// What a file of the kernel's says now.
fn text<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    std::str::from_utf8(&buffer[..length])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// `full avg10` of a `memory.pressure` file, in percent: how long all tasks waited for memory.
fn full_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("full "))?;
    let mut fields = line.split(' ');
    let percent = fields.find_map(|field| field.strip_prefix("avg10="))?;
    let percent = percent.parse().ok();
    percent.filter(|percent: &f64| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use super::full_avg10;

    #[test]
    fn reads_the_share_of_time_in_which_every_task_stalled() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n\
                    full avg10=0.75 avg60=0.00 avg300=0.00 total=4\n";
        assert_eq!(full_avg10(text), Some(0.75));
        assert_eq!(full_avg10("some avg10=1.50"), None);
        assert_eq!(full_avg10("full avg10=x"), None);
        assert_eq!(full_avg10(""), None);
    }
}
