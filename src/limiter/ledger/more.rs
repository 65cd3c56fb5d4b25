//! More for a request that is counted already: it was admitted for its body alone, and
//! now its work is to begin.

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::{Ledger, Mode, Refused, Released, refuses};
use crate::limiter::bounds::{Ask, Bounds, Need};
use crate::limiter::word::Packed;
use crate::sync::Ordering;

/// Requests whose work has not begun. Not model-checked: they hand nothing over.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: AtomicU32,
    read_bytes: AtomicU64,
}

/// Requests whose work has not begun, and what they have read of their bodies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Staged {
    pub(crate) requests: u32,
    pub(crate) read_bytes: u64,
}

impl Ledger {
    pub(crate) fn staged(&self) -> Staged {
        Staged {
            requests: self.staged.requests.load(Ordering::Relaxed),
            read_bytes: self.staged.read_bytes.load(Ordering::Relaxed),
        }
    }

    /// A request was admitted for its body.
    pub(crate) fn stage(&self) {
        self.staged.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them has read so much more.
    pub(crate) fn stage_read(&self, bytes: u64) {
        self.staged.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Its work begins, or never will; it had read so much.
    pub(crate) fn unstage(&self, read_bytes: u64) {
        self.staged.requests.fetch_sub(1, Ordering::Relaxed);
        self.staged
            .read_bytes
            .fetch_sub(read_bytes, Ordering::Relaxed);
    }

    /// No work has begun: all that is in flight are bodies.
    pub(crate) fn only_staged(&self) -> bool {
        self.all_in_flight() <= self.staged().requests
    }

    /// Reserves what `ask` says for a request that has `held_kib`, and is counted.
    pub(crate) fn try_more(
        &self,
        bounds: &Bounds,
        ask: Ask,
        held_kib: u64,
        mode: Mode,
    ) -> Result<(), Refused> {
        if ask.kib == 0 {
            return Ok(());
        }
        let limits = bounds.limits();
        let slice_kib = bounds.slice_kib(ask.tag);
        let passes = mode == Mode::Force || slice_kib > 0;
        if limits.flag() && !passes {
            return Err(Refused::Gate);
        }
        if !bounds.shares.enter_more(ask.tag.tenant, ask.kib, passes) {
            return Err(Refused::Quota);
        }
        let mut current = self.load().0;
        loop {
            let word = Packed(current);
            // Where no work has begun there is no end of work to wait for: it runs if what
            // it surely needs is free, beside the bodies of the others. Its own has been
            // read, so usage shows it.
            let others_kib = word.kib().saturating_sub(held_kib);
            let alone = || self.only_staged() && others_kib + ask.low_kib <= bounds.idle_kib();
            if let Some(refused) = refuses(word, bounds, limits, slice_kib, ask, mode, alone) {
                bounds.shares.leave_more(ask.tag.tenant, ask.kib);
                return Err(refused);
            }
            // AcqRel: an admission sees what the releases before it did.
            match self.word.compare_exchange_weak(
                current,
                current + ask.kib,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(actual) => current = actual,
            }
        }
        bounds.hold(ask.tag, ask.kib);
        Ok(())
    }

    /// Gives back what was reserved for a need, and never used.
    pub(crate) fn undo(&self, bounds: &Bounds, kib: u64, need: Need) -> Released {
        let tag = need.tag();
        if !matches!(need, Need::More { .. }) {
            return self.release(bounds, kib, tag);
        }
        // The request itself goes on.
        bounds.let_go(tag, kib);
        let of_tenant = bounds.shares.leave_more(tag.tenant, kib);
        let before = self.word.fetch_sub(kib, Ordering::AcqRel);
        Released {
            somebody_waits: Packed(before).flag(),
            of_tenant,
        }
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::class::Priority;
    use crate::class::tag::Tag;
    use crate::limiter::shares::{Quota, Shares};

    #[test]
    fn what_is_not_used_is_given_back_and_the_request_goes_on() {
        let shares = Arc::new(Shares::default());
        shares.set_limit(1000);
        shares.make(1).entitle(Quota {
            max_share: 0.5,
            ..Quota::default()
        });
        let (ledger, bounds) = (Ledger::new(), Bounds::new(true, shares));
        let tag = Tag {
            tenant: 1,
            priority: Priority::Critical,
            ..Tag::NONE
        };
        let ask = |kib| Ask {
            kib,
            low_kib: kib,
            tag,
        };
        let need = Need::More { tag, held_kib: 100 };
        let held = |count, kib| {
            let of_tenant = bounds.shares.make(1).held();
            assert_eq!((of_tenant.count(), of_tenant.kib()), (count, kib));
            assert_eq!((ledger.load().count(), ledger.load().kib()), (count, kib));
            assert_eq!(bounds.critical_kib(), kib);
        };
        for _ in 0..2 {
            ledger
                .try_reserve(&bounds, ask(100), Mode::Newcomer)
                .unwrap();
        }
        let beyond_its_share = ledger.try_more(&bounds, ask(301), 100, Mode::Newcomer);
        assert_eq!(beyond_its_share, Err(Refused::Quota));
        held(2, 200);
        ledger
            .try_more(&bounds, ask(300), 100, Mode::Newcomer)
            .unwrap();
        held(2, 500);
        ledger.undo(&bounds, 300, need);
        held(2, 200);
        // Alone, it is not held back by its share.
        ledger.release(&bounds, 100, tag);
        ledger
            .try_more(&bounds, ask(800), 100, Mode::Newcomer)
            .unwrap();
        held(1, 900);
        ledger.finish(&bounds, 900, tag);
        held(0, 0);
    }
}
