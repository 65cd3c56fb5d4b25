//! What the allocator keeps of freed memory, and would give back.

use std::time::Duration;

use super::lately::Lately;

/// Trimming is never counted on for all of it.
const MOST_EFFECTIVE: f64 = 0.9;
/// A trim of less than this shows nothing.
const LEAST_BYTES: f64 = (4u64 << 20) as f64;
/// Freed memory may be the allocator's for at least so long after it was freed.
const LATELY: Duration = Duration::from_secs(60);
/// Where less is left than after the last trim, that is so from then on with this half-life.
const FLOOR_HALF_LIFE: Duration = Duration::from_secs(1);
/// Until it was seen, so much of what is kept is taken to be used again, and never more.
const REUSED: f64 = 0.75;
/// Of growth by less, or with less kept, nothing is learned of that; and what is learned is an
/// average over so much.
const LEAST_GROWN_BYTES: f64 = (1u64 << 20) as f64;
const LEARNED_OVER_BYTES: f64 = (64u64 << 20) as f64;
/// How much the newest trim counts.
const STEP: f64 = 0.5;

/// Memory that is in use and not allocated, beyond what the last trim left, is
/// the allocator's, up to as much as was freed since. A trim would give back the
/// share of it that earlier trims did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retained {
    /// In use and not allocated, after the last trim, or less since.
    floor_bytes: f64,
    /// The most that was allocated since the last trim.
    high_water_bytes: f64,
    /// What trims gave back, as a share of what was expected of them; `None`: not known.
    effect: Option<f64>,
    usage_bytes: f64,
    /// What the process has allocated, as of the last full sample.
    pub(super) allocated_bytes: f64,
    lately: Lately,
    /// The most that was allocated lately, and when that was looked at.
    most_allocated_bytes: f64,
    observed: Duration,
    /// What is allocated finds so much less than [`REUSED`] of itself in what is kept.
    missed: f64,
}

impl Retained {
    pub(super) fn observe(&mut self, now: Duration, usage_bytes: f64, allocated_bytes: f64) {
        self.see_reuse(usage_bytes, allocated_bytes);
        let most = self.lately.see(now, LATELY, allocated_bytes, f64::max);
        self.most_allocated_bytes = most;
        let before = std::mem::replace(&mut self.observed, now);
        self.see(usage_bytes, allocated_bytes);
        // What was there beside all that is allocated has gone: bit by bit, since the two are
        // not known of the same moment.
        let elapsed = now.saturating_sub(before).as_secs_f64();
        let beside_bytes = usage_bytes - allocated_bytes;
        if beside_bytes < 0.0 {
            // What is allocated and not touched hides it.
            return;
        }
        let gone_bytes = self.floor_bytes - beside_bytes;
        let left = 0.5_f64.powf(elapsed / FLOOR_HALF_LIFE.as_secs_f64());
        self.floor_bytes -= gone_bytes.max(0.0) * (1.0 - left);
    }

    /// More is allocated than before: what usage has not risen by was kept.
    fn see_reuse(&mut self, usage_bytes: f64, allocated_bytes: f64) {
        let kept_bytes = self.most_bytes();
        let grown_bytes = allocated_bytes - self.allocated_bytes;
        if grown_bytes < LEAST_GROWN_BYTES || kept_bytes < LEAST_BYTES {
            return;
        }
        let could_bytes = kept_bytes.min(grown_bytes);
        let did_bytes = grown_bytes - (usage_bytes - self.usage_bytes);
        let reuse = (did_bytes / could_bytes).clamp(0.0, 1.0);
        let step = (could_bytes / LEARNED_OVER_BYTES).min(1.0);
        let known = self.reuse();
        self.missed = REUSED - known - (reuse - known) * step;
    }

    /// Of what is kept so much is taken to be used again.
    pub(super) fn reuse(&self) -> f64 {
        REUSED - self.missed.max(0.0)
    }

    fn see(&mut self, usage_bytes: f64, allocated_bytes: f64) {
        self.usage_bytes = usage_bytes;
        self.allocated_bytes = allocated_bytes;
        self.high_water_bytes = self.high_water_bytes.max(allocated_bytes);
    }

    /// Allocated, and not in use by this process.
    pub(super) fn untouched_bytes(&self) -> f64 {
        (self.allocated_bytes - self.usage_bytes).max(0.0)
    }

    /// What may be the allocator's, whether a trim would bring it or not: as much as was
    /// freed lately.
    pub(super) fn most_bytes(&self) -> f64 {
        self.most_bytes_of(0.0)
    }

