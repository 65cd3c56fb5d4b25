//! One guard's state, and what happens to it at every sample.
//!
//! Samples come in through [`Subscriber`]; estimate and policy turn them into
//! bounds; the limiter applies the bounds. All of that happens off the request
//! path, or on the path of a request that is near the limit anyway.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, Mode, OnSensorFailure, Source};
use crate::delivery::Deliveries;
use crate::error::{Reason, Rejected};
use crate::estimate::{Estimate, Evidence, UsageEstimate};
use crate::limiter::{Ask, Bounds, Limiter, MAX_KIB, Packed, kib};
use crate::logs;
use crate::policy::ladder::Ladder;
use crate::policy::{Decision, Observation, Policy, Pressure, limit_bytes, worst_fraction};
use crate::pool;
use crate::sampler::{Detail, MemoryLevel, MemorySource, Sample, Sampler, Subscriber};
use crate::stats::{Counters, Stats, mib};

/// Shortest time between samples.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
/// Longest time between samples while somebody waits, or memory cannot be read.
const WAITING_INTERVAL: Duration = Duration::from_millis(50);
const BLIND_INTERVAL: Duration = Duration::from_secs(1);
/// Memory is taken to grow at least this fast (bytes per second) while
/// requests run, and while none does.
const BUSY_RATE: f64 = (1u64 << 30) as f64;
const IDLE_RATE: f64 = (1u64 << 25) as f64;
/// Shortest time between two publications of metrics, and two log lines of one kind.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// One guard's state.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    closed: AtomicBool,
    pub(crate) deliveries: Deliveries,
    limit_bytes: AtomicU64,
    pressure: AtomicU8,
    percent_bits: AtomicU64,
    /// Mean time between two completions, in nanoseconds; 0: not known.
    drain_ns: AtomicU64,
    last_reject_log_ms: AtomicU64,
    unlogged_rejections: AtomicU64,
    control: Mutex<Control>,
    pub(crate) levels: watch::Sender<Pressure>,
}

/// What the samples act on.
struct Control {
    policy: Box<dyn Policy>,
    estimate: Box<dyn Estimate>,
    levels: Vec<MemoryLevel>,
    decision: Decision,
    process_bytes: u64,
    /// As of the last full sample: it takes a look at many cache lines.
    completed: u64,
    blind: bool,
    sensor_errors: u64,
    said_no_limit: bool,
    last: Last,
    events: Vec<Event>,
}

/// The last sample, for rates.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at: Duration,
    usage_bytes: u64,
    /// When completions were counted last, and how many there were.
    counted_at: Duration,
    completed: u64,
    published: Option<Duration>,
}

/// What is to be said once no lock is held.
enum Event {
    Adjusted { from: Decision },
    SensorFailed(io::Error),
    SensorRecovered,
    LimitChanged { from: u64, to: u64 },
    NoLimit,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("policy", &self.policy.name())
            .field("decision", &self.decision)
            .finish_non_exhaustive()
    }
}

