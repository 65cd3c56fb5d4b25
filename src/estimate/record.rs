//! What was learned, in a form that outlives the process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::labels::Labels;

/// What a guard has learned of its requests, to be saved and given to the next
/// process, so that a restart does not start cold.
///
/// Taken from [`Guard::estimates`](crate::Guard::estimates), given to
/// [`MemoryGuardBuilder::estimates`](crate::MemoryGuardBuilder::estimates). Fields
/// that are missing count as not known, values that make no sense are left out.
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ClassRecord {
    /// Requests ever seen.
    pub(super) seen: f64,
    /// Peaks in bytes, and how many requests had about that.
    pub(super) peaks: Vec<(f64, f64)>,
}

impl super::Forecast {
    pub(crate) fn save(&self, labels: &Labels) -> Estimates {
        let mut record = Estimates {
            usage_bytes_per_request: self.usage.save(),
            ..Estimates::default()
        };
        if let Some(book) = &self.book {
            record.margin_deviations = Some(book.calibration.deviations());
            for (number, kind) in book.kinds().iter() {
                let (name, hinted) = labels.name(number as u8);
                let classes = match hinted {
                    true => &mut record.hinted_classes,
                    false => &mut record.classes,
                };
                classes.insert(name.to_owned(), kind.class.save());
            }
        }
        record
    }

    pub(crate) fn load(&mut self, record: &Estimates, labels: &Labels) {
        match &mut self.book {
            Some(book) => {
                let plain = record.classes.iter().map(|class| (class, false));
                let hinted = record.hinted_classes.iter().map(|class| (class, true));
                for ((name, class), hinted) in plain.chain(hinted) {
                    let kind = labels.kind(name, hinted);
                    book.kinds_mut()
                        .kind(usize::from(kind), false)
                        .class
                        .load(class);
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
}