    /// The same where it says that it keeps so much.
    pub(super) fn most_bytes_of(&self, kept_bytes: f64) -> f64 {
        let beside_bytes = self.usage_bytes - self.allocated_bytes;
        let freed_bytes = self.most_allocated_bytes - self.allocated_bytes;
        let kept_bytes = freed_bytes.max(kept_bytes);
        beside_bytes.min(kept_bytes).max(self.bytes())
    }

    fn kept_bytes(&self) -> f64 {
        let beside = self.usage_bytes - self.allocated_bytes - self.floor_bytes;
        let freed = self.high_water_bytes - self.allocated_bytes;
        beside.min(freed).max(0.0)
    }

    /// What a trim is expected to give back.
    pub(super) fn bytes(&self) -> f64 {
        self.kept_bytes() * self.effect.unwrap_or(0.0).min(MOST_EFFECTIVE)
    }

    /// A trim has something to give back, as far as can be told: one that has not takes
    /// its time all the same, and the next has to wait for that.
    pub(super) fn is_worth_a_trim(&self) -> bool {
        self.kept_bytes() >= LEAST_BYTES
    }

    /// What there is before a trim.
    pub(crate) fn before_trim(&self) -> BeforeTrim {
        BeforeTrim {
            beside_bytes: self.usage_bytes - self.allocated_bytes,
            kept_bytes: self.kept_bytes(),
            allocated_bytes: self.allocated_bytes,
        }
    }

    /// Memory was trimmed, and this is what is left.
    ///
    /// What was freed meanwhile may have been freed behind the trim, which takes some
    /// time: the allocator may keep it, and the trim is not to blame.
    pub(super) fn trimmed(&mut self, before: BeforeTrim, usage_bytes: f64, allocated_bytes: f64) {
        let most_bytes = allocated_bytes.max(before.allocated_bytes);
        let after = usage_bytes - most_bytes;
        if before.kept_bytes >= LEAST_BYTES {
            let share = (before.beside_bytes - after) / before.kept_bytes;
            let share = share.clamp(0.0, 1.0);
            let known = self.effect.unwrap_or(share);
            self.effect = Some(known + (share - known) * STEP);
        }
        // Less than nothing, if much was freed meanwhile: none of that is there any more.
        self.floor_bytes = after.max(0.0);
        self.high_water_bytes = most_bytes;
        self.see(usage_bytes, allocated_bytes);
    }
}

/// In use and not allocated before a trim, and what of it the allocator kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BeforeTrim {
    beside_bytes: f64,
    kept_bytes: f64,
    allocated_bytes: f64,
}

