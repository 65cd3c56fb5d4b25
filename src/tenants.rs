//! The names of tenants, and the tiers they are in.

use std::sync::Arc;

use crate::class::Tier;
use crate::limiter::{Quota, Shares, TENANTS};
use crate::names::Names;

/// Tenants by number, each with what its tier entitles it to.
#[derive(Debug)]
pub(crate) struct Tenants {
    names: Names,
    tiers: Vec<Tier>,
    shares: Arc<Shares>,
}

impl Tenants {
    pub(crate) fn new(tiers: Vec<Tier>) -> Self {
        Self {
            names: Names::new(TENANTS as u16),
            tiers,
            shares: Arc::default(),
        }
    }

    /// What the tenants have, for the limiter.
    pub(crate) fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    /// The tenant's number; its tier is the one it was named with last.
    #[inline]
    pub(crate) fn number(&self, tenant: &str, tier: &str) -> u16 {
        if tenant.is_empty() && tier.is_empty() {
            return 0;
        }
        // A tier without a tenant is one tenant of that tier.
        let name = if tenant.is_empty() { tier } else { tenant };
        let number = self.names.number(name);
        let tier = self.tiers.iter().find(|known| known.name == tier);
        let quota = tier.map_or_else(Quota::default, Quota::from);
        self.shares.make(number).entitle(quota);
        number
    }
}

impl From<&Tier> for Quota {
    fn from(tier: &Tier) -> Self {
        Self {
            weight: tier.weight,
            max_share: tier.max_share,
            max_in_flight: tier.max_in_flight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_entitled_by_its_tier() {
        let gold = Tier::new("gold").weight(8).max_in_flight(1);
        let tenants = Tenants::new(vec![gold]);
        assert_eq!(tenants.number("", ""), 0);
        let acme = tenants.number("acme", "gold");
        assert_eq!(tenants.number("acme", ""), acme);
        assert_ne!(tenants.number("", "gold"), 0);
    }
}
