//! By how much usage may still rise without another request.

use super::{Forecast, MOST_OUTDATED};

impl Forecast {
    /// F − U, of so many reserved bytes. Negative if the allocator keeps more than that, which it
    /// would give back.
    pub(crate) fn outstanding_bytes(&self, reserved_bytes: u64) -> i64 {
        let Some(book) = &self.book else {
            // What those in flight need by what is estimated now: they were admitted by an older
            // estimate.
            let now_bytes = self.usage.request_bytes() as f64 * self.in_flight;
            let most_bytes = reserved_bytes as f64 * MOST_OUTDATED;
            let needed_bytes = reserved_bytes.max(now_bytes.min(most_bytes) as u64);
            return (needed_bytes - self.usage.realised_bytes(needed_bytes)) as i64;
        };
        let sums = &book.sums;
        let seen_kib = sums.reserved_kib + self.others.reserved_kib;
        let unseen_bytes = reserved_bytes.saturating_sub(seen_kib * 1024);
        let retained_bytes = self.retained.bytes();
        // What is allocated may not be touched yet: the second term covers it.
        let touched = sums.growth_bytes - retained_bytes;
        let allocated =
            self.beside_bytes + sums.need_bytes + self.others.held_bytes - self.usage_bytes;
        let growth = touched.max(allocated) + self.margin_bytes(&sums.needs);
        // What no account shows: as much as was reserved, or as usage tells; which shows what
        // such requests hold while they grow, and not what each will hold in the end.
        let by_usage = self.unexplained_bytes() * self.in_flight;
        let quiet_kib = if by_usage > 0.0 { sums.quiet_kib } else { 0 };
        let quiet_bytes = (quiet_kib * 1024) as f64;
        let elsewhere = by_usage.max(sums.invisible_bytes).max(quiet_bytes) as u64;
        let elsewhere = elsewhere - self.usage.realised_bytes(elsewhere);
        let others = self.others.outstanding_bytes;
        let more = others.saturating_add_unsigned(elsewhere.saturating_add(unseen_bytes));
        (growth as i64).saturating_add(more)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::class::tag::Tag;
    use crate::forecast::{Evidence, Forecast};
    use crate::running::Running;

    const MIB: u64 = 1 << 20;

    #[test]
    fn newcomers_are_none_of_those_that_the_last_look_found_and_that_have_ended() {
        let mut forecast = Forecast::new(48 * MIB, 0.001, true);
        forecast.brakes = true;
        forecast.set_slack(0, 1024 * MIB);
        let running: &'static Running = Box::leak(Box::default());
        let mut now = Duration::ZERO;
        let take = || {
            let slot = running.take(48 << 10, Tag::NONE, Duration::ZERO);
            slot.unwrap()
        };
        // To their peaks, and they are about to end.
        let mut ten_at_their_peak = |forecast: &mut Forecast| {
            let ten = [(); 10].map(|()| take());
            for step in 1..=18 {
                now += Duration::from_millis(5);
                for slot in ten.iter().filter(|_| step <= 12) {
                    slot.charge(4 * MIB as i64, 1);
                    slot.grew(4 * MIB, false, Duration::ZERO);
                }
                forecast.look(running, now);
            }
            ten
        };
        for _ in 0..3 {
            let ten = ten_at_their_peak(&mut forecast);
            ten.into_iter().for_each(|slot| running.end(slot));
        }
        let ten = ten_at_their_peak(&mut forecast);
        forecast.observe(Evidence {
            now,
            usage_bytes: 500 * MIB,
            own_in_flight: 10,
            all_in_flight: 10,
            ..Evidence::default()
        });
        ten.into_iter().for_each(|slot| running.end(slot));
        let _others = [(); 10].map(|()| take());
        forecast.see_gone(running.gone_kib());
        forecast.see_usage(20 * MIB);
        let outlook = forecast.outlook(480 * MIB);
        let more_mib = outlook.reservable_bytes((1004 * MIB) as f64) / MIB as f64;
        assert!((523.0..525.0).contains(&more_mib), "{more_mib}");
    }
}
