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
            Ok(at) => {
                // What two see at the same moment may come in either order.
                let more = value.saturating_sub(own[at].1);
                own[at].1 += more;
                more
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dips_and_comes_back_is_counted_once() {
        let published = Published::default();
        let total = |value| published.total("of_a_counter_that_dips", &[], value);
        assert_eq!([5, 4, 5, 6, 2, 7].map(total), [5, 5, 5, 6, 6, 7]);
        let of_another = Published::default();
        assert_eq!(of_another.total("of_a_counter_that_dips", &[], 3), 10);
    }
}
