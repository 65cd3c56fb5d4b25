//! What was learned, in a form that outlives the process.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

use crate::class::tag::CLASSES;

/// No machine has more memory.
const MOST_BYTES: f64 = (1u64 << 46) as f64;
/// No guard counts more requests.
pub(super) const MOST_REQUESTS: f64 = 100_000.0;
/// Margins stay within that.
pub(super) const MOST_DEVIATIONS: f64 = 8.0;
/// Numbers for names are few, and those of today's classes come first: of what was
/// learned no more are taken.
const MOST_LOADED: usize = CLASSES / 2;

/// What a guard has learned of its requests, to be saved and given to the next
/// process, so that a restart does not start cold.
///
/// Taken from [`Guard::estimates`](crate::Guard::estimates), given to
/// [`MemoryGuardBuilder::estimates`](crate::MemoryGuardBuilder::estimates). Fields
/// that are missing count as not known; if a value makes no sense, all are ignored.
/// [`MemoryGuardBuilder::state`](crate::MemoryGuardBuilder::state) does it by itself, and
/// survives a kill.
///
/// With the feature `serde`:
///
/// ```
/// use tower_memory_guard::{Estimates, MemoryGuardLayer};
///
/// let layer = MemoryGuardLayer::builder().build()?;
/// let saved = serde_json::to_string(&layer.guard().estimates())?;
/// // … in the next process:
/// let estimates: Estimates = serde_json::from_str(&saved)?;
/// let layer = MemoryGuardLayer::builder().estimates(estimates).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize), serde(default))]
pub struct Estimates {
    /// By the name of the class; the empty name is of requests without one.
    pub(super) classes: BTreeMap<String, ClassRecord>,
    /// The same of requests with a cost hint, as if their hint were 16 MiB.
    pub(super) hinted_classes: BTreeMap<String, ClassRecord>,
    /// The margin of forecasts, in standard deviations.
    pub(super) margin_deviations: Option<f64>,
    /// Without accounting: bytes in use for each request in flight, and how many
    /// requests that is known from.
    pub(super) usage_bytes_per_request: Option<(f64, f64)>,
}

/// What was learned of one class.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize), serde(default))]
pub(super) struct ClassRecord {
    /// Requests ever seen.
    pub(super) seen: f64,
    /// Peaks in bytes, and how many requests had about that.
    pub(super) peaks: Vec<(f64, f64)>,
}

/// A size, named as it is in what is said of it.
pub(super) fn check_bytes(what: &str, bytes: f64) -> Result<(), String> {
    // NaN is in no range.
    let good = (1.0..=MOST_BYTES).contains(&bytes);
    let figure = figure(bytes);
    let problem = || format!("{figure} bytes {what} make no sense, 1 byte to 64 TiB would");
    good.then_some(()).ok_or_else(problem)
}

fn check_count(what: &str, count: f64) -> Result<(), String> {
    let good = (0.0..=MOST_REQUESTS).contains(&count);
    let problem = || {
        let figure = figure(count);
        format!("{figure} requests {what} make no sense, 0 to {MOST_REQUESTS} would")
    };
    good.then_some(()).ok_or_else(problem)
}

/// In as few digits as tell what it is.
fn figure(number: f64) -> String {
    match number.abs() >= 1e9 {
        true => format!("{number:e}"),
        false => number.to_string(),
    }
}

impl ClassRecord {
    /// Says what makes no sense of the class with this name.
    pub(super) fn check(&self, name: &str, hinted: bool) -> Result<(), String> {
        let hinted = if hinted { " with a cost hint" } else { "" };
        let of_class = |problem| format!("class {name:?}{hinted}: {problem}");
        self.check_figures().map_err(of_class)
    }

    fn check_figures(&self) -> Result<(), String> {
        check_count("seen", self.seen)?;
        for &(bytes, weight) in &self.peaks {
            check_bytes("as a peak", bytes)?;
            check_count("with one peak", weight)?;
        }
        Ok(())
    }
}

impl Estimates {
    /// Says what makes no sense: learned, it would be believed for long.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (hinted, classes) in self.by_hint() {
            for (name, class) in classes {
                class.check(name, hinted)?;
            }
        }
        self.check_usage()?;
        self.check_margin()
    }

    pub(super) fn check_usage(&self) -> Result<(), String> {
        let Some((bytes, seen)) = self.usage_bytes_per_request else {
            return Ok(());
        };
        check_bytes("in use for each request", bytes)?;
        check_count("seen", seen)
    }

    pub(super) fn check_margin(&self) -> Result<(), String> {
        match self.margin_deviations {
            Some(deviations) if !(0.0..=MOST_DEVIATIONS).contains(&deviations) => {
                let figure = figure(deviations);
                Err(format!(
                    "a margin of {figure} standard deviations makes no sense, \
                     0 to {MOST_DEVIATIONS} would"
                ))
            }
            _ => Ok(()),
        }
    }

    /// The classes whose requests have no hint, and the others.
    pub(super) fn by_hint(&self) -> [(bool, &BTreeMap<String, ClassRecord>); 2] {
        [(false, &self.classes), (true, &self.hinted_classes)]
    }

    /// The names of the classes that most is known of.
    pub(super) fn names_to_load(&self) -> BTreeSet<&str> {
        let mut known = BTreeMap::<&str, f64>::new();
        for (name, class) in self.classes.iter().chain(&self.hinted_classes) {
            let seen = known.entry(name).or_default();
            *seen = seen.max(class.seen);
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        known.truncate(MOST_LOADED);
        known.into_iter().map(|(name, _)| name).collect()
    }
}
