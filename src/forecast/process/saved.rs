//! What a forecast has learned, as a record, and back.

use super::Forecast;
use crate::classify::labels::Labels;
use crate::forecast::record::Estimates;
use crate::forecast::state::AtLeast;

impl Forecast {
    pub(crate) fn save(&self, labels: &Labels) -> Estimates {
        let mut record = Estimates::default();
        let Some(book) = &self.book else {
            record.usage_bytes_per_request = self.usage.save();
            return record;
        };
        record.margin_deviations = Some(book.calibration.deviations);
        for (key, kind) in book.kinds.iter() {
            let classes = match key.is_hinted() {
                true => &mut record.hinted_classes,
                false => &mut record.classes,
            };
            classes.insert(labels.name(key).to_owned(), kind.profile.save());
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
                            let key = labels.key(name, hinted);
                            book.kinds.kind(key).profile.load(class);
                        }
                    }
                }
                if let Some(deviations) = record.margin_deviations {
                    book.calibration.set_deviations(deviations);
                }
                self.is_bounded = false;
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
            let key = labels.key(&request.class, request.hinted);
            let kind = book.kinds.kind(key);
            kind.profile.at_least(request.bytes);
        }
        self.is_bounded = false;
    }

    /// Once it is known where memory ends: what was learned elsewhere cannot be more.
    pub(in crate::forecast) fn bound_loaded(&mut self) {
        if let Some(book) = self.book.as_mut().filter(|_| !self.is_bounded) {
            if self.limit_bytes > 0.0 {
                let kinds = book.kinds.without_hint();
                kinds.for_each(|kind| kind.profile.bound_loaded(self.limit_bytes));
                self.is_bounded = true;
            }
        }
    }

    /// Without accounting, bytes in use for each request in flight, at their most.
    pub(crate) fn usage_average(&self) -> Option<f64> {
        let average = self.usage.save().map(|(bytes, _)| bytes);
        average.filter(|_| self.book.is_none())
    }
}
