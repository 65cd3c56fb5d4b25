//! For how long nobody could be admitted, and nobody finished.

use std::time::Duration;

use super::{Control, Regulator};

/// Changes with every admission and every end, of this guard's or another's on its
/// ledger: what others hold is a reason to wait, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved {
    completed: u64,
    in_flight: u32,
    given_back_kib: u64,
    all_in_flight: u32,
}

/// Since when new work has been kept out.
#[derive(Debug, Default)]
pub(super) struct Latched {
    since: Option<Duration>,
    seen: Moved,
}

impl Latched {
    fn observe(&mut self, now: Duration, kept_out: bool, seen: Moved) -> Option<Duration> {
        let moves = std::mem::replace(&mut self.seen, seen) != seen;
        self.since = match self.since {
            _ if !kept_out => None,
            Some(since) if !moves => Some(since),
            _ => Some(now),
        };
        self.since
    }
}

impl Regulator {
    pub(super) fn observe_latched(&self, control: &mut Control, now: Duration) {
        // A probe that waits for a taker would be admitted.
        let kept_out = control.kept_out && control.probes == 0 && self.state.bounds.probes() == 0;
        let seen = Moved {
            completed: control.completed,
            in_flight: self.state.in_flight(),
            given_back_kib: self.state.limiter.ended_kib(),
            all_in_flight: self.state.limiter.all_in_flight(),
        };
        let since = control.latched.observe(now, kept_out, seen);
        (self.state.shown).change(|shown| shown.latched_since = since);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::guard::state::Summary;
    use crate::{Cost, ManualSource, MemoryGuardLayer};

    #[test]
    fn while_somebody_is_paused_nobody_is_let_in() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 30));
        let layer = builder.cancel(true).build().unwrap();
        let (guard, state) = (layer.guard(), layer.guard().state());
        let permit = guard.try_acquire(Cost::Estimated).unwrap();
        let kept_out = || {
            guard.sample_now();
            let control = guard.regulator.control();
            let mut shown = Summary::default();
            control.show(0, &mut shown);
            (shown.kept_out, control.latched.since.is_some())
        };
        assert_eq!(kept_out(), (false, false));
        let (slot, now) = (permit.slot().unwrap(), state.sampler.tick());
        let (brake, own) = (state.brake, state.board_key());
        let place = brake.park(None, slot, own, Waker::noop(), now);
        // Readiness goes by what is no pause.
        assert_eq!(kept_out(), (true, false));
        brake.unpark(place, now);
        assert_eq!(kept_out(), (false, false));
    }

    #[test]
    fn counts_from_where_nothing_moved_any_more() {
        let mut latched = Latched::default();
        let mut at = |second, kept_out, (completed, in_flight)| {
            let seen = Moved {
                completed,
                in_flight,
                ..Moved::default()
            };
            let since = latched.observe(Duration::from_secs(second), kept_out, seen);
            since.map(|since| since.as_secs())
        };
        assert_eq!(at(1, false, (0, 3)), None);
        assert_eq!(at(2, true, (0, 3)), Some(2));
        assert_eq!(at(9, true, (0, 3)), Some(2));
        // One finished.
        assert_eq!(at(10, true, (1, 2)), Some(10));
        // One was admitted.
        assert_eq!(at(20, true, (1, 3)), Some(20));
        assert_eq!(at(49, true, (1, 3)), Some(20));
        assert_eq!(at(50, false, (1, 3)), None);
        assert_eq!(at(51, true, (1, 3)), Some(51));
    }
}
