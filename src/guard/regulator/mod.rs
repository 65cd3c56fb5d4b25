//! What samples drive: they come in through [`Subscriber`](crate::memory::Subscriber),
//! forecast and policy turn them into bounds ([`decide`]), and what requests are to go by is
//! published to the [`state`](super::state) that they touch. All of that happens off the
//! request path, or on the path of a request that is near the limit anyway.

mod braking;
mod cancel;
mod critical_times;
mod decide;
mod demand;
mod gone;
mod keeping;
mod latched;
mod learn;
mod levels;
mod pace;
mod patience;
#[cfg(feature = "metrics")]
mod publish;
mod relieve;
mod reload;
mod report;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::sync::watch;

use braking::Braking;
use cancel::Cancellations;
use critical_times::Critical;
use demand::Demand;
use latched::Latched;
use patience::Patience;

use super::keeper::{self, Keeper};
use super::pool::{Board, Shared};
use super::state::{REPORT_INTERVAL, State, Summary};
use crate::config::{self, Config};
use crate::error::Reason;
use crate::forecast::Forecast;
use crate::memory::release::Release;
use crate::memory::{Detail, MemoryLevel, MemorySource};
use crate::policy::{Decision, Strategy, end_bytes};
use crate::pressure::Pressure;
use crate::telemetry::logs::{self, say};
use crate::telemetry::recent::EventKind;

/// A guard: the half that samples drive, with the other one in it. [`renew`](Self::renew)
/// makes it another's.
#[repr(C)]
pub(crate) struct Regulator {
    /// First: handles then refer to it, too.
    pub(super) state: State,
    board: Arc<Board>,
    /// Its place among those that the sampler reads.
    source: usize,
    is_sampled: AtomicBool,
    /// It takes no part any more in what guards share.
    left: AtomicBool,
    /// KiB that had ever been given back when the last sample was begun.
    ended_kib: AtomicU64,
    /// What polls had added by then.
    grown_before: AtomicI64,
    /// What of that was let grow, and what such polls under way might add.
    let_grow_before: [AtomicI64; 2],
    /// The last full sample found nothing to do, nor anything done.
    was_idle: AtomicBool,
    /// What was published last is all that will ever come, but for who is turned away: of these
    /// one more than were known by then; 0: it is not.
    told_end: AtomicU64,
    pub(super) release: Release,
    /// Few have one.
    keeper: Option<Box<Keeper>>,
    /// Held while settings are changed.
    reloading: Mutex<()>,
    /// Held while samples are taken; whoever answers requests looks at what is shown.
    control: Mutex<Control>,
    pub(super) levels: watch::Sender<Pressure>,
    pub(super) limits: watch::Sender<Option<u64>>,
}

/// Once so many full samples in a row could not be read, what was seen last says nothing.
const BLIND_AFTER: u8 = 3;

#[derive(Default)]
struct Control {
    strategy: Strategy,
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
    /// Nor is anybody let in while somebody is paused, but that is no reason to be unready.
    pauses: bool,
    latched: Latched,
    critical: Critical,
    request_bytes: u64,
    /// What the next in line asks for (the average if nobody waits) and may not have.
    next_bytes: u64,
    /// Mean time between two completions, in nanoseconds; 0: not known.
    drain_ns: u64,
    /// When tenants' rejections count less again.
    forgives_at: Duration,
    /// To be granted after the next full sample.
    probes: u32,
    /// As of the last full sample: it takes a look at many cache lines.
    completed: u64,
    /// Memory cannot be read.
    blind: bool,
    /// So many full samples in a row could not, since one could.
    unread: u8,
    /// Full samples, and those of them that failed.
    samples: u64,
    sensor_errors: u64,
    said_no_limit: bool,
    limit_drifts: bool,
    said_level: SaidLevel,
    last: Last,
    notices: Vec<Notice>,
}

