//! One guard's state, and what happens to it at every sample.
//!
//! Samples come in through [`Subscriber`](crate::memory::Subscriber); estimate
//! and policy turn them into bounds ([`decide`]), and the limiter applies the
//! bounds. All of that happens off the request path, or on the path of a request
//! that is near the limit anyway. What the guard says of itself is in [`report`].

mod after;
mod beginning;
mod braking;
mod cancel;
mod critical_times;
mod decide;
mod demand;
mod forked;
mod gone;
mod latched;
mod learn;
mod levels;
mod live;
mod loads;
mod pace;
mod patience;
#[cfg(feature = "metrics")]
mod publish;
mod relieve;
mod report;
mod seldom;
mod shown;
mod state;
mod view;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::sync::watch;

use beginning::strategy;
use braking::Braking;
use cancel::Cancellations;
use critical_times::Critical;
use demand::Demand;
use gone::Handles;
use latched::Latched;
pub(crate) use live::Live;
use loads::LastLoads;
pub(crate) use loads::Loads;
pub(crate) use pace::WAITING_INTERVAL;
use patience::Patience;
use seldom::Seldom;
use shown::Shown;

use super::keeper::Keeper;
use super::pool::{Board, Shared};
use super::ready::Ready;
use super::stalls::Deliveries;
use crate::classify::labels::Labels;
use crate::classify::tenants::Tenants;
use crate::config::{self, Config};
use crate::error::Reason;
use crate::forecast::Forecast;
use crate::limiter::{Bounds, Caps, Limiter};
use crate::memory::release::Release;
use crate::memory::{Detail, MemoryLevel, MemorySource, Sampler};
use crate::policy::{Decision, Strategy};
use crate::pressure::Pressure;
use crate::running::Running;
use crate::running::brake::Brake;
use crate::telemetry::logs;
use crate::telemetry::recent::{EventKind, RecentEvents};
use crate::telemetry::stats::Counters;
use crate::units::{MAX_KIB, kib};

/// One guard's state. [`renew`](Self::renew) makes it another's.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) labels: Labels,
    /// A bit for each priority that requests have had.
    pub(crate) priorities: AtomicU8,
    board: Arc<Board>,
    pub(crate) brake: &'static Brake,
    /// What polls had added when the last sample was begun.
    grown_before: AtomicI64,
    /// What of that was let grow, and what such polls under way might add.
    let_grow_before: [AtomicI64; 2],
    pub(crate) sampler: Arc<Sampler>,
    /// Its place among those that the sampler reads.
    source: usize,
    pub(crate) handles: Handles,
    pub(crate) live: Live,
    pub(crate) name: Option<String>,
    pub(crate) counters: Counters,
    closed: AtomicBool,
    /// It takes no part any more in what guards share.
    left: AtomicBool,
    /// The process was forked, and memory cannot be seen in this one.
    is_lost: AtomicBool,
    pub(crate) deliveries: Deliveries,
    pub(crate) running: Running,
    pub(crate) ready: Ready,
    pub(crate) release: Release,
    /// What each request allocates is known.
    accounted: bool,
    limit_bytes: AtomicU64,
    kill_bytes: AtomicU64,
    pressure: AtomicU8,
    percent_bits: AtomicU64,
    /// The last full sample found nothing to do, nor anything done.
    was_idle: AtomicBool,
    /// Mean time between two completions, in nanoseconds; 0: not known.
    drain_ns: AtomicU64,
    /// What one more waiter may expect to wait; `u64::MAX`: not known.
    backlog_ms: AtomicU64,
    /// KiB that had ever been given back when the last sample was begun.
    ended_kib: AtomicU64,
    /// How much longer CRITICAL may last, or would.
    critical_ms: AtomicU64,
    latched_since_ms: AtomicU64,
    last_loads: LastLoads,
    forgives_at_ms: AtomicU64,
    rejection_lines: Seldom,
    pause_lines: Seldom,
    pub(crate) recent: RecentEvents,
    /// Keeps what is learned, if it is to be kept.
    keeper: Option<Keeper>,
    /// Held while samples are taken; whoever answers requests looks at what is shown.
    control: Mutex<Control>,
    shown: Mutex<Shown>,
    pub(crate) levels: watch::Sender<Pressure>,
    /// Where memory ends, in bytes.
    pub(crate) limits: watch::Sender<Option<u64>>,
}

