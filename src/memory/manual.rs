//! A source that is told what to say.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Detail, MemoryLevel, MemorySource, Sample};

/// A [`MemorySource`] for tests: memory is what you say it is.
///
/// Clones share their state: give one to the guard and keep one. Nothing is
/// sampled in the background; after a change call
/// [`Guard::sample_now`](crate::Guard::sample_now). Together with tokio's
/// paused time that makes a service under pressure deterministic.
///
/// The guard samples by itself where something has happened: an admission near the limit,
/// an end while somebody waits or is paused, a pause that begins. What happens because time
/// has passed happens with the next sample, so call `sample_now` after that as well: a
/// request goes before all others once it has been paused for
/// [`max_pause`](crate::MemoryGuardBuilder::max_pause), one goes on if nobody has for
/// 50 ms, a grant that nobody takes passes on, a peer is found not to read.
///
/// ```
/// use tower_memory_guard::{ManualSource, MemoryGuardLayer, Pressure};
///
/// let memory = ManualSource::new(1 << 30);
/// let layer = MemoryGuardLayer::builder().memory_source(memory.clone()).build()?;
///
/// memory.set_usage_bytes(1010 << 20);
/// layer.guard().sample_now();
/// assert_eq!(layer.guard().pressure(), Pressure::Critical);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualSource {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    level: MemoryLevel,
    failing: bool,
}

impl ManualSource {
    /// Nothing in use, and this limit.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                level: MemoryLevel::new(0, Some(limit_bytes)),
                failing: false,
            })),
        }
    }

    /// What the next sample finds in use.
    pub fn set_usage_bytes(&self, bytes: u64) {
        self.change(|state| state.level.usage_bytes = bytes);
    }

    /// What the next sample finds as the limit.
    pub fn set_limit_bytes(&self, bytes: u64) {
        self.change(|state| state.level.limit_bytes = Some(bytes));
    }

    /// Whether the next samples fail.
    pub fn set_failing(&self, failing: bool) {
        self.change(|state| state.failing = failing);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemorySource for ManualSource {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> io::Result<()> {
        self.change(|state| {
            if state.failing {
                return Err(io::Error::other("the manual source was told to fail"));
            }
            sample.push(state.level);
            Ok(())
        })
    }

    fn name(&self) -> String {
        "manual".into()
    }

    fn in_background(&self) -> bool {
        false
    }
}
