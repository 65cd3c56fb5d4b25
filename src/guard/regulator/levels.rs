//! Which memory counts, and up to which limit.

use super::{Control, Notice, Regulator};
use crate::memory::{MemoryLevel, Sample};
use crate::policy::{end_bytes, limit_bytes};

impl Regulator {
    /// What counts here: the sampled levels, with one's own limit and share.
    pub(super) fn take_levels(&self, sample: &Sample, control: &mut Control) {
        let before = limit_bytes(&control.levels);
        control.levels.clear();
        control.levels.extend_from_slice(&sample.levels);
        if let Some(bytes) = sample.process_bytes {
            control.process_bytes = bytes;
        }
        let config = self.state.config();
        let share = config.share_fraction;
        if let Some(own) = control.levels.first_mut() {
            own.limit_bytes = [own.limit_bytes, config.memory_limit_bytes]
                .into_iter()
                .flatten()
                .min();
            control.own_bytes = own.usage_bytes;
            if share < 1.0 {
                // The rest of the group is other processes'.
                control.own_bytes = control.process_bytes;
            }
            if share < 1.0 && end_bytes(own).is_some() {
                let part = |bytes: u64| (bytes as f64 * share) as u64;
                let part = MemoryLevel {
                    usage_bytes: control.process_bytes,
                    limit_bytes: own.limit_bytes.map(part),
                    high_bytes: own.high_bytes.map(part),
                    swapped_bytes: own.swapped_bytes,
                };
                control.levels.push(part);
            }
        }
        let after = limit_bytes(&control.levels);
        if before != after {
            // Quotas are fractions of it.
            self.state.limiter.unpark_all();
        }
        match (before, after) {
            (Some(from), Some(to)) if from != to && !sample.limit_drifts => {
                control.notices.push(Notice::LimitChanged { from, to });
            }
            (Some(_), None) => control.notices.push(Notice::NoLimit),
            (None, None) if !std::mem::replace(&mut control.said_no_limit, true) => {
                control.notices.push(Notice::NoLimit);
            }
            _ => {}
        }
        self.state.shown.set_levels(&control.levels);
        if before != after && !sample.limit_drifts {
            control.new_limit = Some(after);
            control.cancellations.wall.forget();
        }
    }
}
