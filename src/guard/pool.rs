//! What the guards of a process share.
//!
//! Guards that hold back the same process have one ledger, so that no two of them
//! promise the same memory; one sampler, so that all learn at once what has become free;
//! and one board on which each says what it knows of its requests.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::forecast::Portion;
use crate::limiter::Limiter;
use crate::memory::{self, MemorySource, Sampler};
use crate::running::brake::Brake;

pub(crate) struct Shared {
    pub(crate) holdings: Arc<Holdings>,
    /// Its place among what the sampler reads.
    pub(crate) source: usize,
}

/// The parts of the forecast that the guards on one ledger know, each under a key
/// of its own.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<HashMap<usize, Portion>>);

impl Board {
    /// Tells the others one's own part; says theirs, together.
    pub(crate) fn exchange(&self, key: usize, own: Portion) -> Portion {
        let mut portions = lock(&self.0);
        portions.insert(key, own);
        let others = portions.iter().filter(|&(&other, _)| other != key);
        others.fold(Portion::default(), |sum, (_, &portion)| sum.and(portion))
    }

    pub(crate) fn leave(&self, key: usize) {
        lock(&self.0).remove(&key);
    }
}

pub(crate) struct Holdings {
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) board: Arc<Board>,
    /// Lives as long as the guards that use it.
    pub(crate) brake: &'static Brake,
}

impl Holdings {
    fn new(sampler: Arc<Sampler>) -> Arc<Self> {
        Arc::new(Self {
            sampler,
            limiter: Arc::<Limiter>::default(),
            board: Arc::default(),
            brake: Box::leak(Box::default()),
        })
    }
}

/// By whose memory it is: of a group one gave, or this process's.
static HOLDINGS: LazyLock<Mutex<HashMap<Option<PathBuf>, Arc<Holdings>>>> =
    LazyLock::new(Mutex::default);

/// What is there for `config`; all new for a source of the user's.
pub(crate) fn join(config: &Config, source: Option<Box<dyn MemorySource>>) -> Shared {
    match source {
        Some(source) => Shared {
            holdings: Holdings::new(Sampler::of(source)),
            source: 0,
        },
        None => {
            let of_the_system = || Holdings::new(Sampler::of_the_system());
            let holdings = {
                let group = memory::foreign_group(config.source, config.cgroup_path.as_deref());
                let mut all = lock(&HOLDINGS);
                // Those of a process that was forked in the midst of a sample are of no use.
                all.retain(|_, holdings| !holdings.sampler.is_lost());
                Arc::clone(all.entry(group).or_insert_with(of_the_system))
            };
            let name = (config.source, config.cgroup_path.clone());
            let source = holdings.sampler.watch(name, || {
                let has_limit = config.memory_limit_bytes.is_some();
                memory::open(config.source, config.cgroup_path.as_deref(), has_limit)
            });
            Shared { holdings, source }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
