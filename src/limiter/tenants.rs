//! What each tenant of a guard has, may have, and has had.

mod idle;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32 as Number, AtomicU64 as Counter};
use std::time::Duration;

use super::lanes::LANES;
use super::word::{FLAG, MAX_COUNT, ONE, TenantUse};
use crate::class::Quota;
use crate::sync::{AtomicU64, Ordering};
use crate::units::MAX_KIB;

/// Tenants that are told apart, the nameless one and the one for the rest included.
pub(crate) const TENANTS: usize = 1024;
/// A tenant's requests are taken to last so long until some have ended.
const FIRST_HOLD_MS: u64 = 500;
/// Durations are averaged over about so many requests.
const HOLDS: u64 = 16;
/// Parts of a millisecond that averages are kept in.
const HOLD_PARTS: u64 = 256;
/// Service counts in so many parts, so that it can be divided by a weight.
const SERVICE_PARTS: i64 = 1024;

/// The tenants of one guard.
#[derive(Debug, Default)]
pub(crate) struct TenantTable {
    /// Of all that name none: it has no quota. Made when one of them waits.
    nameless: OnceLock<Box<TenantAccount>>,
    /// Of the others; made when the first one is named.
    named: OnceLock<Box<[TenantAccount]>>,
    /// What a tenant's largest share is a fraction of.
    limit_kib: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct TenantAccount {
    /// A flag (a flow of it waits until some of this is given back), requests in
    /// flight, KiB reserved.
    held: AtomicU64,
    weight: Number,
    max_in_flight: Number,
    max_share_bits: Counter,
    /// What it has had of contended memory, by its weight. Written under the queue's lock.
    served: AtomicI64,
    /// Served beyond what was expected when it was granted: KiB × ms.
    owed: AtomicI64,
    /// How long its requests take, on average.
    hold_parts: Counter,
    /// Rejections since, halved from time to time.
    strikes: Number,
    /// When it was named last, by the count of tenants that have come.
    used: Number,
    /// How many wait. Written under the queue's lock.
    waiting: Number,
    /// Where its flows stand in the queue, one above; 0: it has none yet.
    pub(super) flows: [Number; LANES],
}

impl TenantAccount {
    fn new() -> Self {
        let account = Self {
            hold_parts: Counter::new(FIRST_HOLD_MS * HOLD_PARTS),
            ..Self::default()
        };
        account.entitle(Quota::default());
        account
    }

    /// Sets what it is entitled to. Told for each request, it seldom changes, so it
    /// is looked at first.
    #[inline]
    pub(crate) fn entitle(&self, quota: Quota) {
        let weight = quota.weight.max(1);
        let bits = quota.max_share.to_bits();
        if self.weight.load(Ordering::Relaxed) != weight {
            self.weight.store(weight, Ordering::Relaxed);
        }
        if self.max_in_flight.load(Ordering::Relaxed) != quota.max_in_flight {
            self.max_in_flight
                .store(quota.max_in_flight, Ordering::Relaxed);
        }
        if self.max_share_bits.load(Ordering::Relaxed) != bits {
            self.max_share_bits.store(bits, Ordering::Relaxed);
        }
    }

    pub(crate) fn weight(&self) -> u64 {
        u64::from(self.weight.load(Ordering::Relaxed))
    }

    pub(crate) fn held(&self) -> TenantUse {
        TenantUse::of(self.held.load(Ordering::Relaxed))
    }

