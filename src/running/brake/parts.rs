//! What was let grow: what a pause could have stopped.
//!
//! Of a poll that is known when it is over, and until then what it may add is under way. So it
//! is of a part of work between two checkpoints, but nobody tells when the last one of some
//! work is over: for half a second at most a part counts as under way. One that takes longer
//! adds little in any moment.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Brake, Taken};
use crate::sync::{Ordering, lock};

const STEP_MS: u64 = 64;
const LASTS: u64 = 8;

/// Polls and work of which no allocator tells what they add, and parts of which it is not known
/// when they add what was counted as added: so many, ever, of all brakes.
pub(crate) static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// Parts under way that were let grow: what they may add, by the time when they began.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The step that is now.
    step: u64,
    bytes: [i64; LASTS as usize],
}

/// What was counted as added before it was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    bytes: i64,
    /// If it was let grow: the step in which it began.
    let_since: Option<u64>,
}

impl Parts {
    fn at(&mut self, step: u64) -> &mut i64 {
        &mut self.bytes[(step % LASTS) as usize]
    }

    /// What began long ago is forgotten.
    fn advance(&mut self, now: Duration) {
        let step = now.as_millis() as u64 / STEP_MS;
        let passed = step.saturating_sub(self.step).min(LASTS);
        (1..=passed).for_each(|one| *self.at(step - passed + one) = 0);
        self.step = self.step.max(step);
    }

    fn begin(&mut self, bytes: i64, now: Duration) -> u64 {
        self.advance(now);
        let step = self.step;
        *self.at(step) += bytes;
        step
    }

    fn end(&mut self, bytes: i64, since: u64) {
        // Otherwise it is forgotten already.
        if self.step < since + LASTS {
            *self.at(since) -= bytes;
        }
    }
}

impl Taken {
    /// Counts as added what was taken for a part of work, until a sample shows what really
    /// was. To be [ended](Brake::end_part) if its end is told.
    pub(crate) fn begin_part(self, now: Duration) -> Ahead {
        UNTOLD.fetch_add(1, Ordering::Relaxed);
        let brake = self.brake;
        let bytes = self.bytes;
        // First, as with what a poll has added: for a moment both count.
        brake.grown.fetch_add(bytes, Ordering::AcqRel);
        let parts = || lock(&brake.parts);
        let let_since = self.was_let.then(|| parts().begin(bytes, now));
        Ahead { bytes, let_since }
    }

    /// Counts as added, and as let grow, what was taken for a part of which nobody tells what
    /// it adds, nor when it is over. At once: under way for half a second it would hide for
    /// as long what nobody lets grow, and as nothing it would look like that itself.
    pub(crate) fn charge_all(self) {
        UNTOLD.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes;
        self.charge(bytes);
    }
}

impl Brake {
    /// A part is over, and has added so much.
    pub(crate) fn end_part(&self, ahead: Ahead, grown_bytes: i64) {
        let grown_bytes = grown_bytes.max(0);
        let more_bytes = grown_bytes.saturating_sub(ahead.bytes).max(0);
        self.grown.fetch_add(more_bytes, Ordering::AcqRel);
        if let Some(since) = ahead.let_since {
            self.let_grown.fetch_add(grown_bytes, Ordering::AcqRel);
            lock(&self.parts).end(ahead.bytes, since);
        }
    }

    /// What was added that was let grow, and what of that kind is under way and may come. To
    /// be read before usage is.
    pub(crate) fn let_grow_bytes(&self, now: Duration) -> (i64, i64) {
        // In this order: what is over between these counts as if it were under way still.
        let ongoing = self.ongoing.load(Ordering::Acquire);
        let polls = ongoing - self.unheld_ongoing.load(Ordering::Acquire);
        let parts: i64 = {
            let mut parts = lock(&self.parts);
            parts.advance(now);
            parts.bytes.iter().sum()
        };
        let let_grown = self.let_grown.load(Ordering::Acquire);
        (let_grown, (polls + parts).max(0))
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn brake() -> &'static Brake {
        Box::leak(Box::default())
    }

    fn begin(brake: &'static Brake, bytes: u64, now: Duration) -> Ahead {
        brake.begin(bytes, true).begin_part(now)
    }

    #[test]
    fn what_a_part_may_add_is_under_way_and_let_grow_is_what_it_adds() {
        let brake = brake();
        let ahead = begin(brake, 6, ms(10));
        assert_eq!(brake.let_grow_bytes(ms(10)), (0, 6));
        brake.end_part(ahead, 2);
        assert_eq!(brake.let_grow_bytes(ms(20)), (2, 0));
        // What samples have to show still.
        assert_eq!(brake.grown_bytes(), 6);
        let ahead = begin(brake, 6, ms(30));
        brake.end_part(ahead, 7);
        assert_eq!(brake.let_grow_bytes(ms(40)), (9, 0));
        assert_eq!(brake.grown_bytes(), 13);
    }

    #[test]
    fn parts_are_counted_since_nobody_knows_when_they_add_what_they_took() {
        let brake = brake();
        let before = UNTOLD.load(Ordering::Relaxed);
        begin(brake, 6, ms(10));
        brake.begin(6, true).charge_all();
        assert!(UNTOLD.load(Ordering::Relaxed) >= before + 2);
    }

    #[test]
    fn a_part_that_nobody_could_hold_back_was_not_let_grow() {
        let brake = brake();
        let ahead = brake.take_anyway(6).begin_part(ms(10));
        assert_eq!(brake.let_grow_bytes(ms(10)), (0, 0));
        brake.end_part(ahead, 7);
        assert_eq!(
            (brake.let_grow_bytes(ms(10)), brake.grown_bytes()),
            ((0, 0), 7)
        );
    }

    #[test]
    fn a_part_whose_end_nobody_tells_is_not_under_way_for_ever() {
        let brake = brake();
        let lost = begin(brake, 6, ms(1000));
        begin(brake, 3, ms(1200));
        assert_eq!(brake.let_grow_bytes(ms(1400)), (0, 9));
        assert_eq!(brake.let_grow_bytes(ms(1600)), (0, 3));
        assert_eq!(brake.let_grow_bytes(ms(9000)), (0, 0));
        // It takes nothing off that others may add.
        let other = begin(brake, 5, ms(9000));
        brake.end_part(lost, 4);
        assert_eq!(brake.let_grow_bytes(ms(9000)), (4, 5));
        brake.end_part(other, 5);
        assert_eq!(brake.let_grow_bytes(ms(9000)), (9, 0));
    }

    #[test]
    fn of_what_nobody_tells_all_was_let_grow_at_once() {
        let brake = brake();
        brake.begin(6, true).charge_all();
        assert_eq!(brake.let_grow_bytes(ms(10)), (6, 0));
    }
}
