//! Without accounting: what requests hold that no poll shows, on threads that may block, say.

use std::time::Duration;

use crate::forecast::Evidence;
use crate::forecast::usage::WAITER_BYTES;

/// What is allocated beyond what polls show is held by work that none does, if it is more
/// than so much of the limit.
const LEAST: f64 = 1.0 / 64.0;
/// And what stays of that from request to request, than so much for each in flight.
const LEAST_EACH: f64 = (2u64 << 20) as f64;
/// For so long after it was seen last there may be more such work; seen once, it may be of
/// one that has ended.
const LASTS: Duration = Duration::from_secs(30);
const LASTS_AT_FIRST: Duration = Duration::from_secs(1);
/// Seen again so soon it is no other.
const AGAIN: Duration = Duration::from_secs(5);
/// Polls that began before the brake was on, and parts of work, add what nobody counts, or was
/// counted before: for so long.
const UNCOUNTED: Duration = Duration::from_millis(500);

/// Whether requests hold what polls do not show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hidden {
    until: Duration,
    /// More is allocated than those in flight can hold, as of the last look at it.
    is_beyond: bool,
    added: Added,
}

/// Memory that is allocated while no poll is under way, and that polls have not added. Others
/// free what they hold meanwhile: so it is what was added since the least there was.
#[derive(Clone, Copy, Debug, Default)]
struct Added {
    /// Since when all that polls add is counted.
    told_since: Option<Duration>,
    least: Option<Least>,
    body_bytes: u64,
    seen_at: Option<Duration>,
}

/// What there was when it was least.
#[derive(Clone, Copy, Debug)]
struct Least {
    bytes: f64,
    /// Then.
    connections: u32,
    body_bytes: u64,
}

impl Hidden {
    /// There may be none, as far as was seen lately.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }

    /// So much is allocated beyond what those in flight may hold by what they touch.
    pub(super) fn see_beyond(&mut self, evidence: &Evidence, beyond_bytes: f64, limit_bytes: f64) {
        let waiting = f64::from(evidence.waiting) * WAITER_BYTES;
        let each = f64::from(evidence.all_in_flight) * LEAST_EACH;
        let is_beyond = beyond_bytes - waiting > each.max(limit_bytes * LEAST);
        let again = std::mem::replace(&mut self.is_beyond, is_beyond);
        if is_beyond {
            self.lasts(evidence.now, again);
        }
    }

    /// So much is allocated, and polls tell what they add to that.
    pub(super) fn see_added(&mut self, evidence: &Evidence, limit_bytes: f64) {
        let Some(again) = self.added.is_seen(evidence, limit_bytes * LEAST) else {
            return;
        };
        self.lasts(evidence.now, again);
    }

    fn lasts(&mut self, now: Duration, again: bool) {
        let lasts = if again { LASTS } else { LASTS_AT_FIRST };
        self.until = self.until.max(now + lasts);
    }
}

impl Added {
    /// Whether it has come to so much, and if so whether it had not long ago.
    fn is_seen(&mut self, evidence: &Evidence, most_bytes: f64) -> Option<bool> {
        let now = evidence.now;
        if !evidence.all_told {
            (self.told_since, self.least) = (None, None);
            return None;
        }
        let since = *self.told_since.get_or_insert(now);
        let told_bytes = evidence.told_bytes.filter(|_| now >= since + UNCOUNTED);
        let (allocated_bytes, grown_bytes) = evidence.allocated_bytes.zip(told_bytes)?;
        let seen = Least {
            bytes: allocated_bytes as f64 - grown_bytes as f64,
            connections: evidence.waiting + evidence.all_in_flight,
            body_bytes: evidence.body_bytes,
        };
        // Bodies whose work has begun are still held, and counted no more.
        let begins = seen.body_bytes < std::mem::replace(&mut self.body_bytes, seen.body_bytes);
        let is_least = |least: &Least| seen.bytes >= least.bytes && !begins;
        let least = self.least.filter(is_least);
        let least = *self.least.insert(least.unwrap_or(seen));
        if seen.beyond(least) <= most_bytes {
            return None;
        }
        self.least = Some(seen);
        let before = self.seen_at.replace(now);
        Some(before.is_some_and(|before| now < before + AGAIN))
    }
}