    /// So much more, for one more request (1) or for one that it has (0), if it stays
    /// within the quota.
    fn reserve(&self, requests: u32, kib: u64, limit_kib: u64, force: bool) -> bool {
        let most = self.max_in_flight.load(Ordering::Relaxed).min(MAX_COUNT);
        let most_kib = self.most_kib(limit_kib);
        let more = |current| {
            let held = TenantUse::of(current);
            let (count, total_kib) = (held.count() + requests, held.kib() + kib);
            // Each part binds those that add to it.
            let within = (requests == 0 || count <= most) && (kib == 0 || total_kib <= most_kib);
            // One request alone is not held back by the share: it could never run.
            let alone = count <= 1;
            let counted = count <= MAX_COUNT && total_kib <= MAX_KIB;
            let next = current + u64::from(requests) * ONE + kib;
            (counted && (force || within || alone)).then_some(next)
        };
        self.held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    fn most_kib(&self, limit_kib: u64) -> u64 {
        let max_share = f64::from_bits(self.max_share_bits.load(Ordering::Relaxed));
        match max_share < 1.0 {
            true => (limit_kib as f64 * max_share) as u64,
            false => MAX_KIB,
        }
    }

    /// So much less. `true` if a flow waits for that.
    fn give_back(&self, requests: u32, kib: u64) -> bool {
        let less = u64::from(requests) * ONE + kib;
        TenantUse::of(self.held.fetch_sub(less, Ordering::AcqRel)).is_parked()
    }

    /// A flow will wait until something is given back. Under the queue's lock, and
    /// before the attempt that decides whether it has to.
    pub(super) fn set_parked(&self) {
        self.held.fetch_or(FLAG, Ordering::AcqRel);
    }

    /// None waits any more. Under the queue's lock.
    pub(super) fn clear_parked(&self) {
        self.held.fetch_and(!FLAG, Ordering::AcqRel);
    }

    pub(super) fn served(&self) -> i64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Takes account of what its requests took beyond what was expected, or less. Says
    /// whether that changes anything. Under the queue's lock.
    pub(super) fn fold(&self) -> bool {
        let owed = self.owed.swap(0, Ordering::Relaxed);
        self.serve(owed);
        owed != 0
    }

    fn serve(&self, due: i64) {
        let by_weight = due.saturating_mul(SERVICE_PARTS) / i64::from(self.weight() as u32);
        let served = self.served().saturating_add(by_weight);
        self.served.store(served, Ordering::Relaxed);
    }

    /// What it was served counts from there on. Under the queue's lock.
    pub(super) fn go_back(&self, served: i64) {
        let since = self.served().saturating_sub(served);
        self.served.store(since, Ordering::Relaxed);
    }

    /// It wants something again: what others had meanwhile is not owed to it. Under
    /// the queue's lock.
    pub(super) fn catch_up(&self, now: i64) {
        self.fold();
        if self.served() < now {
            self.served.store(now, Ordering::Relaxed);
        }
    }

    /// It is granted `kib`, for as long as its requests take. Under the queue's lock.
    pub(super) fn charge(&self, kib: u64) {
        let parts = u128::from(kib) * u128::from(self.hold_parts.load(Ordering::Relaxed));
        let due = parts / u128::from(HOLD_PARTS);
        self.serve(i64::try_from(due).unwrap_or(i64::MAX / 4));
    }

    /// A request that was granted `kib` is over after so long.
    pub(crate) fn charge_actual(&self, kib: u64, elapsed: Duration) {
        let elapsed_parts = (elapsed.as_micros() as u64).saturating_mul(HOLD_PARTS) / 1000;
        let before = self.hold_parts.load(Ordering::Relaxed);
        let beyond_parts = i128::from(elapsed_parts) - i128::from(before);
        let beyond = i128::from(kib) * beyond_parts / i128::from(HOLD_PARTS);
        let beyond = beyond.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4));
        self.owed.fetch_add(beyond as i64, Ordering::Relaxed);
        let after = before - before / HOLDS + elapsed_parts / HOLDS;
        // Of two at once one may be lost: it is an average.
        self.hold_parts.store(after, Ordering::Relaxed);
    }

    /// One more rejection; how many there were lately.
    pub(crate) fn strike(&self) -> u32 {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn forgive(&self) {
        let half = |strikes| Some(strikes / 2);
        let _ = self
            .strikes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, half);
    }
}

impl TenantTable {
    /// A tenant; of one that is named the table is made if there is none yet.
    pub(crate) fn make(&self, tenant: u16) -> &TenantAccount {
        let made = || (1..TENANTS).map(|_| TenantAccount::new()).collect();
        match usize::from(tenant).checked_sub(1) {
            Some(at) => &self.named.get_or_init(made)[at],
            None => self.nameless(),
        }
    }