impl Control {
    /// Nothing is known yet.
    fn new(config: &Config, accounted: bool) -> Self {
        let strategy = Strategy::new(config, accounted);
        let mut forecast = Forecast::new(
            config.estimated_bytes_per_request,
            config.exceedance_target,
            accounted,
        );
        forecast.brakes = config.enabled && config.max_pause > Duration::ZERO;
        forecast.pausing.target = config.pausing_target;
        Self {
            decision: Decision::blind(&strategy),
            strategy,
            forecast,
            request_bytes: config.estimated_bytes_per_request,
            next_bytes: config.estimated_bytes_per_request,
            ..Self::default()
        }
    }

    /// What this process uses of what is in use, as far as that is known.
    fn process_usage_bytes(&self) -> u64 {
        match self.process_bytes {
            0 => self.own_bytes,
            known => known.min(self.own_bytes),
        }
    }

    /// Of the level whose limit is shown: of the others it would be no part.
    fn shown_usage_bytes(&self) -> u64 {
        let end = |level: &&MemoryLevel| end_bytes(level).unwrap_or(u64::MAX);
        let shown = self.levels.iter().min_by_key(end);
        shown.map_or(0, |level| level.usage_bytes)
    }

    /// Nothing is known of memory.
    fn is_blind(&self) -> bool {
        self.blind && self.unread >= BLIND_AFTER
    }

    /// Says what it knows of memory, and of what may be admitted.
    fn show(&self, reserved_kib: u64, summary: &mut Summary) {
        let (decision, forecast) = (&self.decision, &self.forecast);
        *summary = Summary {
            concurrency: decision.concurrency,
            base_concurrency: decision.base_concurrency,
            usage_bytes: self.shown_usage_bytes(),
            process_bytes: self.process_bytes,
            request_bytes: self.request_bytes,
            blind: self.blind,
            kept_out: self.kept_out || self.pauses,
            outstanding_bytes: forecast.outstanding_bytes(reserved_kib * 1024),
            error_ratio: forecast.error_ratio(),
            margin_deviations: forecast.margin_deviations(),
            checked: forecast.checked(),
            ..*summary
        };
    }
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

/// What was said of the level last. Around a threshold it may change with each sample: that is
/// said at most once a second.
#[derive(Debug, Default)]
struct SaidLevel {
    /// As it was said last, if it has changed since.
    from: Option<LevelWas>,
    changes: u32,
    /// One more than the milliseconds, as far as they fit; 0: never.
    at_ms: u32,
}

/// A level, and the concurrency that it left.
#[derive(Clone, Copy, Debug)]
struct LevelWas {
    pressure: Pressure,
    concurrency: u32,
}

impl SaidLevel {
    fn changes(&mut self, from: LevelWas) {
        self.from.get_or_insert(from);
        self.changes += 1;
    }

    /// To be said now: from where, and how many changes before were not said.
    fn due(&mut self, pressure: Pressure, now: Duration) -> Option<(LevelWas, u32)> {
        let now_ms = (now.as_millis() as u32).wrapping_add(1).max(1);
        let ago_ms = u128::from(now_ms.wrapping_sub(self.at_ms));
        if self.at_ms > 0 && ago_ms < REPORT_INTERVAL.as_millis() {
            return None;
        }
        let from = self.from.take()?;
        if from.pressure == pressure {
            return None;
        }
        self.at_ms = now_ms;
        Some((from, std::mem::take(&mut self.changes) - 1))
    }
}

/// What is to be said once no lock is held.
enum Notice {
    Level,
    Adjusted { from: LevelWas, suppressed: u32 },
    SensorFailed(io::Error),
    SensorRecovered,
    LimitChanged { from: u64, to: u64 },
    NoLimit,
}

impl Regulator {
    pub(crate) fn start(config: Config, source: Option<Box<dyn MemorySource>>) -> &'static Self {
        gone::look();
        let opened = config.state.as_deref().map(keeper::open);
        let mut opened = opened.unwrap_or_default();
        let regulator = match Self::again(&config, source) {
            Ok(gone) => gone,
            Err(shared) => Box::leak(Box::new(Self::new(shared, &config, opened.keeper))),
        };
        regulator.renew(config);
        let state = &regulator.state;
        // The caller's: without any it would be gone again.
        state.handles.made();
        let config = state.config();
        let problem = regulator.begin_to_keep(opened.learned);
        opened.warnings.extend(problem);
        regulator.begin(&config);
        regulator.is_known();
        regulator.log_settings("memory guard initialised");
        logs::warnings(&opened.warnings);
        regulator
    }

