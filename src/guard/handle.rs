//! [`Guard`]: the handle to what stands behind a layer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::admission::{Admission, no_deadline};
use super::cost::Cost;
use super::permit::Permit;
use super::regulator::Regulator;
use super::state::State;
use crate::class::Class;
use crate::class::tag::Tag;
use crate::classify::labels::Demand;
use crate::config::{Config, Policy, Settings};
use crate::error::{ConfigError, Reason, Rejected};
use crate::forecast::Estimates;
use crate::memory::MemorySource;
use crate::memory::release::PressureContext;
use crate::pressure::Pressure;
use crate::telemetry::logs;
#[cfg(feature = "json")]
use crate::telemetry::outcome::refused_result;
use crate::telemetry::stats::Stats;
use std::time::Duration;

/// So long nobody is admitted before a process is not ready.
pub(crate) const LATCHED_AFTER: Duration = Duration::from_secs(30);

/// The guard that the environment describes: one for the whole process.
static FROM_ENV: Mutex<Option<(Config, Guard)>> = Mutex::new(None);

/// A handle to a guard: its state, and admission for work that is no request.
///
/// Cheap to clone; all clones speak of the same guard as the layer that
/// they came from.
///
/// A guard lives as long as anybody has a handle to it: a layer, a service, a permit, a
/// receiver, or a hook that keeps one. One that is gone takes no more samples, and its few
/// KiB are used again by the next one of the same kind of source, the same
/// [name](Config::name) and the same [tiers](Config::tiers). So a process has memory for as
/// many as lived at once; those that keep a [state](Config::state) are not used again.
/// What it told a metrics recorder stays there as it was last; counters go on from there with
/// the next guard of its name.
/// Make one at start-up, not one for each request. The last one of
/// [`from_env`](crate::MemoryGuardLayer::from_env) stays.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_memory_guard::{Cost, MemoryGuardLayer};
///
/// let layer = MemoryGuardLayer::builder().build()?;
/// let guard = layer.guard().clone();
///
/// // A queue consumer: the next job starts when its memory is free.
/// let permit = guard.acquire(Cost::Bytes(64 << 20)).await?;
/// assert_eq!(guard.stats().active_tasks, 1);
/// drop(permit);
/// # Ok(())
/// # }
/// ```
pub struct Guard {
    pub(super) regulator: &'static Regulator,
}

