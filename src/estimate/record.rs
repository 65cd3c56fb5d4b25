//! What was learned, in a form that outlives the process.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

use super::state::AtLeast;
use crate::labels::Labels;
use crate::tag::CLASSES;

/// No request needs more, and nobody has seen so many of them.
const MOST_BYTES: f64 = (1u64 << 50) as f64;
const MOST_REQUESTS: f64 = 1e9;
/// Margins stay far below.
const MOST_DEVIATIONS: f64 = 100.0;
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

pub(super) fn check_bytes(bytes: f64) -> Result<(), String> {
    // NaN fails both comparisons.
    let good = bytes > 0.0 && bytes <= MOST_BYTES;
    let problem = || format!("no request needs {bytes} bytes");
    good.then_some(()).ok_or_else(problem)
}

fn check_count(count: f64) -> Result<(), String> {
    let problem = || format!("{count} is no number of requests");
    let good = (0.0..=MOST_REQUESTS).contains(&count);
    good.then_some(()).ok_or_else(problem)
}

impl Estimates {
    /// Says what makes no sense: learned, it would be believed for ever.
    pub(crate) fn check(&self) -> Result<(), String> {
        for class in self.classes.values().chain(self.hinted_classes.values()) {
            check_count(class.seen)?;
            for &(bytes, weight) in &class.peaks {
                check_bytes(bytes)?;
                check_count(weight)?;
            }
        }
        if let Some((bytes, seen)) = self.usage_bytes_per_request {
            check_bytes(bytes)?;
            check_count(seen)?;
        }
        match self.margin_deviations {
            Some(deviations) if !(0.0..=MOST_DEVIATIONS).contains(&deviations) => {
                Err(format!("{deviations} standard deviations are no margin"))
            }
            _ => Ok(()),
        }
    }

    /// The classes whose requests have no hint, and the others.
    pub(super) fn by_hint(&self) -> [(bool, &BTreeMap<String, ClassRecord>); 2] {
        [(false, &self.classes), (true, &self.hinted_classes)]
    }

    /// The names of the classes that most is known of.
    fn names_to_load(&self) -> BTreeSet<&str> {
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

impl super::Forecast {
    pub(crate) fn save(&self, labels: &Labels) -> Estimates {
        let mut record = Estimates::default();
        let Some(book) = &self.book else {
            record.usage_bytes_per_request = self.usage.save();
            return record;
        };
        record.margin_deviations = Some(book.calibration.deviations());
        for (number, kind) in book.kinds().iter() {
            let (name, hinted) = labels.name(number as u8);
            let classes = match hinted {
                true => &mut record.hinted_classes,
                false => &mut record.classes,
            };
            classes.insert(name.to_owned(), kind.class.save());
        }
        record
    }

    /// Takes back what was [saved](Self::save) and [checked](Estimates::check).
    pub(crate) fn load(&mut self, record: &Estimates, labels: &Labels) {
        let names = record.names_to_load();
        match &mut self.book {
            Some(book) => {
                for (hinted, classes) in record.by_hint() {
                    for (name, class) in classes {
                        if names.contains(&**name) {
                            let kind = usize::from(labels.kind(name, hinted));
                            book.kinds_mut().kind(kind, false).class.load(class);
                        }
                    }
                }
                if let Some(deviations) = record.margin_deviations {
                    book.calibration.set_deviations(deviations);
                }
            }
            // With accounting it is about what accounts do not show.
            None => {
                if let Some((bytes, seen)) = record.usage_bytes_per_request {
                    self.usage.load(bytes, seen);
                }
            }
        }
    }

    /// Learns from requests that were in flight when their process was killed.
    pub(crate) fn learn_cut_off(&mut self, cut_off: &[AtLeast], labels: &Labels) {
        let Some(book) = &mut self.book else {
            return;
        };
        for request in cut_off {
            let kind = labels.kind(&request.class, request.hinted);
            let kind = book.kinds_mut().kind(usize::from(kind), false);
            kind.class.at_least(request.bytes);
        }
    }

    /// Without accounting, bytes in use for each request in flight, at their most.
    pub(crate) fn usage_average(&self) -> Option<f64> {
        let average = self.usage.save().map(|(bytes, _)| bytes);
        average.filter(|_| self.book.is_none())
    }
}
