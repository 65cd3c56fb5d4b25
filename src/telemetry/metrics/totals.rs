//! Counters of guards that share a name add up, and those of a guard that takes the place of
//! another go on where it ended: recorders take a total that falls for none.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use ::metrics::Label;

/// What all guards of the process have counted, by series.
static TOTALS: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

/// What of that one guard has counted: series and value, sorted.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Vec<(u64, u64)>>);

impl Published {
    /// As if nothing had been counted so far.
    pub(crate) fn forget(&self) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *own = Vec::new();
    }

    /// The total of a counter that stands at `value` in this guard.
    pub(super) fn total(&self, name: &str, labels: &[Label], value: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (name, labels).hash(&mut hasher);
        let series = hasher.finish();
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = match own.binary_search_by_key(&series, |&(series, _)| series) {
            Ok(at) => value.saturating_sub(std::mem::replace(&mut own[at].1, value)),
            // Most stay at 0.
            Err(at) if value > 0 => {
                own.insert(at, (series, value));
                value
            }
            Err(_) => 0,
        };
        let mut totals = TOTALS.lock().unwrap_or_else(PoisonError::into_inner);
        let total = totals.entry(series).or_default();
        *total = total.saturating_add(more);
        *total
    }
}
