//! Tenants that come in the place of those that are gone.

use super::{FIRST_HOLD_MS, HOLD_PARTS, TENANTS, TenantAccount, TenantTable};
use crate::class::Quota;
use crate::sync::Ordering;

impl TenantAccount {
    /// Another tenant has its number from now on: what this one was served and entitled to,
    /// and its rejections, are forgotten. It holds nothing and waits for nothing.
    pub(crate) fn begin(&self) {
        self.entitle(Quota::default());
        self.served.store(0, Ordering::Relaxed);
        self.owed.store(0, Ordering::Relaxed);
        self.hold_parts
            .store(FIRST_HOLD_MS * HOLD_PARTS, Ordering::Relaxed);
        self.strikes.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn used(&self, came: u32) {
        if self.used.load(Ordering::Relaxed) != came {
            self.used.store(came, Ordering::Relaxed);
        }
    }

    fn is_idle(&self) -> bool {
        let held = self.held();
        // Whoever was parked may have given up since: the flag alone is nobody.
        let is_empty = held.count() == 0 && held.kib() == 0;
        is_empty && self.waiting.load(Ordering::Relaxed) == 0
    }
}

impl TenantTable {
    /// One more of a tenant's waits. Under the queue's lock.
    pub(in crate::limiter) fn joined(&self, tenant: u16) {
        if let Some(account) = self.named(tenant) {
            account.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One waits no longer. Under the queue's lock.
    pub(in crate::limiter) fn left(&self, tenant: u16) {
        if let Some(account) = self.named(tenant) {
            account.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The tenant that was not named for longest, of those that are idle; so many have come.
    pub(crate) fn longest_unused(&self, came: u32) -> Option<u16> {
        let tenants = (1..TENANTS as u16 - 1).zip(self.all_named());
        let idle = tenants.filter(|(_, account)| account.is_idle());
        let longest =
            idle.max_by_key(|(_, account)| came.wrapping_sub(account.used.load(Ordering::Relaxed)));
        longest.map(|(number, _)| number)
    }
}
