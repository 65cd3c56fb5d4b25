//! Reserving: one function, whatever asks.

use super::{Counted, Ledger, Refused};
use crate::limiter::bounds::{Ask, Bounds};
use crate::limiter::checks::{Attempt, Checks, Most, Operation};
use crate::limiter::word::{Caps, InUse, MAX_COUNT};
use crate::sync::Ordering;
use crate::units::MAX_KIB;

struct Asked<'a> {
    bounds: &'a Bounds,
    /// As they were when the gate was looked at.
    caps: Caps,
    slice_kib: u64,
    ask: Ask,
    kib: u64,
    operation: Operation,
    checks: Checks,
}

impl Ledger {
    /// Reserves what `ask` says. `Ok(true)` if nothing was in flight before. Where it is known
    /// when it is compiled what asks, the rest of the questions go away.
    #[inline(always)]
    pub(in crate::limiter) fn reserve(
        &self,
        bounds: &Bounds,
        ask: Ask,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        let slice_kib = bounds.slice_kib(ask.tag);
        let kib = match operation {
            Operation::Retag { held_kib } => ask.kib.saturating_sub(held_kib),
            Operation::Rest { .. } if ask.kib == 0 => return Ok(false),
            _ => ask.kib,
        };
        let asked = Asked {
            bounds,
            // Acquire: pairs with `publish`, whose other fields are read below.
            caps: bounds.caps(),
            slice_kib,
            ask,
            kib,
            operation,
            checks: Checks::of(operation, attempt, slice_kib > 0),
        };
        if asked.checks.gate && asked.caps.is_shut() {
            return Err(Refused::Gate);
        }
        let (tenant, requests) = (ask.tag.tenant, operation.of_tenant());
        let past_quota = !asked.checks.quota;
        if !bounds
            .tenants
            .reserve(tenant, requests, ask.kib, past_quota)
        {
            return Err(Refused::Quota);
        }
        let reserved = match operation.is_new() {
            true => self.reserve_new(&asked),
            false if kib == 0 => Ok(false),
            false => self.reserve_word(&asked, MAX_COUNT, Counted::Before),
        };
        if reserved.is_err() {
            bounds.tenants.give_back(tenant, requests, ask.kib);
            return reserved;
        }
        bounds.add_critical(ask.tag, ask.kib);
        if operation == Operation::Nested {
            self.nested.fetch_add(1, Ordering::Relaxed);
        }
        reserved
    }

    #[inline(always)]
    fn reserve_new(&self, asked: &Asked<'_>) -> Result<bool, Refused> {
        let cap = match asked.checks.count {
            true => asked.caps.count(),
            false => MAX_COUNT,
        };
        let Some(counted) = self.count_in(asked.bounds, cap) else {
            return Err(Refused::Count);
        };
        let reserved = self.reserve_word(asked, cap, counted);
        if reserved.is_err() {
            self.count_out(asked.bounds);
        }
        reserved
    }

    #[inline(always)]
    fn reserve_word(&self, asked: &Asked<'_>, cap: u32, counted: Counted) -> Result<bool, Refused> {
        // Acquire: whoever sees a release sees what it counted as finished.
        let mut current = self.word.load(Ordering::Acquire);
        loop {
            let word = InUse::of(current);
            if counted == Counted::InWord && word.count() >= cap {
                return Err(Refused::Count);
            }
            let is_idle = self.is_idle_at(word, counted);
            if let Some(refused) = self.refuses(word, asked, is_idle) {
                return Err(refused);
            }
            // AcqRel: an admission sees what the releases before it did.
            match self.word.compare_exchange_weak(
                current,
                current + counted.unit() + asked.kib,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(is_idle || counted == Counted::Beside { is_first: true }),
                Err(actual) => current = actual,
            }
        }
    }