/// What the samples act on.
struct Control {
    strategy: Box<dyn Strategy>,
    forecast: Forecast,
    levels: Vec<MemoryLevel>,
    decision: Decision,
    /// That listeners are to be told.
    new_limit: Option<Option<u64>>,
    process_bytes: u64,
    /// Bytes that requests may have caused: the group's, or the process's where
    /// others share the group.
    own_bytes: u64,
    braking: Braking,
    cancellations: Cancellations,
    patience: Patience,
    demand: Demand,
    /// Memory leaves no room for the next in line.
    kept_out: bool,
    latched: Latched,
    critical: Critical,
    /// What a request reserves, on average.
    request_bytes: u64,
    /// What the next in line asks for; the average if nobody waits.
    next_bytes: u64,
    /// To be granted after the next full sample.
    probes: u32,
    /// As of the last full sample: it takes a look at many cache lines.
    completed: u64,
    blind: bool,
    /// Full samples, and those of them that failed.
    samples: u64,
    sensor_errors: u64,
    said_no_limit: bool,
    last: Last,
    notices: Vec<Notice>,
}

/// The last sample, for rates.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at: Duration,
    usage_bytes: u64,
    /// When memory could be read last.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    good_at: Duration,
    /// When completions were counted last, and how many there were.
    counted_at: Duration,
    completed: u64,
    published: Option<Duration>,
}

/// What is to be said once no lock is held.
enum Notice {
    Adjusted { from: Decision },
    SensorFailed(io::Error),
    SensorRecovered,
    LimitChanged { from: u64, to: u64 },
    NoLimit,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("decision", &self.decision)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "account")]
fn accounting_is_installed() -> bool {
    crate::running::charge::is_counted()
}

#[cfg(not(feature = "account"))]
fn accounting_is_installed() -> bool {
    false
}

