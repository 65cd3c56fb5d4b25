//! What the samples act on.

use std::io;
use std::time::Duration;

use super::braking::Braking;
use super::critical::Critical;
use super::demand::Demand;
use super::latched::Latched;
use super::patience::Patience;
use super::relieve::Cancellations;
use crate::config::{self, Config};
use crate::forecast::Forecast;
use crate::memory::MemoryLevel;
use crate::policy::ladder::Ladder;
use crate::policy::predictive::Predictive;
use crate::policy::{Decision, Policy};
use crate::pressure::Pressure;

/// One guard's.
pub(super) struct Control {
    pub(super) policy: Box<dyn Policy>,
    pub(super) forecast: Forecast,
    pub(super) levels: Vec<MemoryLevel>,
    pub(super) decision: Decision,
    /// That listeners are to be told.
    pub(super) new_limit: Option<Option<u64>>,
    pub(super) process_bytes: u64,
    /// Bytes that requests may have caused: the group's, or the process's where
    /// others share the group.
    pub(super) own_bytes: u64,
    pub(super) braking: Braking,
    pub(super) cancellations: Cancellations,
    pub(super) patience: Patience,
    pub(super) demand: Demand,
    /// Memory leaves no room for the next in line.
    pub(super) kept_out: bool,
    pub(super) latched: Latched,
    pub(super) critical: Critical,
    /// What a request reserves, on average.
    pub(super) request_bytes: u64,
    /// What the next in line asks for; the average if nobody waits.
    pub(super) next_bytes: u64,
    /// To be granted after the next full sample.
    pub(super) probes: u32,
    /// As of the last full sample: it takes a look at many cache lines.
    pub(super) completed: u64,
    pub(super) blind: bool,
    /// Full samples, and those of them that failed.
    pub(super) samples: u64,
    pub(super) sensor_errors: u64,
    pub(super) said_no_limit: bool,
    pub(super) last: Last,
    pub(super) events: Vec<Event>,
}

/// The last sample, for rates.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last {
    pub(super) at: Duration,
    pub(super) usage_bytes: u64,
    /// When memory could be read last.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    pub(super) good_at: Duration,
    /// When completions were counted last, and how many there were.
    pub(super) counted_at: Duration,
    pub(super) completed: u64,
    pub(super) published: Option<Duration>,
}

/// What is to be said once no lock is held.
pub(super) enum Event {
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

impl Control {
    /// Before the first sample.
    pub(super) fn new(policy: Box<dyn Policy>, forecast: Forecast, config: &Config) -> Self {
        let base = policy.blind_concurrency();
        Self {
            policy,
            forecast,
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
            new_limit: None,
            process_bytes: 0,
            own_bytes: 0,
            braking: Braking::default(),
            cancellations: Cancellations::default(),
            patience: Patience::default(),
            demand: Demand::default(),
            kept_out: false,
            latched: Latched::default(),
            critical: Critical::default(),
            request_bytes: config.estimated_bytes_per_request,
            next_bytes: config.estimated_bytes_per_request,
            probes: 0,
            completed: 0,
            blind: false,
            samples: 0,
            sensor_errors: 0,
            said_no_limit: false,
            last: Last::default(),
            events: Vec::new(),
        }
    }
}

/// Who decides, as `config` has it.
pub(super) fn policy(config: &Config, accounted: bool) -> Box<dyn Policy> {
    match config.decided_policy() {
        config::Policy::Predictive => Box::new(Predictive::new(config, accounted)),
        _ => Box::new(Ladder::new(config)),
    }
}