    /// Of no guard yet.
    fn new(shared: Shared, config: &Config, keeper: Option<Box<Keeper>>) -> Self {
        let state = State::new(config, &shared);
        Self {
            board: Arc::clone(&shared.holdings.board),
            source: shared.source,
            is_sampled: AtomicBool::new(false),
            left: AtomicBool::new(false),
            ended_kib: AtomicU64::new(0),
            grown_before: AtomicI64::new(0),
            let_grow_before: [const { AtomicI64::new(0) }; 2],
            was_idle: AtomicBool::new(true),
            told_end: AtomicU64::new(0),
            release: Release::default(),
            keeper,
            reloading: Mutex::new(()),
            control: Mutex::new(Control::new(config, state.is_accounted())),
            levels: watch::Sender::new(Pressure::Normal),
            limits: watch::Sender::new(None),
            state,
        }
    }

    /// A guard begins, here or in the place of one that is gone.
    fn renew(&self, config: Config) {
        let control = Control::new(&config, self.state.is_accounted());
        self.state.renew(config);
        self.state.shown.change(|shown| control.show(0, shown));
        *self.control() = control;
        self.levels.send_replace(Pressure::Normal);
        self.limits.send_replace(None);
        let grown = self.let_grow_before.iter().chain([&self.grown_before]);
        grown.for_each(|bytes| bytes.store(0, Ordering::Relaxed));
        for none in [&self.ended_kib, &self.told_end] {
            none.store(0, Ordering::Relaxed);
        }
        self.was_idle.store(true, Ordering::Relaxed);
        for no in [&self.is_sampled, &self.left] {
            no.store(false, Ordering::Release);
        }
    }

    /// As it was said last while a sample is taken.
    pub(crate) fn source_name(&self) -> String {
        self.state.sampler.source_name(self.source, false)
    }

    fn log_settings(&self, what: &str) {
        let source = self.state.sampler.source_name(self.source, true);
        let stats = self.state.stats();
        let problem = self.keeper.as_ref().and_then(|keeper| keeper.problem());
        config::log_settings(what, &self.state.config(), &source, &stats, problem);
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

    pub(crate) fn close(&'static self) {
        let state = &self.state;
        if !state.close() {
            return;
        }
        // The gate first, so that nobody joins the queue after it was emptied.
        state.shut();
        state.limiter.pump();
        state.limiter.refuse_all(&state.bounds, Reason::Closed);
        state.note(EventKind::Closed, "takes no new work".into(), 0);
        say!(info, name = state.name.as_deref(), "memory guard closed");
        // Who is paused goes on in order, but nobody stays so for ever: see where nobody gets on.
        if !state.sampler.has_thread() {
            self.let_all_go(state.sampler.now());
        }
        // The thread need not sample for it any more.
        state.sampler.unpark();
        self.keep_last();
    }

    /// Nobody stays paused.
    fn let_all_go(&'static self, now: Duration) {
        self.state.let_all_go();
        let (brake, own) = (self.state.brake, self.state.board_key());
        brake.set_on(own, None);
        brake.sweep(i64::MAX, Some(own), false, now);
        // Nobody looks at them any more: they are no part of others' plans.
        brake.tell(own, Vec::new());
    }
}