impl Controller {
    pub(crate) fn start(config: Config, source: Option<Box<dyn MemorySource>>) -> &'static Self {
        let own_source = source.is_some();
        let (sampler, limiter) = pool::join(&config, source);
        let policy: Box<dyn Policy> = Box::new(Ladder::new(&config));
        let base = policy.blind_concurrency();
        let estimate = Box::new(UsageEstimate::new(config.estimated_bytes_per_request));
        let controller: &'static Self = Box::leak(Box::new(Self {
            bounds: limiter.join(),
            limiter,
            sampler,
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            deliveries: Deliveries::default(),
            limit_bytes: AtomicU64::new(u64::MAX),
            pressure: AtomicU8::new(0),
            percent_bits: AtomicU64::new(0),
            drain_ns: AtomicU64::new(0),
            last_reject_log_ms: AtomicU64::new(0),
            unlogged_rejections: AtomicU64::new(0),
            control: Mutex::new(Control {
                policy,
                estimate,
                levels: Vec::new(),
                decision: Decision {
                    pressure: Pressure::Normal,
                    base_concurrency: base,
                    concurrency: base,
                    allowance_bytes: u64::MAX,
                    idle_bytes: u64::MAX,
                    gate: false,
                    probes: None,
                },
                process_bytes: 0,
                completed: 0,
                blind: false,
                sensor_errors: 0,
                said_no_limit: false,
                last: Last::default(),
                events: Vec::new(),
            }),
            levels: watch::Sender::new(Pressure::Normal),
            config,
        }));
        controller.bounds.set_estimate(Ask {
            kib: kib(controller.config.estimated_bytes_per_request),
            low_kib: 0,
        });
        if controller.config.enabled {
            controller.sampler.subscribe(controller);
        }
        controller.log_start(own_source);
        controller
    }

    fn log_start(&self, own_source: bool) {
        let source = self.sampler.source_name();
        let stats = self.stats();
        let policy = self.policy_name();
        logs::initialised(&self.config, &source, policy, &stats);
        let looked_for_group = self.config.source == Source::Auto && !own_source;
        if looked_for_group && source == crate::sampler::HOST && crate::sampler::in_container() {
            logs::host_limit(stats.memory_limit_mb.unwrap_or(0.0));
        }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy_name(&self) -> &'static str {
        self.control().policy.name()
    }

    /// Every decision passes, whatever it is.
    pub(crate) fn only_observes(&self) -> bool {
        self.config.mode == Mode::Observe || !self.config.enabled
    }

    /// New work is rejected at the moment.
    #[inline]
    pub(crate) fn turns_away(&self) -> bool {
        self.bounds.limits().flag() && !self.only_observes()
    }

    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::from_index(self.pressure.load(Ordering::Relaxed))
    }

    /// The tightest hard limit; `u64::MAX` while none is known.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Counts a rejection, logs it (at most once a second), and says when to come back.
    pub(crate) fn reject(&self, reason: Reason) -> Rejected {
        self.counters.reject(reason);
        let rejected = Rejected {
            reason,
            pressure: self.pressure(),
            memory_percent: f64::from_bits(self.percent_bits.load(Ordering::Relaxed)),
            retry_after: (!reason.is_permanent()).then(|| self.retry_after()),
        };
        self.log_rejection(&rejected);
        rejected
    }

    fn log_rejection(&self, rejected: &Rejected) {
        let now_ms = self.sampler.tick().as_millis() as u64 + 1;
        let last_ms = self.last_reject_log_ms.load(Ordering::Relaxed);
        let due = last_ms == 0 || now_ms >= last_ms + REPORT_INTERVAL.as_millis() as u64;
        let ours = due
            && self
                .last_reject_log_ms
                .compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            let suppressed = self.unlogged_rejections.swap(0, Ordering::Relaxed);
            logs::rejected(
                rejected,
                &self.stats(),
                suppressed,
                self.config.name.as_deref(),
            );
        } else {
            self.unlogged_rejections.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The expected wait of one more waiter, with up to half of it added at
    /// random so that those who were turned away together do not return together.
    fn retry_after(&self) -> Duration {
        let drain = Duration::from_nanos(self.drain_ns.load(Ordering::Relaxed));
        let backlog = self.limiter.waiting() as u32 + 1;
        let wait = drain.saturating_mul(backlog).as_secs_f64().max(1.0);
        let jittered = wait * (1.0 + fastrand::f64() / 2.0);
        Duration::from_secs(jittered.ceil().clamp(1.0, 60.0) as u64)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // The gate first, so that nobody joins the queue after it was emptied.
        let shut = Packed::new(true, 0, 0);
        self.limiter.publish(&self.bounds, shut, MAX_KIB, 0);
        self.limiter.refuse_all(&self.bounds, Reason::Closed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let control = self.control();
        let active = u64::from(self.limiter.in_flight(&self.bounds));
        let waiting = self.limiter.waiting_for(&self.bounds) as u64;
        let completed = self.counters.completed.total();
        let rejected = self.counters.all_rejected();
        let usage = control.levels.first().map_or(0, |level| level.usage_bytes);
        Stats {
            total_requests: completed + active + waiting + rejected,
            rejected_requests: rejected,
            completed_requests: completed,
            active_tasks: active,
            waiting_requests: waiting,
            current_concurrency: u64::from(control.decision.concurrency),
            base_concurrency: u64::from(control.decision.base_concurrency),
            memory_percent: worst_fraction(&control.levels) * 100.0,
            memory_alloc_mb: mib(control.process_bytes),
            memory_sys_mb: mib(usage),
            memory_limit_mb: limit_bytes(&control.levels).map(mib),
            reserved_mb: mib(self.limiter.reserved().kib() * 1024),
            estimated_mem_per_req_mb: mib(self.bounds.estimate().kib * 1024),
            level: self.pressure(),
            sensor_ok: !control.blind,
            observed_requests: self.counters.observed.load(Ordering::Relaxed),
            stalled_responses: self.counters.stalled.load(Ordering::Relaxed),
        }
    }

    /// What counts here: the sampled levels, with one's own limit and share.
    fn take_levels(&self, sample: &Sample, control: &mut Control) {
        let before = limit_bytes(&control.levels);
        control.levels.clear();
        control.levels.extend_from_slice(&sample.levels);
        if let Some(bytes) = sample.process_bytes {
            control.process_bytes = bytes;
        }
        let share = self.config.share_fraction;
        if let Some(own) = control.levels.first_mut() {
            own.limit_bytes = [own.limit_bytes, self.config.memory_limit_bytes]
                .into_iter()
                .flatten()
                .min();
            if let (true, Some(limit)) = (share < 1.0, own.limit_bytes) {
                let limit = (limit as f64 * share) as u64;
                control
                    .levels
                    .push(MemoryLevel::new(control.process_bytes, Some(limit)));
            }
        }
        let after = limit_bytes(&control.levels);
        match (before, after) {
            (Some(from), Some(to)) if from != to && !sample.limit_drifts => {
                control.events.push(Event::LimitChanged { from, to });
            }
            (Some(_), None) => control.events.push(Event::NoLimit),
            (None, None) if !std::mem::replace(&mut control.said_no_limit, true) => {
                control.events.push(Event::NoLimit);
            }
            _ => {}
        }
        self.limit_bytes
            .store(after.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn publish(&self, decision: &Decision, blind: bool, reserved_kib: u64) {
        let closed = self.is_closed();
        let allowance_kib = (decision.allowance_bytes / 1024).min(MAX_KIB);
        let limits = Packed::new(decision.gate || closed, decision.concurrency, allowance_kib);
        // Half of what is free may be admitted on this sample. Near the limit,
        // every admission looks for itself.
        let free_kib = allowance_kib.saturating_sub(reserved_kib);
        let request_kib = self.bounds.estimate().kib;
        let near = free_kib < (allowance_kib / 8).max(request_kib.saturating_mul(4));
        let refresh_kib = if blind {
            MAX_KIB
        } else if near {
            0
        } else {
            reserved_kib + free_kib / 2
        };
        let idle_kib = if closed {
            0
        } else {
            decision.idle_bytes / 1024
        };
        self.bounds.publish(limits, refresh_kib, idle_kib);
        self.pressure
            .store(decision.pressure as u8, Ordering::Relaxed);
    }

    fn decide(&self, control: &mut Control, sample: Result<&Sample, &io::Error>, now: Duration) {
        let from = control.decision;
        let reserved_kib = self.limiter.reserved().kib();
        match sample {
            Ok(sample) => {
                if std::mem::take(&mut control.blind) {
                    control.events.push(Event::SensorRecovered);
                }
                self.take_levels(sample, control);
                let usage_bytes = control.levels.first().map_or(0, |level| level.usage_bytes);
                let active = self.limiter.in_flight(&self.bounds);
                control.estimate.observe(Evidence {
                    now,
                    usage_bytes,
                    own_in_flight: active,
                    all_in_flight: self.limiter.all_in_flight(),
                    completed: control.completed,
                });
                let reserved_bytes = reserved_kib * 1024;
                let request_bytes = control.estimate.request_bytes();
                let low_bytes = control.estimate.low_bytes();
                self.bounds.set_estimate(Ask {
                    kib: kib(request_bytes),
                    low_kib: low_bytes / 1024,
                });
                control.decision = control.policy.decide(&Observation {
                    now,
                    levels: &control.levels,
                    stall_percent: sample.stall_percent,
                    active,
                    reserved_bytes,
                    realised_bytes: control.estimate.realised_bytes(reserved_bytes),
                    request_bytes,
                    low_bytes,
                });
                let percent = worst_fraction(&control.levels) * 100.0;
                self.percent_bits
                    .store(percent.to_bits(), Ordering::Relaxed);
            }
            Err(error) => {
                let closed = self.config.on_sensor_failure == OnSensorFailure::Closed;
                control.sensor_errors += 1;
                if !std::mem::replace(&mut control.blind, true) {
                    let copy = io::Error::new(error.kind(), error.to_string());
                    control.events.push(Event::SensorFailed(copy));
                }
                let base = control.policy.blind_concurrency();
                control.decision = Decision {
                    pressure: if closed {
                        Pressure::Critical
                    } else {
                        Pressure::Normal
                    },
                    base_concurrency: base,
                    concurrency: if closed {
                        self.limiter.in_flight(&self.bounds)
                    } else {
                        base
                    },
                    allowance_bytes: u64::MAX,
                    idle_bytes: u64::MAX,
                    gate: closed,
                    probes: Some(0),
                };
            }
        }
        if from.pressure != control.decision.pressure {
            control.events.push(Event::Adjusted { from });
        }
        self.publish(&control.decision, control.blind, reserved_kib);
    }

    /// Keeps the mean time between completions, for `Retry-After`.
    fn measure_drain(&self, control: &mut Control, now: Duration) {
        let completed = control.completed;
        let finished = completed.saturating_sub(control.last.completed);
        let elapsed = now.saturating_sub(control.last.counted_at).as_nanos() as u64;
        if let Some(latest) = elapsed.checked_div(finished) {
            let known = self.drain_ns.load(Ordering::Relaxed);
            let smoothed = if known == 0 {
                latest
            } else {
                (known / 8) * 7 + latest / 8
            };
            self.drain_ns.store(smoothed, Ordering::Relaxed);
            control.last.completed = completed;
        }
        // While nothing runs, time says nothing about completions.
        if finished > 0 || self.limiter.in_flight(&self.bounds) == 0 {
            control.last.counted_at = now;
        }
    }

    /// When the next sample is due, from how fast memory can fill what is free.
    fn next_interval(&self, control: &mut Control, now: Duration) -> Duration {
        let usage_bytes = control.levels.first().map_or(0, |level| level.usage_bytes);
        let last = control.last;
        let elapsed = now.saturating_sub(last.at).as_secs_f64();
        let rise = usage_bytes.saturating_sub(last.usage_bytes) as f64 / elapsed.max(1e-4);
        control.last.at = now;
        control.last.usage_bytes = usage_bytes;
        self.measure_drain(control, now);
        let busy = self.limiter.reserved().kib() > 0;
        let floor = if busy { BUSY_RATE } else { IDLE_RATE };
        let free = control.decision.idle_bytes.min(1 << 50) as f64;
        let mut longest = self.config.check_interval;
        if control.blind {
            longest = longest.min(BLIND_INTERVAL);
        } else if self.limiter.waiting() > 0 {
            longest = longest.min(WAITING_INTERVAL);
        }
        // A quarter of the time it would take.
        let due = Duration::from_secs_f64(free / rise.max(floor) / 4.0);
        due.clamp(SHORTEST_INTERVAL.min(longest), longest)
    }

    fn report(&self, events: Vec<Event>, publish_metrics: bool, sensor_errors: u64) {
        let name = self.config.name.as_deref();
        for event in events {
            match event {
                Event::Adjusted { from } => {
                    let stats = self.stats();
                    let action = match stats.level.cmp(&from.pressure) {
                        _ if stats.level == Pressure::Critical => "reject",
                        std::cmp::Ordering::Greater => "reduce",
                        _ => "restore",
                    };
                    logs::adjusted(&stats, action, u64::from(from.concurrency), name);
                    self.levels.send_replace(stats.level);
                }
                Event::SensorFailed(error) => {
                    let closed = self.config.on_sensor_failure == OnSensorFailure::Closed;
                    logs::sensor_failed(&error, closed);
                }
                Event::SensorRecovered => logs::sensor_recovered(),
                Event::LimitChanged { from, to } => logs::limit_changed(mib(from), mib(to)),
                Event::NoLimit => logs::no_limit(),
            }
        }
        #[cfg(feature = "metrics")]
        if publish_metrics {
            crate::metrics::publish(name, &self.stats(), &self.counters, sensor_errors);
        }
        let _ = (publish_metrics, sensor_errors);
    }
}

impl Subscriber for Controller {
    fn on_sample(
        &self,
        sample: Result<&Sample, &io::Error>,
        detail: Detail,
        now: Duration,
    ) -> bool {
        let mut control = self.control();
        if detail == Detail::Full {
            control.completed = self.counters.completed.total();
        }
        self.decide(&mut control, sample, now);
        !control.events.is_empty() || self.limiter.waiting() > 0
    }

    fn after_sample(&self, full: bool, now: Duration) -> Duration {
        let mut control = self.control();
        let events = std::mem::take(&mut control.events);
        let probes = if full {
            control.decision.probes.take()
        } else {
            None
        };
        let interval = if full {
            self.next_interval(&mut control, now)
        } else {
            Duration::MAX
        };
        let due = control
            .last
            .published
            .is_none_or(|at| now >= at + REPORT_INTERVAL);
        let publish_metrics = full && (due || !events.is_empty() || !self.sampler.in_background());
        if publish_metrics {
            control.last.published = Some(now);
        }
        let sensor_errors = control.sensor_errors;
        drop(control);
        // A full sample always pumps, under the queue's lock: that is what makes
        // new bounds known to those who joined while they were published.
        if full || self.limiter.waiting() > 0 {
            self.limiter.pump();
        }
        // Somebody may have joined the queue while it was closed and emptied.
        if full && self.is_closed() {
            self.limiter.refuse_all(&self.bounds, Reason::Closed);
        }
        if full {
            self.limiter.pass_on_unclaimed(now);
            if let Some(timeout) = self.config.body_timeout {
                self.counters
                    .stalled(self.deliveries.end_stalled(timeout, now));
            }
        }
        if let Some(mut probes) = probes {
            while probes > 0 && self.limiter.probe_oldest(&self.bounds) {
                probes -= 1;
            }
            self.bounds.set_probes(probes);
        }
        self.report(events, publish_metrics, sensor_errors);
        interval
    }

    fn leaves(&self) -> bool {
        let idle = || {
            self.limiter.in_flight(&self.bounds) == 0 && self.limiter.waiting_for(&self.bounds) == 0
        };
        let over = self.is_closed() && idle();
        if over {
            self.limiter.leave(&self.bounds);
        }
        over
    }
}