impl BeforeTrim {
    /// What has been freed since, if so much is allocated now.
    pub(crate) fn freed_since(self, allocated_bytes: u64) -> u64 {
        (self.allocated_bytes as u64).saturating_sub(allocated_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1u64 << 20) as f64;

    /// All was given back when it was asked for.
    fn trimmed() -> Retained {
        let mut retained = Retained {
            effect: Some(1.0),
            ..Retained::default()
        };
        retained.trimmed(retained.before_trim(), 20.0 * MIB, 10.0 * MIB);
        retained
    }

    #[test]
    fn what_trims_gave_back_before_is_counted_on() {
        let mut retained = Retained::default();
        retained.observe(Duration::ZERO, 300.0 * MIB, 100.0 * MIB);
        // Nothing is known of trims yet.
        assert_eq!(retained.bytes(), 0.0);
        retained.trimmed(retained.before_trim(), 110.0 * MIB, 100.0 * MIB);
        for _ in 0..5 {
            retained.observe(Duration::ZERO, 310.0 * MIB, 300.0 * MIB);
            retained.observe(Duration::ZERO, 310.0 * MIB, 100.0 * MIB);
            retained.trimmed(retained.before_trim(), 110.0 * MIB, 100.0 * MIB);
        }
        retained.observe(Duration::ZERO, 310.0 * MIB, 300.0 * MIB);
        assert_eq!(retained.bytes(), 0.0);
        retained.observe(Duration::ZERO, 310.0 * MIB, 200.0 * MIB);
        assert!((retained.bytes() / MIB - 90.0).abs() < 5.0, "{retained:?}");
    }

    #[test]
    fn what_is_freed_while_memory_is_trimmed_is_still_the_allocators() {
        let mut retained = trimmed();
        retained.observe(Duration::ZERO, 410.0 * MIB, 400.0 * MIB);
        let before = retained.before_trim();
        // All of it, behind the trim: usage still shows it.
        retained.trimmed(before, 410.0 * MIB, 10.0 * MIB);
        assert!(retained.bytes() > 300.0 * MIB, "{retained:?}");
        assert!(retained.is_worth_a_trim());
        retained.trimmed(retained.before_trim(), 20.0 * MIB, 10.0 * MIB);
        assert!(!retained.is_worth_a_trim());
        assert_eq!(before.freed_since(10 << 20), 390 << 20);
    }

    #[test]
    fn what_is_freed_and_given_back_while_memory_is_trimmed_is_nobodys() {
        let mut retained = trimmed();
        retained.observe(Duration::ZERO, 410.0 * MIB, 400.0 * MIB);
        retained.trimmed(retained.before_trim(), 20.0 * MIB, 10.0 * MIB);
        assert!(retained.bytes() <= 10.0 * MIB, "{retained:?}");
    }

    #[test]
    fn what_no_trim_brings_back_may_be_the_allocators_all_the_same() {
        let mut retained = Retained::default();
        let at = Duration::from_secs;
        retained.observe(at(0), 20.0 * MIB, 10.0 * MIB);
        retained.observe(at(1), 220.0 * MIB, 210.0 * MIB);
        retained.observe(at(2), 170.0 * MIB, 10.0 * MIB);
        retained.trimmed(retained.before_trim(), 170.0 * MIB, 10.0 * MIB);
        assert_eq!(
            (retained.bytes(), retained.most_bytes()),
            (0.0, 160.0 * MIB)
        );
        // Mapped on top of it.
        retained.observe(at(3), 300.0 * MIB, 10.0 * MIB);
        assert_eq!(retained.most_bytes(), 200.0 * MIB);
        // Nothing was freed for long.
        retained.observe(at(70), 300.0 * MIB, 10.0 * MIB);
        retained.observe(at(140), 300.0 * MIB, 10.0 * MIB);
        assert_eq!(retained.most_bytes(), 0.0);
    }

    #[test]
    fn what_is_kept_is_room_as_far_as_it_is_used_again() {
        let reuse_after = |risen_mib: f64| {
            let mut retained = Retained::default();
            retained.observe(Duration::ZERO, 310.0 * MIB, 300.0 * MIB);
            for round in 0..20 {
                // 40 MiB are freed, and allocated again.
                let usage = 310.0 + risen_mib * f64::from(round);
                retained.observe(Duration::ZERO, usage * MIB, 260.0 * MIB);
                retained.observe(Duration::ZERO, (usage + risen_mib) * MIB, 300.0 * MIB);
            }
            retained.reuse()
        };
        assert_eq!(Retained::default().reuse(), 0.75);
        assert_eq!(reuse_after(0.0), 0.75);
        assert!((reuse_after(20.0) - 0.5).abs() < 0.01);
        assert!(reuse_after(40.0) < 0.01);
    }

    #[test]
    fn what_no_trim_brought_back_and_has_gone_hides_nothing() {
        let at = Duration::from_secs;
        let mut retained = trimmed();
        // Mapped while it was trimmed.
        retained.observe(at(1), 410.0 * MIB, 10.0 * MIB);
        retained.trimmed(retained.before_trim(), 410.0 * MIB, 10.0 * MIB);
        (2..20).for_each(|second| retained.observe(at(second), 20.0 * MIB, 10.0 * MIB));
        retained.observe(at(20), 400.0 * MIB, 390.0 * MIB);
        retained.observe(at(21), 400.0 * MIB, 20.0 * MIB);
        assert!(retained.is_worth_a_trim(), "{retained:?}");
    }

    #[test]
    fn memory_that_was_never_allocated_is_not_the_allocators() {
        let mut retained = trimmed();
        // Mapped, not allocated.
        retained.observe(Duration::ZERO, 400.0 * MIB, 12.0 * MIB);
        assert_eq!(retained.bytes(), 0.0);
    }

    #[test]
    fn an_allocator_that_gives_nothing_back_is_not_counted_on() {
        let mut retained = trimmed();
        for _ in 0..6 {
            retained.observe(Duration::ZERO, 400.0 * MIB, 390.0 * MIB);
            retained.observe(Duration::ZERO, 400.0 * MIB, 10.0 * MIB);
            retained.trimmed(retained.before_trim(), 400.0 * MIB, 10.0 * MIB);
            retained.floor_bytes = 10.0 * MIB;
        }
        assert!(retained.effect.unwrap() < 0.02);
    }
}
