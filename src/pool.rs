//! What the guards of one process share.
//!
//! Guards that watch the same source have one sampler, and guards that hold
//! back the same process have one ledger, so that no two of them promise the
//! same memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::config::{Config, Source};
use crate::limiter::Limiter;
use crate::sampler::{self, MemorySource, Sampler};

/// A sampler and a ledger.
pub(crate) type Shared = (Arc<Sampler>, Arc<Limiter>);

type Registry<K, T> = LazyLock<Mutex<HashMap<K, Arc<T>>>>;

/// By what is sampled.
static SAMPLERS: Registry<(Source, Option<PathBuf>), Sampler> = LazyLock::new(Mutex::default);
/// By whose memory it is: a directory one gave, or this process's.
static LIMITERS: Registry<Option<PathBuf>, Limiter> = LazyLock::new(Mutex::default);

/// The sampler and the ledger for `config`; ones of its own for a source of the user's.
pub(crate) fn join(config: &Config, source: Option<Box<dyn MemorySource>>) -> Shared {
    if let Some(source) = source {
        return (Sampler::new(source), Arc::new(Limiter::new()));
    }
    let path = config.cgroup_path.clone();
    let sampler = shared(&SAMPLERS, (config.source, path.clone()), || {
        Sampler::new(sampler::open(config))
    });
    let limiter = shared(&LIMITERS, path, || Arc::new(Limiter::new()));
    (sampler, limiter)
}

fn shared<K: Eq + Hash, T>(
    registry: &Registry<K, T>,
    key: K,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(registry.entry(key).or_insert_with(make))
}