impl Controller {
    pub(crate) fn start(config: Config, source: Option<Box<dyn MemorySource>>) -> &'static Self {
        gone::look();
        let accounted = accounting_is_installed();
        let (keeper, learned, mut warnings) = state::found(config.state.as_deref());
        let control = Control::new(&config, accounted);
        let controller = match Self::again(&config, source) {
            Ok(gone) => {
                gone.renew(config, control);
                gone
            }
            Err(shared) => Box::leak(Box::new(Self::new(
                shared, config, control, keeper, accounted,
            ))),
        };
        // The caller's: without any it would be gone again.
        controller.handles.made();
        let config = controller.config();
        let first_kib = kib(config.estimated_bytes_per_request);
        controller.bounds.set_unknown(first_kib, 0);
        warnings.extend(controller.begin_to_keep(learned));
        controller.begin(&config);
        controller.is_known();
        controller.log_settings("memory guard initialised");
        logs::warnings(&warnings);
        controller
    }

    fn new(
        shared: Shared,
        config: Config,
        control: Control,
        keeper: Option<Keeper>,
        accounted: bool,
    ) -> Self {
        let Shared {
            sampler,
            source,
            limiter,
            board,
            brake,
        } = shared;
        let tenants = Tenants::new(config.tiers.clone());
        Self {
            bounds: limiter.join(Arc::clone(tenants.accounts())),
            labels: Labels::new(tenants),
            priorities: AtomicU8::new(0),
            limiter,
            board,
            brake,
            grown_before: AtomicI64::new(0),
            let_grow_before: [const { AtomicI64::new(0) }; 2],
            sampler,
            source,
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            handles: Handles::default(),
            is_lost: AtomicBool::new(false),
            deliveries: Deliveries::default(),
            running: Running::new(),
            ready: Ready::default(),
            release: Release::new(),
            accounted,
            limit_bytes: AtomicU64::new(u64::MAX),
            kill_bytes: AtomicU64::new(u64::MAX),
            pressure: AtomicU8::new(0),
            percent_bits: AtomicU64::new(0),
            was_idle: AtomicBool::new(true),
            drain_ns: AtomicU64::new(0),
            backlog_ms: AtomicU64::new(u64::MAX),
            ended_kib: AtomicU64::new(0),
            critical_ms: AtomicU64::new(0),
            latched_since_ms: AtomicU64::new(latched::NOT),
            last_loads: LastLoads::default(),
            forgives_at_ms: AtomicU64::new(0),
            rejection_lines: Seldom::default(),
            pause_lines: Seldom::default(),
            recent: RecentEvents::default(),
            keeper,
            shown: Mutex::new(Shown::new(&control)),
            control: Mutex::new(control),
            levels: watch::Sender::new(Pressure::Normal),
            limits: watch::Sender::new(None),
            name: config.name.clone(),
            live: Live::new(config),
        }
    }

    fn log_settings(&self, what: &str) {
        let source = self.source_name();
        let stats = self.stats();
        let problem = self.keeper.as_ref().and_then(Keeper::problem);
        config::log_settings(what, &self.config(), &source, &stats, problem);
    }

    /// It is known which requests are in flight, one by one.
    #[inline]
    pub(crate) fn tracks(&self) -> bool {
        self.accounted || self.live.may_cancel()
    }

    /// What each request allocates is known.
    pub(crate) fn is_accounted(&self) -> bool {
        self.accounted
    }

    /// Its own among the guards of a process.
    pub(crate) fn board_key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: a request samples, and somebody has it who saves what was learned, say. Who
    /// samples next decides.
    fn control_for(&self, detail: Detail) -> Option<MutexGuard<'_, Control>> {
        match self.control.try_lock() {
            Ok(control) => Some(control),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if detail == Detail::Quick => None,
            Err(TryLockError::WouldBlock) => Some(self.control()),
        }
    }

    /// Every decision passes, whatever it is.
    pub(crate) fn only_observes(&self) -> bool {
        self.live.only_observes()
    }

    /// New work is rejected at the moment.
    #[inline]
    pub(crate) fn turns_away(&self) -> bool {
        self.bounds.caps().is_shut() && !self.only_observes()
    }

    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::from_index(self.pressure.load(Ordering::Relaxed))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why requests should go elsewhere, if they should.
    pub(crate) fn unready(&self, latched_after: Duration) -> Option<String> {
        if self.is_closed() {
            return Some("closing: no new work is taken".into());
        }
        self.look_for_fork();
        let latched = self.latched_for();
        (latched > latched_after && !self.only_observes()).then(|| {
            let seconds = latched.as_secs_f64();
            format!("latched: for {seconds:.0} s memory has had room for nobody")
        })
    }

    pub(crate) fn close(&'static self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // The gate first, so that nobody joins the queue after it was emptied.
        self.shut();
        self.limiter.pump();
        self.limiter.refuse_all(&self.bounds, Reason::Closed);
        self.note(EventKind::Closed, "takes no new work".into(), 0);
        logs::closed(self.name.as_deref());
        self.keep_last();
        // Nobody stays paused.
        self.brake.set_on(self.board_key(), false);
        self.sweep(self.sampler.now());
        // The thread need not sample for it any more.
        self.sampler.unpark();
    }

    fn shut(&self) {
        self.bounds.set_slice(0);
        // What is active may still grow into what is free.
        let allowance_kib = self.bounds.caps().kib();
        let caps = Caps::new(true, 0, allowance_kib);
        self.bounds.publish(caps, MAX_KIB, 0);
    }
}