impl Guard {
    pub(crate) fn start(config: Config, source: Option<Box<dyn MemorySource>>) -> Self {
        Self {
            regulator: Regulator::start(config, source),
        }
    }

    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        let mut existing = FROM_ENV.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, warnings) = Settings::from_env().check()?;
        // As it was at the start: it may have been reloaded since.
        if let Some((_, guard)) = existing
            .as_ref()
            .filter(|(started, guard)| *started == config && !guard.state().is_closed())
        {
            return Ok(guard.clone());
        }
        // If nobody else has it, its place is free for this one.
        *existing = None;
        let guard = Self::start(config.clone(), None);
        *existing = Some((config, guard.clone()));
        drop(existing);
        logs::warnings(&warnings);
        Ok(guard)
    }

    #[inline]
    pub(crate) fn state(&self) -> &'static State {
        &self.regulator.state
    }

    /// Starts from what another process has learned, unless a file said more.
    pub(crate) fn learn_from(&self, estimates: &Estimates) {
        self.regulator.learn_from(estimates);
    }

    #[cfg(feature = "dashboard")]
    pub(crate) fn class_needs(&self) -> Option<Vec<(String, bool, u64, u64)>> {
        self.regulator.class_needs()
    }

    /// What the guard is doing now.
    pub fn stats(&self) -> Stats {
        self.state().stats()
    }

    /// The pressure level at the last sample.
    pub fn pressure(&self) -> Pressure {
        self.state().pressure()
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<Config> {
        self.state().config()
    }

    /// Puts other settings into force, while requests run and wait.
    ///
    /// Nobody in flight is touched, and waiters keep their places and their deadlines.
    /// What was learned of requests stays; the [policy](Config::decided_policy) begins
    /// anew, with a sample that is taken at once, and [`Auto`](crate::Policy::Auto) is
    /// decided anew. In [observe mode](Config::mode), or if the guard is no longer
    /// [enabled](Config::enabled), all waiters are let in.
    ///
    /// Blocks for as long as a sample takes: some tens of microseconds.
    ///
    /// # Errors
    ///
    /// Lists every setting that cannot be used, and nothing changes. `source`,
    /// `cgroup_path`, `state`, `name` and `tiers` stay as they were at the start.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory_guard::MemoryGuardLayer;
    ///
    /// let guard = MemoryGuardLayer::builder().build()?.guard().clone();
    /// // Say, on SIGHUP, from a file of your own.
    /// let mut config = (*guard.config()).clone();
    /// config.wait_timeout = Duration::from_secs(3);
    /// guard.reload(config)?;
    /// assert_eq!(guard.config().wait_timeout, Duration::from_secs(3));
    /// # Ok::<(), tower_memory_guard::ConfigError>(())
    /// ```
    pub fn reload(&self, config: Config) -> Result<(), ConfigError> {
        self.regulator.reload(config)
    }

    /// What memory is measured by, such as `cgroup v2 at /sys/fs/cgroup`: for people and
    /// logs. The words may change with any version, and those of one's own
    /// [`MemorySource`] are its [`name`](MemorySource::name); do not parse them.
    pub fn source(&self) -> String {
        self.regulator.source_name()
    }

    /// The policy that decides: [`Policy::Ladder`] or [`Policy::Predictive`].
    pub fn policy(&self) -> Policy {
        self.config().decided_policy()
    }

    /// What [`readiness`](Self::readiness) answers after its 30 s, for other protocols.
    pub fn is_ready(&self) -> bool {
        self.state().unready(LATCHED_AFTER).is_none()
    }

    /// A receiver that always has the newest pressure level, and is told when it
    /// changes; changes in between may be missed.
    pub fn subscribe(&self) -> watch::Receiver<Pressure> {
        self.regulator.levels.subscribe()
    }

    /// A receiver that always has the tightest limit in bytes (`memory.high` where nothing
    /// is killed; `None`: no limit is known), and is told when it changes: a container that is resized while it runs.
    /// The guard itself follows such changes, and logs them.
    pub fn subscribe_limit(&self) -> watch::Receiver<Option<u64>> {
        self.regulator.limits.subscribe()
    }

    /// Has `hook` called when memory pressure is at `level` or above: for caches
    /// that can be made smaller.
    ///
    /// Called by a thread of the guard's, never on a request's path, for as long as
    /// the pressure lasts: again after a second if it freed memory, less and less
    /// often (up to 30 s) if it did not. It may take long: other hooks, also those of
    /// other guards, wait meanwhile, and nothing else does. A panic in it is caught. Hooks
    /// cannot be taken back.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use tower_memory_guard::{MemoryGuardLayer, Pressure};
    ///
    /// let cache = Arc::new(Mutex::new(vec![0_u8; 1 << 20]));
    /// let layer = MemoryGuardLayer::builder().build()?;
    /// layer.guard().on_pressure(Pressure::Warning, move |context| {
    ///     println!("{} bytes are wanted", context.wanted_bytes());
    ///     cache.lock().unwrap().clear();
    /// });
    /// # Ok::<(), tower_memory_guard::ConfigError>(())
    /// ```
    pub fn on_pressure(
        &self,
        level: Pressure,
        hook: impl Fn(&PressureContext) + Send + Sync + 'static,
    ) {
        self.regulator.release.add_hook(level, Arc::new(hook));
    }

    /// What has been learned of requests so far, for the next process.
    pub fn estimates(&self) -> Estimates {
        self.regulator.estimates()
    }

    /// Takes a full sample now and acts on it.
    ///
    /// Blocks for as long as the source takes to read: tens of microseconds for
    /// the built-in ones. Not needed in production, where a thread samples;
    /// with a [`ManualSource`](crate::ManualSource) it makes tests deterministic.
    pub fn sample_now(&self) {
        self.state().sampler.check_process();
        self.state().sampler.sample_now();
    }

    /// Waits until memory for `cost` is free.
    ///
    /// # Errors
    ///
    /// [`Rejected`], as a request would be: at critical pressure, after the
    /// deadline, with a full queue, when closed, or if `cost` is above the limit.
    ///
    /// # Panics
    ///
    /// If it has to wait outside a tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a permit that was already granted
    /// goes to the next in line.
    pub async fn acquire(&self, cost: impl Into<Cost>) -> Result<Permit, Rejected> {
        let cost = cost.into();
        let permit = self.admit(cost.into()).await?;
        Ok(permit.start_work(cost))
    }

    async fn admit(&self, demand: Demand) -> Result<Permit, Rejected> {
        let tag = demand.tag();
        match self.state().admit(demand, &no_deadline) {
            Admission::Admitted(permit) => Ok(permit),
            Admission::Waiting(waiting) => waiting.await,
            Admission::Rejected(refusal) => Err(self.state().tell(refusal, tag)),
        }
    }

    /// Waits until memory for work of this class is free, in its class's turn: for work
    /// that is no request, such as a job of a tenant's.
    ///
    /// Errors, panics and cancel safety are those of [`acquire`](Self::acquire).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_memory_guard::{Class, MemoryGuardLayer, Priority};
    ///
    /// let guard = MemoryGuardLayer::builder().build()?.guard().clone();
    /// let nightly = Class::new("report").priority(Priority::Low).tenant("acme");
    /// let permit = guard.acquire_for(&nightly).await?;
    /// # drop(permit);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acquire_for(&self, class: &Class) -> Result<Permit, Rejected> {
        let demand = self.state().labels.demand(class);
        let mut permit = self.admit(demand).await?;
        permit.start();
        Ok(permit)
    }

    /// A permit for `cost` if its memory is free now and nobody waits.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; where it would have to wait, with [`Reason::NoRoom`].
    pub fn try_acquire(&self, cost: impl Into<Cost>) -> Result<Permit, Rejected> {
        let cost = cost.into();
        let admitted = self.state().admit_now(cost.into());
        admitted.map(|permit| permit.start_work(cost))
    }

    /// Takes no new work: waiters and newcomers are rejected with
    /// [`Reason::Closed`], what is active finishes. Requests are paused as before while
    /// there is no room for all, but for no longer than a second in which nobody gets on
    /// and none can. For a graceful shutdown; it cannot be opened again. Waits until what was
    /// learned is in the [`state`](crate::MemoryGuardBuilder::state) file, a second at most.
    pub fn close(&self) {
        self.regulator.close();
    }

    /// A rejection because the result of a request that this guard has admitted is too large,
    /// counted and logged like every other.
    ///
    /// The request counts as rejected. Its response counts as an answer, too, unless it is
    /// that of `LimitedJson` or `ResultLimitLayer`; `total_requests` has it once. Whoever
    /// calls this has decided: it rejects in observe mode and where the guard is off, too.
    pub fn reject_result(&self) -> Rejected {
        self.state().counters.outcomes.turned_away_late();
        self.state().reject(Reason::ResultTooLarge, Tag::NONE)
    }

    #[inline]
    pub(crate) fn only_observes(&self) -> bool {
        self.state().live.only_observes()
    }

    /// What is answered in the place of a result that is too large. `None`: the guard only
    /// observes.
    #[cfg(feature = "json")]
    pub(crate) fn refuse_result<B>(
        &self,
        answer: impl FnOnce(&Rejected) -> http::Response<B>,
    ) -> Option<http::Response<B>> {
        let state = self.state();
        if self.only_observes() {
            state.observe("reject: result_too_large");
            return None;
        }
        // Else it is of no request that was admitted, and counts by itself.
        let is_admitted = super::poller::is_polling();
        if is_admitted {
            state.counters.outcomes.turned_away_late();
        }
        let response = answer(&state.reject(Reason::ResultTooLarge, Tag::NONE));
        Some(match is_admitted {
            true => refused_result(response, state.board_key()),
            false => response,
        })
    }

    /// A rejection as a caller would get it at this moment, for tests of what is done with
    /// one: nobody is turned away, and nothing is counted or logged. See [`Rejected`] for an
    /// example.
    #[cfg(feature = "test-util")]
    pub fn rejection(&self, reason: Reason) -> Rejected {
        self.state().rejection(reason)
    }
}

impl Clone for Guard {
    #[inline]
    fn clone(&self) -> Self {
        self.state().handles.made();
        Self {
            regulator: self.regulator,
        }
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        self.state().handles.dropped();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("pressure", &self.pressure())
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}
