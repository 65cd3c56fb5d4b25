//! Which memory counts, and up to which limit.

use super::{Control, Notice, Regulator};
use crate::memory::{Detail, MemoryLevel, Sample};
use crate::policy::{end_bytes, limit_bytes};

impl Regulator {
    /// What counts here: the sampled levels, with one's own limit and share.
    pub(super) fn take_levels(&self, sample: &Sample, detail: Detail, control: &mut Control) {
        let before = limit_bytes(&control.levels);
        take(&mut control.levels, &sample.levels, detail);
        let config = self.state.config();
        let share = config.share_fraction;
        let bytes = match sample.process_bytes {
            // A quick read does not tell, and a share is to show what polls have added by now.
            None if share < 1.0 && control.process_bytes > 0 => crate::memory::process_bytes(),
            told => told,
        };
        control.process_bytes = bytes.unwrap_or(control.process_bytes);
        if let Some(own) = control.levels.first_mut() {
            own.limit_bytes = [own.limit_bytes, config.memory_limit_bytes]
                .into_iter()
                .flatten()
                .min();
            control.own_bytes = own.usage_bytes;
            if share < 1.0 && control.process_bytes > 0 {
                // The rest of the group is other processes'.
                control.own_bytes = control.process_bytes;
            }
            if share < 1.0 && end_bytes(own).is_some() {
                let part = |bytes: u64| (bytes as f64 * share) as u64;
                let part = MemoryLevel {
                    usage_bytes: control.own_bytes,
                    limit_bytes: own.limit_bytes.map(part),
                    high_bytes: own.high_bytes.map(part),
                    swapped_bytes: own.swapped_bytes,
                };
                control.levels.push(part);
            }
        }
        let after = limit_bytes(&control.levels);
        // Of a machine's memory that moves by itself: but whether there is a limit is news, and
        // that it is another one.
        let drifted = std::mem::replace(&mut control.limit_drifts, sample.limit_drifts);
        let drifts = drifted && sample.limit_drifts && before.is_some() && after.is_some();
        match (before, after) {
            (Some(from), Some(to)) if from != to && !drifts => {
                control.notices.push(Notice::LimitChanged { from, to });
            }
            (_, None) => {
                let said = std::mem::replace(&mut control.said_no_limit, true);
                if before.is_some() || !said {
                    control.notices.push(Notice::NoLimit);
                }
            }
            _ => {}
        }
        self.state.shown.set_levels(&control.levels);
        if before != after && !drifts {
            control.new_limit = Some(after);
            control.cancellations.wall.forget();
        }
    }
}

/// A quick sample may tell usage alone: limits are those of the last full one then.
fn take(levels: &mut Vec<MemoryLevel>, sampled: &[MemoryLevel], detail: Detail) {
    levels.truncate(sampled.len());
    for (at, &level) in sampled.iter().enumerate() {
        let usage_alone = detail == Detail::Quick && level.bound_bytes().is_none();
        match levels.get_mut(at) {
            Some(known) if usage_alone => known.usage_bytes = level.usage_bytes,
            Some(known) => *known = level,
            None => levels.push(level),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::{Class, Guard, ManualSource, MemoryGuardLayer, Tier};

    const MIB: u64 = 1 << 20;

    #[test]
    fn usage_alone_does_not_take_the_limit_away() {
        let mut levels = vec![MemoryLevel::new(5, Some(10)), MemoryLevel::new(6, None)];
        let bounds = |levels: &[MemoryLevel]| -> Vec<_> {
            let both = levels
                .iter()
                .map(|level| (level.usage_bytes, level.limit_bytes));
            both.collect()
        };
        let usage = [MemoryLevel::new(7, None)];
        take(&mut levels, &usage, Detail::Quick);
        assert_eq!(bounds(&levels), [(7, Some(10))]);
        take(&mut levels, &usage, Detail::Full);
        assert_eq!(bounds(&levels), [(7, None)]);
    }

    #[test]
    fn that_there_is_no_limit_is_said_once() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(MIB));
        let layer = builder.build().unwrap();
        let regulator = layer.guard().regulator;
        let mut control = regulator.control();
        let mut sample = Sample::default();
        sample.push(MemoryLevel::new(0, None));
        (0..2).for_each(|_| regulator.take_levels(&sample, Detail::Full, &mut control));
        assert!(matches!(control.notices[..], [Notice::NoLimit]));
    }

    async fn admitted(guard: &Guard, class: Class) -> crate::Permit {
        guard.acquire_for(&class).await.unwrap()
    }

    #[tokio::test]
    async fn who_waits_for_a_share_of_the_limit_goes_on_once_it_has_risen_whoever_ends_meanwhile() {
        let memory = ManualSource::new(1000 * MIB);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let builder = builder.tier(Tier::new("shared").max_share(0.3));
        let layer = builder.build().unwrap();
        let guard = layer.guard();
        let of_tenant = Class::new("work").tenant("one").tier("shared");
        let of_tenant = of_tenant.cost(200 * MIB);
        let other = admitted(guard, Class::new("other").cost(MIB)).await;
        let _first = admitted(guard, of_tenant.clone()).await;
        let mut second = pin!(guard.acquire_for(&of_tenant));
        let mut poll = || {
            second
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(poll().is_pending());
        memory.set_limit_bytes(2000 * MIB);
        let mut sample = Sample::default();
        sample.push(MemoryLevel::new(0, Some(2000 * MIB)));
        let regulator = guard.regulator;
        regulator.take_levels(&sample, Detail::Full, &mut regulator.control());
        // Before its bounds are published.
        drop(other);
        guard.sample_now();
        assert!(poll().is_ready());
    }
}