impl Least {
    /// Since then, beside what connections that came since take, and bodies. Those that went
    /// may have left theirs.
    fn beyond(self, least: Least) -> f64 {
        let connections = self.connections.saturating_sub(least.connections);
        let body_bytes = self.body_bytes.saturating_sub(least.body_bytes);
        self.bytes - least.bytes - f64::from(connections) * WAITER_BYTES - body_bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT_BYTES: f64 = (512 * MIB) as f64;

    /// Whether work is hidden after steps of so many MiB each: added by polls, allocated in
    /// all, and connections that came to wait, or left.
    fn is_hidden_after(steps: &[(i64, i64, i32)], all_told: bool) -> bool {
        let mut hidden = Hidden::default();
        let mut evidence = Evidence {
            all_told,
            told_bytes: Some(0),
            allocated_bytes: Some(100 * MIB),
            ..Evidence::default()
        };
        for _ in 0..3 {
            evidence.now += UNCOUNTED;
            hidden.see_added(&evidence, LIMIT_BYTES);
        }
        for &(in_polls, allocated, waiting) in steps {
            evidence.now += Duration::from_millis(10);
            let told = evidence.told_bytes.as_mut().unwrap();
            *told += in_polls << 20;
            let bytes = evidence.allocated_bytes.as_mut().unwrap();
            *bytes = bytes.strict_add_signed(allocated << 20);
            evidence.waiting = evidence.waiting.strict_add_signed(waiting);
            hidden.see_added(&evidence, LIMIT_BYTES);
        }
        !hidden.is_over(evidence.now)
    }

    #[test]
    fn what_is_allocated_while_nobody_is_polled_is_hidden() {
        assert!(!is_hidden_after(&[(5, 5, 0); 60], true));
        // Two threads for each poll.
        assert!(is_hidden_after(&[(5, 15, 0); 3], true));
        // Some of the polls tell nothing.
        assert!(!is_hidden_after(&[(5, 15, 0); 3], false));
    }

    #[test]
    fn what_others_free_meanwhile_does_not_hide_it() {
        let step = (5, 15, 0);
        assert!(is_hidden_after(&[(0, -48, 0), step, step], true));
        // But of less than that much between two of them nothing is seen.
        assert!(!is_hidden_after(&[(5, 12, 0), (0, -48, 0)].repeat(2), true));
        // Half of what they held stays, somewhere.
        assert!(!is_hidden_after(
            &[(10, 10, 0), (0, -5, 0)].repeat(60),
            true
        ));
    }

    #[test]
    fn connections_that_wait_are_no_work() {
        assert!(is_hidden_after(&[(0, 3, 0); 5], true));
        assert!(!is_hidden_after(&[(0, 3, 100); 5], true));
        // They leave, and their connections keep what they have.
        let left = [[(0, 0, 100); 9], [(0, 0, -100); 9]].concat();
        assert!(!is_hidden_after(&left, true));
    }

    #[test]
    fn bodies_whose_work_begins_are_no_work() {
        let mut hidden = Hidden::default();
        let mut seen = |second, allocated_mib: u64, body_mib: u64| {
            let evidence = Evidence {
                now: Duration::from_secs(second),
                all_told: true,
                told_bytes: Some(0),
                allocated_bytes: Some(allocated_mib * MIB),
                body_bytes: body_mib * MIB,
                ..Evidence::default()
            };
            hidden.see_added(&evidence, LIMIT_BYTES);
            !hidden.is_over(evidence.now)
        };
        assert!(!seen(1, 100, 0) && !seen(2, 100, 0));
        assert!(!seen(3, 120, 20), "a body comes");
        assert!(!seen(4, 120, 0), "its work begins, and holds it");
        assert!(seen(5, 140, 0));
    }

    #[test]
    fn seen_again_it_lasts_for_longer() {
        let once = &[(0, 10, 0)];
        let later = |times: usize, idle: usize| {
            let mut steps = once.repeat(times);
            steps.extend([(0, 0, 0)].repeat(idle));
            is_hidden_after(&steps, true)
        };
        assert!(later(1, 90));
        assert!(!later(1, 110));
        assert!(later(2, 2900));
        assert!(!later(2, 3100));
    }
}
