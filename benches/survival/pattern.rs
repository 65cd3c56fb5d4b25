//! What arrives when: the patterns, all from a seed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;
use tempfile::NamedTempFile;

/// What the patterns' loads are multiples of: MiB that requests can hold at once.
const CAPACITY_MIB: f64 = 500.0;
const MEAN_WORK_SECONDS: f64 = 1.0;
const BURSTS: u64 = 3;
const REQUESTS_PER_BURST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Steady,
    Burst,
    Overload,
    Mixed,
    Drift,
    Wave,
    PageCache,
    Leak,
    Retention,
    Small,
    Mapped,
}

/// One request, the same for every guard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// Since the run began.
    pub(crate) at: Duration,
    pub(crate) bytes: u64,
    /// From its admission to its answer.
    pub(crate) work: Duration,
}

impl Pattern {
    /// Of one run each; the last two only if they are asked for.
    pub(crate) const ALL: [Pattern; 11] = [
        Pattern::Steady,
        Pattern::Burst,
        Pattern::Overload,
        Pattern::Mixed,
        Pattern::Drift,
        Pattern::Wave,
        Pattern::PageCache,
        Pattern::Leak,
        Pattern::Retention,
        Pattern::Small,
        Pattern::Mapped,
    ];

    /// Those in the table.
    pub(crate) fn usual() -> Vec<Pattern> {
        Pattern::ALL[..9].to_vec()
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Pattern::Steady => "steady",
            Pattern::Burst => "burst",
            Pattern::Overload => "overload",
            Pattern::Mixed => "mixed",
            Pattern::Drift => "drift",
            Pattern::Wave => "wave",
            Pattern::PageCache => "page-cache",
            Pattern::Leak => "leak",
            Pattern::Retention => "retention",
            Pattern::Small => "small",
            Pattern::Mapped => "mapped",
        }
    }

    /// All requests of a run, in the order of time.
    pub(crate) fn arrivals(self, seed: u64, seconds: u64) -> Vec<Arrival> {
        // Patterns with the same rate must not have the same requests.
        let mut rng = Rng::with_seed(seed ^ (self as u64) << 56);
        let seconds = seconds as f64;
        if self == Pattern::Burst {
            let starts = (0..BURSTS).map(|n| (n as f64 + 0.5) * seconds / BURSTS as f64);
            return starts
                .flat_map(|at| std::iter::repeat_n(at, REQUESTS_PER_BURST))
                .map(|at| self.arrival(at, seconds, &mut rng))
                .collect();
        }
        // A Poisson process whose rate varies: one of the highest rate, thinned.
        let highest = (0..=1000)
            .map(|step| self.requests_per_second(f64::from(step) / 1000.0 * seconds, seconds))
            .fold(0.0, f64::max);
        let mut arrivals = Vec::new();
        let mut at = 0.0;
        loop {
            at -= (1.0 - rng.f64()).ln() / highest;
            if at >= seconds {
                return arrivals;
            }
            if rng.f64() * highest < self.requests_per_second(at, seconds) {
                arrivals.push(self.arrival(at, seconds, &mut rng));
            }
        }
    }

    fn requests_per_second(self, at: f64, seconds: f64) -> f64 {
        let load = match self {
            Pattern::Steady => 0.6,
            Pattern::Burst | Pattern::PageCache | Pattern::Leak | Pattern::Retention => 0.9,
            Pattern::Overload => 3.0,
            Pattern::Mixed | Pattern::Mapped => 1.5,
            // A thousand at once.
            Pattern::Small => 0.2,
            Pattern::Drift => 1.2,
            Pattern::Wave => 1.2 + (at * std::f64::consts::TAU / 6.0).sin(),
        };
        load * CAPACITY_MIB / (self.mean_mib(at, seconds) * MEAN_WORK_SECONDS)
    }

    fn mean_mib(self, at: f64, seconds: f64) -> f64 {
        match self {
            Pattern::Mixed => 0.9 * 2.0 + 0.1 * 120.0,
            Pattern::Drift => 20.0 + 40.0 * at / seconds,
            Pattern::Small => 0.1,
            Pattern::Mapped => 150.0,
            _ => 20.0,
        }
    }

    fn arrival(self, at: f64, seconds: f64, rng: &mut Rng) -> Arrival {
        let mib = match self {
            Pattern::Mixed if rng.f64() < 0.9 => 2.0,
            Pattern::Mixed => 120.0,
            Pattern::Small | Pattern::Mapped => self.mean_mib(at, seconds),
            _ => self.mean_mib(at, seconds) * (0.8 + 0.4 * rng.f64()),
        };
        Arrival {
            at: Duration::from_secs_f64(at),
            // Whole pages.
            bytes: (mib * 256.0).round() as u64 * 4096,
            work: Duration::from_millis(rng.u64(600..=1400)),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Pattern::ALL.into_iter().find(|known| known.word() == word);
        known.ok_or_else(|| {
            let words = Pattern::ALL.map(Pattern::word).join(", ");
            format!("{word}: expected one of {words}")
        })
    }
}

/// The file that a server reads again and again: larger than its group.
pub(crate) struct PageFile(NamedTempFile);

impl PageFile {
    const MIB: usize = 700;

    pub(crate) fn new() -> io::Result<Self> {
        let mut file = NamedTempFile::new()?;
        // Bytes that are there: holes would be read without a disk.
        let block = vec![0xa5; 1 << 20];
        for _ in 0..Self::MIB {
            file.write_all(&block)?;
        }
        file.as_file().sync_all()?;
        Ok(Self(file))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Forgets what is cached of the file, so that the next group to read it is charged.
pub(crate) fn drop_cached_pages(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(rustix::fs::fadvise(
        &file,
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )?)
}
