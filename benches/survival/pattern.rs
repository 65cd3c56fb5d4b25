//! What arrives when: the patterns, all from a seed.

use std::f64::consts::TAU;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;

const BURSTS: u64 = 3;
const REQUESTS_PER_BURST: usize = 100;
const WAVE_PERIOD_SECONDS: f64 = 7.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Steady,
    Burst,
    Overload,
    Mixed,
    Drift,
    Wave,
    /// Beside a file that is written and then read again and again.
    Cache,
    /// Small blocks, of which some outlive their requests.
    Retain,
    Leak,
    Tiny,
    CrashLoop,
    /// Some allocate all they need in one poll.
    OnePoll,
    /// Growth under a lock that all share.
    Mutex,
    /// On threads that may block.
    Blocking,
    BlockingCheckpoints,
    LeakToLimit,
    /// Beside a process that the guard knows nothing of.
    Neighbour,
    /// Memory that no allocator sees.
    Mapped,
    /// A thousand at once.
    Small,
    /// One half on threads that may block, the other polled.
    HalfBlocking,
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
    /// Those after the first ten only if they are asked for.
    pub(crate) const ALL: [Pattern; 20] = [
        Pattern::Steady,
        Pattern::Burst,
        Pattern::Overload,
        Pattern::Mixed,
        Pattern::Drift,
        Pattern::Wave,
        Pattern::Cache,
        Pattern::Retain,
        Pattern::Leak,
        Pattern::Tiny,
        Pattern::CrashLoop,
        Pattern::OnePoll,
        Pattern::Mutex,
        Pattern::Blocking,
        Pattern::BlockingCheckpoints,
        Pattern::LeakToLimit,
        Pattern::Neighbour,
        Pattern::Mapped,
        Pattern::Small,
        Pattern::HalfBlocking,
    ];

    /// Those in the table.
    pub(crate) fn usual() -> Vec<Pattern> {
        Pattern::ALL[..10].to_vec()
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Pattern::Steady => "steady",
            Pattern::Burst => "burst",
            Pattern::Overload => "overload",
            Pattern::Mixed => "mixed",
            Pattern::Drift => "drift",
            Pattern::Wave => "wave",
            Pattern::Cache => "cache",
            Pattern::Retain => "retain",
            Pattern::Leak => "leak",
            Pattern::Tiny => "tiny",
            Pattern::CrashLoop => "crash-loop",
            Pattern::OnePoll => "one-poll",
            Pattern::Mutex => "mutex",
            Pattern::Blocking => "blocking",
            Pattern::BlockingCheckpoints => "blocking-checkpoints",
            Pattern::HalfBlocking => "half-blocking",
            Pattern::LeakToLimit => "leak-to-limit",
            Pattern::Neighbour => "neighbour",
            Pattern::Mapped => "mapped",
            Pattern::Small => "small",
        }
    }

    /// For how long requests arrive, unless one says.
    pub(crate) fn usual_seconds(self) -> u64 {
        match self {
            Pattern::Burst => 15,
            _ => 16,
        }
    }

    /// All requests of a run, in the order of time.
    pub(crate) fn arrivals(self, seed: u64, seconds: u64) -> Vec<Arrival> {
        // Patterns with the same rate must not have the same requests.
        let mut rng = Rng::with_seed(seed ^ (self as u64) << 56);
        let seconds = seconds as f64;
        let Some(per_second) = self.requests_per_second() else {
            let starts = (0..BURSTS).map(|n| n as f64 * seconds / BURSTS as f64);
            return starts
                .flat_map(|at| std::iter::repeat_n(at, REQUESTS_PER_BURST))
                .map(|at| self.arrival(at, seconds, &mut rng))
                .collect();
        };
        let mut arrivals = Vec::new();
        let mut at = 0.0;
        loop {
            // A Poisson process.
            at -= (1.0 - rng.f64()).ln() / per_second;
            if at >= seconds {
                return arrivals;
            }
            arrivals.push(self.arrival(at, seconds, &mut rng));
        }
    }

    /// `None`: in bursts.
    fn requests_per_second(self) -> Option<f64> {
        Some(match self {
            Pattern::Burst => return None,
            Pattern::Steady | Pattern::Cache | Pattern::Mapped => 5.0,
            Pattern::Neighbour => 10.0,
            Pattern::Leak | Pattern::LeakToLimit => 12.0,
            Pattern::Retain
            | Pattern::OnePoll
            | Pattern::Mutex
            | Pattern::Blocking
            | Pattern::BlockingCheckpoints
            | Pattern::HalfBlocking => 20.0,
            Pattern::Wave => 25.0,
            Pattern::Overload | Pattern::CrashLoop => 30.0,
            Pattern::Drift => 40.0,
            Pattern::Mixed => 160.0,
            Pattern::Tiny => 300.0,
            Pattern::Small => 1000.0,
        })
    }

    fn arrival(self, at: f64, seconds: f64, rng: &mut Rng) -> Arrival {
        // What changes does so in the middle.
        let is_late = at >= seconds / 2.0;
        let (mib, ms) = match self {
            Pattern::Steady | Pattern::Burst | Pattern::Overload | Pattern::Cache => (48.0, 1000),
            Pattern::Mixed if rng.f64() < 0.9 => (2.0, 50),
            Pattern::Mixed => (120.0, 500),
            Pattern::Drift if is_late => (60.0, 1000),
            Pattern::Drift => (20.0, 1000),
            Pattern::Wave => {
                let mib = 50.0 + 40.0 * (TAU * at / WAVE_PERIOD_SECONDS).sin();
                (mib, rng.u64(400..=1200))
            }
            Pattern::Retain
            | Pattern::Leak
            | Pattern::LeakToLimit
            | Pattern::Mutex
            | Pattern::Blocking
            | Pattern::BlockingCheckpoints
            | Pattern::HalfBlocking => (48.0, 600),
            Pattern::Tiny => (1.0, 100),
            Pattern::CrashLoop if is_late => (120.0, 800),
            Pattern::CrashLoop => (12.0, 800),
            Pattern::OnePoll if rng.f64() < 0.9 => (4.0, 200),
            Pattern::OnePoll => (256.0, 200),
            Pattern::Neighbour => (48.0, 800),
            Pattern::Mapped => (150.0, rng.u64(600..=1400)),
            Pattern::Small => (0.1, rng.u64(600..=1400)),
        };
        Arrival {
            at: Duration::from_secs_f64(at),
            // Whole pages.
            bytes: (mib * 256.0).round() as u64 * 4096,
            work: Duration::from_millis(ms),
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