    #[inline(always)]
    fn refuses(&self, word: InUse, asked: &Asked<'_>, is_idle: bool) -> Option<Refused> {
        let Asked { bounds, checks, .. } = asked;
        let total_kib = word.kib() + asked.kib;
        if total_kib > MAX_KIB {
            return Some(Refused::Bytes);
        }
        if checks.waiters && word.has_waiters() {
            return Some(Refused::Waiters);
        }
        if checks.staleness && total_kib > bounds.refresh_kib.load(Ordering::Relaxed) {
            return Some(Refused::Stale);
        }
        let fits = match checks.most {
            Most::Allowance => {
                total_kib <= asked.caps.kib() + asked.slice_kib
                    || bounds.critical_kib() + asked.ask.kib <= asked.slice_kib
                    || (checks.alone && self.fits_alone(word, asked, is_idle))
            }
            Most::Limit(limit_kib) => self.unended(word).kib() + asked.kib <= limit_kib,
            Most::Countable => true,
        };
        (!fits).then_some(Refused::Bytes)
    }

    /// There is no end to wait for, and what is surely needed is free.
    #[inline(always)]
    fn fits_alone(&self, word: InUse, asked: &Asked<'_>, is_idle: bool) -> bool {
        let free_kib = asked.bounds.free_kib();
        match asked.operation {
            // Where no work has begun none will end. The bodies of the others take their
            // part of what is free; its own has been read, so usage shows it.
            Operation::Rest { held_kib } => {
                let others_kib = word.kib().saturating_sub(held_kib);
                self.only_staged() && others_kib + asked.ask.low_kib <= free_kib
            }
            _ => is_idle && asked.ask.low_kib <= free_kib,
        }
    }

    /// Makes a reservation of `held_kib`, made before it was known for what, one for `ask`.
    /// `Ok(true)`: it became smaller, and somebody waits.
    pub(in crate::limiter) fn retag(
        &self,
        bounds: &Bounds,
        held_kib: u64,
        ask: Ask,
        attempt: Attempt,
    ) -> Result<bool, Refused> {
        self.reserve(bounds, ask, Operation::Retag { held_kib }, attempt)?;
        let less_kib = held_kib.saturating_sub(ask.kib);
        let before = self.word.fetch_sub(less_kib, Ordering::AcqRel);
        Ok(less_kib > 0 && InUse::of(before).has_waiters())
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::class::tag::Tag;
    use crate::class::{Priority, Quota};
    use crate::limiter::bounds::Need;
    use crate::limiter::count::GuardCount;
    use crate::limiter::tenants::TenantTable;

    #[test]
    fn what_is_not_used_is_given_back_and_the_request_goes_on() {
        let tenants = Arc::new(TenantTable::default());
        tenants.set_limit(1000);
        tenants.make(1).entitle(Quota::up_to(0.5));
        let (ledger, bounds) = (Ledger::default(), Bounds::new(GuardCount::InWord, tenants));
        let tag = Tag {
            tenant: 1,
            priority: Priority::Critical,
            ..Tag::NONE
        };
        let ask = |kib| Ask::exactly(kib, tag);
        let need = Need::More { tag, held_kib: 100 };
        let held = |count, kib| {
            let of_tenant = bounds.tenants.make(1).held();
            assert_eq!((of_tenant.count(), of_tenant.kib()), (count, kib));
            assert_eq!((ledger.load().count(), ledger.load().kib()), (count, kib));
            assert_eq!(bounds.critical_kib(), kib);
        };
        let first = |kib, operation| ledger.reserve(&bounds, ask(kib), operation, Attempt::First);
        let rest = Operation::Rest { held_kib: 100 };
        for _ in 0..2 {
            first(100, Operation::Newcomer).unwrap();
        }
        let beyond_its_share = first(301, rest);
        assert_eq!(beyond_its_share, Err(Refused::Quota));
        held(2, 200);
        first(300, rest).unwrap();
        held(2, 500);
        ledger.cancel_need(&bounds, 300, need);
        held(2, 200);
        // Alone, it is not held back by its share.
        ledger.cancel(&bounds, 100, tag);
        first(800, rest).unwrap();
        held(1, 900);
        ledger.complete(&bounds, 900, tag);
        held(0, 0);
    }
}
