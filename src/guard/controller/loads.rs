//! How loaded the process is, for balancers: kept where each response may look at it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Controller;
use super::demand::Demand;

/// How loaded the process is: memory as of the last sample, the rest as of the last
/// full one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Loads {
    /// Memory in use, as a share of the limit.
    pub(crate) memory: f64,
    /// What is admitted, as a share of what may be.
    pub(crate) utilisation: f64,
    /// See [`Demand`].
    pub(crate) demand: f64,
    /// For each second, of requests that were finished and that were turned away.
    pub(crate) completed: f64,
    pub(crate) turned_away: f64,
}

/// The last [`Loads`], but for memory.
#[derive(Debug, Default)]
pub(super) struct LastLoads {
    utilisation: AtomicU64,
    demand: AtomicU64,
    completed: AtomicU64,
    turned_away: AtomicU64,
}

impl LastLoads {
    pub(super) fn keep(&self, demand: &Demand) {
        let keep = |at: &AtomicU64, value: f64| at.store(value.to_bits(), Ordering::Relaxed);
        keep(&self.utilisation, demand.utilisation());
        keep(&self.demand, demand.ratio());
        keep(&self.completed, demand.completed());
        keep(&self.turned_away, demand.turned_away());
    }
}

impl Controller {
    pub(crate) fn loads(&self) -> Loads {
        let value = |at: &AtomicU64| f64::from_bits(at.load(Ordering::Relaxed));
        Loads {
            memory: value(&self.percent_bits) / 100.0,
            utilisation: value(&self.last_loads.utilisation),
            demand: value(&self.last_loads.demand),
            completed: value(&self.last_loads.completed),
            turned_away: value(&self.last_loads.turned_away),
        }
    }
}