    /// A tenant that was named, or the nameless one.
    #[inline]
    pub(crate) fn get(&self, tenant: u16) -> &TenantAccount {
        self.named(tenant).unwrap_or_else(|| self.nameless())
    }

    fn nameless(&self) -> &TenantAccount {
        let made = || Box::new(TenantAccount::new());
        self.nameless.get_or_init(made)
    }

    /// Not the nameless one.
    #[inline]
    pub(super) fn named(&self, tenant: u16) -> Option<&TenantAccount> {
        let at = usize::from(tenant).checked_sub(1)?;
        self.named.get()?.get(at)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &TenantAccount> {
        let nameless = self.nameless.get().map(Box::as_ref);
        nameless.into_iter().chain(self.all_named())
    }

    /// In the order of their numbers, from 1 on.
    pub(crate) fn all_named(&self) -> impl Iterator<Item = &TenantAccount> {
        self.named.get().into_iter().flatten()
    }

    /// Quotas are fractions of this. Says whether it is another one than before.
    pub(super) fn set_limit(&self, limit_kib: u64) -> bool {
        self.limit_kib.swap(limit_kib, Ordering::Relaxed) != limit_kib
    }

    /// So much more for a tenant, for one more request (1) or for one that it has (0), if
    /// its quota allows it.
    #[inline]
    pub(crate) fn reserve(&self, tenant: u16, requests: u32, kib: u64, force: bool) -> bool {
        let limit_kib = || self.limit_kib.load(Ordering::Relaxed);
        self.named(tenant)
            .is_none_or(|account| account.reserve(requests, kib, limit_kib(), force))
    }

    #[inline]
    pub(super) fn give_back(&self, tenant: u16, requests: u32, kib: u64) -> bool {
        let left = |account: &TenantAccount| account.give_back(requests, kib);
        self.named(tenant).is_some_and(left)
    }

    pub(super) fn is_parked(&self, tenant: u16) -> bool {
        let account = self.named(tenant);
        account.is_some_and(|account| account.held().is_parked())
    }

    pub(super) fn park(&self, tenant: u16) {
        if let Some(account) = self.named(tenant) {
            account.set_parked();
        }
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_quota_binds_unless_the_request_is_alone() {
        let tenants = TenantTable::default();
        tenants.set_limit(1000);
        tenants.make(1).entitle(Quota::up_to(0.5).at_most(3));
        assert!(
            tenants.reserve(1, 1, 800, false),
            "alone, whatever it needs"
        );
        assert!(!tenants.reserve(1, 1, 1, false), "beyond its share");
        assert!(!tenants.give_back(1, 1, 800));
        assert!((0..3).all(|_| tenants.reserve(1, 1, 10, false)));
        assert!(!tenants.reserve(1, 1, 10, false), "beyond its count");
        assert!(tenants.reserve(2, 1, 900, false), "another tenant");
        tenants.make(1).set_parked();
        assert!(tenants.give_back(1, 1, 10), "somebody waits for it");
    }

    #[test]
    fn what_lasts_longer_than_expected_is_paid_for_later() {
        let account = TenantAccount::new();
        account.entitle(Quota::weighing(2));
        account.charge(10);
        let expected = 10 * FIRST_HOLD_MS as i64 * SERVICE_PARTS / 2;
        assert_eq!(account.served(), expected);
        account.charge_actual(10, Duration::from_millis(2 * FIRST_HOLD_MS));
        assert!(account.fold());
        assert_eq!(account.served(), 2 * expected);
        // And what it did not take it gets back.
        account
            .hold_parts
            .store(FIRST_HOLD_MS * HOLD_PARTS, Ordering::Relaxed);
        account.charge_actual(10, Duration::ZERO);
        assert!(account.fold() && !account.fold());
        assert_eq!(account.served(), expected);
    }
}
