//! Memory that a permit's work turns out to need.

use super::Permit;
use crate::error::{Reason, Rejected};
use crate::limiter::{Attempt, Operation};
use crate::running::{Fact, Slot};
use crate::units::kib;

impl Permit {
    /// Says that the work holds so many bytes which the allocator does not see:
    /// a wasm memory, a V8 heap, a child process, a mapped file's dirty pages.
    /// Each call replaces what the one before said.
    ///
    /// Never waits and never fails: what goes beyond the reservation is added to
    /// it, visibly, and holds back others until the work is done. More than 64 TiB count as
    /// those.
    pub fn report(&self, bytes: u64) {
        let holder = self.holder();
        let Some(slot) = holder.slot_or_take() else {
            return;
        };
        slot.report(bytes);
        let missing_kib = slot.claim_up_to(kib(slot.peak_bytes()));
        if missing_kib == 0 {
            return;
        }
        match holder.own.state.force_more(missing_kib, holder.own.tag) {
            // More than the ledger's word can count.
            0 => slot.unclaim(missing_kib),
            // Beyond what was foreseen.
            _ => slot.say(Fact::Grown),
        }
    }

    /// Reserves `bytes` more, for work that turns out to need them.
    ///
    /// Never waits: work that held memory while it waited for more could wait
    /// for itself.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with [`Reason::NoRoom`] if so much is not free now, or is more than the
    /// work's tenant may have beside its other work, [`Reason::NeverFits`] if all of the
    /// limit is less. What was reserved stays. In [observe mode](crate::Config::mode) it
    /// passes, as all does.
    pub fn try_grow(&self, bytes: u64) -> Result<(), Rejected> {
        if bytes == 0 {
            return Ok(());
        }
        let holder = self.holder();
        let state = holder.own.state;
        let total_bytes = self.bytes().saturating_add(bytes);
        if !state.live.only_observes() && state.shown.never_fits(kib(total_bytes)) {
            return Err(state.rejection(Reason::NeverFits));
        }
        let grown = holder
            .slot_or_take()
            .is_some_and(|slot| holder.grow(slot, kib(bytes)));
        match grown {
            true => Ok(()),
            // The work goes on: nobody was turned away.
            false => Err(state.rejection(Reason::NoRoom)),
        }
    }

    fn grow(&self, slot: &Slot, kib: u64) -> bool {
        let grow = |attempt| {
            let growth = Operation::Growth;
            (self.own.state).reserve_more(kib, self.own.tag, growth, attempt)
        };
        let grown = match self.own.state.live.only_observes() {
            true => grow(Attempt::PastBounds).is_ok(),
            false => self.own.state.resampling(grow).is_ok(),
        };
        if grown {
            slot.top_up(kib);
            slot.say(Fact::Grown);
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use crate::class::tag::Tag;
    use crate::classify::labels::Demand;
    use crate::guard::admission::{Admission, no_deadline};
    use crate::{ManualSource, MemoryGuardLayer, Permit};

    const MIB: u64 = 1 << 20;

    fn admitted(admission: Admission) -> Permit {
        match admission {
            Admission::Admitted(permit) => permit,
            _ => panic!("there is room"),
        }
    }

    #[test]
    fn what_work_grows_by_is_the_outermost_guards_through_however_many() {
        let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1000 * MIB));
        let layer = builder
            .estimated_bytes_per_request(1024)
            .max_pause(std::time::Duration::ZERO)
            .build()
            .unwrap();
        let state = layer.guard().state();
        for tag in [Tag::NONE, Tag::of_tenant(1)] {
            state.bounds.tenants().make(1);
            let demand = Demand {
                need: crate::limiter::Need::Estimated(tag),
                ..Demand::NONE
            };
            let mut permit = admitted(state.admit(demand, &no_deadline));
            for _ in 0..2 {
                let outer = permit;
                permit = admitted(state.admit_counted(demand, false, &no_deadline));
                permit.keep(outer);
            }
            permit.report(100 * MIB);
            permit.try_grow(100 * MIB).unwrap();
            assert_eq!(permit.bytes(), 200 * MIB);
            assert_eq!(state.limiter.reserved().kib(), 200 << 10);
            drop(permit);
            assert_eq!(state.limiter.reserved().kib(), 0);
            assert_eq!(state.bounds.tenants().make(1).held().kib(), 0);
        }
    }
}
