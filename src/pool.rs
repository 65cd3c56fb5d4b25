//! What the guards of a process share.
//!
//! Guards that watch the same source have one sampler, and guards that hold
//! back the same process have one ledger, so that no two of them promise the
//! same memory, and one board on which each says what it knows of its requests.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, Source};
use crate::estimate::Portion;
use crate::limiter::Limiter;
use crate::running::brake::Brake;
use crate::sampler::{self, MemorySource, Sampler};

/// What a guard finds when it joins.
pub(crate) struct Shared {
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) board: Arc<Board>,
    pub(crate) brake: &'static Brake,
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

    /// A guard is gone.
    pub(crate) fn leave(&self, key: usize) {
        lock(&self.0).remove(&key);
    }
}

/// A ledger, and its board.
struct Holdings {
    limiter: Arc<Limiter>,
    board: Arc<Board>,
    /// Lives as long as the guards that use it.
    brake: &'static Brake,
}

impl Holdings {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            limiter: Arc::new(Limiter::new()),
            board: Arc::default(),
            brake: Box::leak(Box::default()),
        })
    }
}

type Registry<K, T> = LazyLock<Mutex<HashMap<K, Arc<T>>>>;

/// By what is sampled.
static SAMPLERS: Registry<(Source, Option<PathBuf>), Sampler> = LazyLock::new(Mutex::default);
/// By whose memory it is: a directory one gave, or this process's.
static HOLDINGS: Registry<Option<PathBuf>, Holdings> = LazyLock::new(Mutex::default);

/// What is there for `config`; all new for a source of the user's.
pub(crate) fn join(config: &Config, source: Option<Box<dyn MemorySource>>) -> Shared {
    let (sampler, holdings) = match source {
        Some(source) => (Sampler::new(source), Holdings::new()),
        None => {
            let path = config.cgroup_path.clone();
            let sampler = shared(&SAMPLERS, (config.source, path.clone()), || {
                Sampler::new(sampler::open(config))
            });
            (sampler, shared(&HOLDINGS, path, Holdings::new))
        }
    };
    Shared {
        sampler,
        limiter: Arc::clone(&holdings.limiter),
        board: Arc::clone(&holdings.board),
        brake: holdings.brake,
    }
}

fn shared<K: Eq + Hash, T>(
    registry: &Registry<K, T>,
    key: K,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    Arc::clone(lock(registry).entry(key).or_insert_with(make))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
