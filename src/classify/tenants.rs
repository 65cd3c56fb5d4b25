//! The tenants that a guard knows, by number, and the tiers they are in.
//!
//! Reading takes no lock. Of a name only a hash is kept, with a key that nobody knows: two
//! tenants of a full table are taken for one with a probability of one in 10^13. Once all
//! numbers are given out, whoever comes takes that of the one unused longest, of those that
//! hold nothing and wait for nothing.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::class::{Quota, Tier};
use crate::limiter::{TENANTS, TenantTable};

/// The number of those that come while all others are busy.
const OTHERS: u16 = TENANTS as u16 - 1;
/// Open addressing, twice as many places as numbers.
const PLACES: usize = TENANTS * 2;
/// The low bits of a place are the tenant's number, the others those of its name's hash.
const NUMBER: u64 = TENANTS as u64 - 1;

/// Tenants by number, each with what its tier entitles it to.
#[derive(Debug)]
pub(crate) struct Tenants {
    /// Made when the first one is named.
    table: OnceLock<Table>,
    tiers: Vec<Tier>,
    accounts: Arc<TenantTable>,
}

impl Tenants {
    pub(crate) fn new(tiers: Vec<Tier>) -> Self {
        Self {
            table: OnceLock::new(),
            tiers,
            accounts: Arc::default(),
        }
    }

    pub(crate) fn accounts(&self) -> &Arc<TenantTable> {
        &self.accounts
    }

    /// The tenant's number; its tier is the one it was named with last, and stays where a
    /// request names none.
    #[inline]
    pub(crate) fn number(&self, tenant: &str, tier: &str) -> u16 {
        if tenant.is_empty() && tier.is_empty() {
            return 0;
        }
        // A tier without a tenant is one tenant of that tier, and none of its name.
        let name = match tenant.is_empty() {
            true => Name::Tier(tier),
            false => Name::Tenant(tenant),
        };
        let table = self.table.get_or_init(Table::new);
        let number = table.number(name, &self.accounts);
        let account = self.accounts.make(number);
        // Those that share a number are told apart by nothing else.
        if !tier.is_empty() || number == OTHERS {
            let tier = self.tiers.iter().find(|known| known.name == tier);
            account.entitle(tier.map_or_else(Quota::default, |tier| tier.quota));
        }
        account.used(table.came.load(Ordering::Relaxed));
        number
    }
}

#[derive(Hash)]
enum Name<'a> {
    Tenant(&'a str),
    Tier(&'a str),
}

#[derive(Debug)]
struct Table {
    /// 0: empty. A reader that misses what is being moved looks again under the lock.
    places: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Tenants that have come so far: the clock by which one is unused for long.
    came: AtomicU32,
    /// Numbers given out, the empty name's included.
    count: Mutex<u16>,
}

impl Table {
    fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            came: AtomicU32::new(0),
            count: Mutex::new(1),
        }
    }

    #[inline]
    fn number(&self, name: Name<'_>, accounts: &TenantTable) -> u16 {
        let hash = self.hasher.hash_one(name);
        let found = self.find(hash);
        found.unwrap_or_else(|_| self.add(hash, accounts))
    }

    /// The number of the name with this hash, or the place where it would stand.
    fn find(&self, hash: u64) -> Result<u16, usize> {
        let mut at = home(hash);
        // While others are moved one might see no end.
        for _ in 0..PLACES {
            let place = self.places[at].load(Ordering::Acquire);
            if place == 0 {
                break;
            }
            if place & !NUMBER == hash & !NUMBER {
                return Ok((place & NUMBER) as u16);
            }
            at = next(at);
        }
        Err(at)
    }

    #[cold]
    fn add(&self, hash: u64, accounts: &TenantTable) -> u16 {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(number) = self.find(hash) {
            return number;
        }
        let number = if *count < OTHERS {
            *count += 1;
            *count - 1
        } else {
            // A request that has found the old name's number just now counts as the new
            // one's, from its beginning to its end.
            let Some(number) = accounts.longest_unused(self.came.load(Ordering::Relaxed)) else {
                return OTHERS;
            };
            self.remove(number);
            number
        };
        accounts.make(number).begin();
        if let Err(at) = self.find(hash) {
            let place = hash & !NUMBER | u64::from(number);
            self.places[at].store(place, Ordering::Release);
        }
        self.came.fetch_add(1, Ordering::Relaxed);
        number
    }

    /// Takes a number's name out, and closes the gap: under the lock.
    fn remove(&self, number: u16) {
        let load = |at: usize| self.places[at].load(Ordering::Relaxed);
        let is_it = |&at: &usize| load(at) & NUMBER == u64::from(number);
        let Some(mut gap) = (0..PLACES).find(is_it) else {
            return;
        };
        let mut at = next(gap);
        loop {
            let place = load(at);
            if place == 0 {
                break;
            }
            // It may stand in the gap if its home is not behind that.
            let from_home = at.wrapping_sub(home(place)) % PLACES;
            if from_home >= at.wrapping_sub(gap) % PLACES {
                self.places[gap].store(place, Ordering::Release);
                gap = at;
            }
            at = next(at);
        }
        self.places[gap].store(0, Ordering::Release);
    }
}

/// Where a hash stands if nobody else does. By the bits that a place keeps.
fn home(hash: u64) -> usize {
    (hash / TENANTS as u64) as usize % PLACES
}

fn next(place: usize) -> usize {
    (place + 1) % PLACES
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
        // A request that names no tier leaves it as it is.
        let accounts = tenants.accounts();
        assert!(accounts.reserve(acme, 1, 1, false));
        tenants.number("acme", "");
        assert!(!accounts.reserve(acme, 1, 1, false), "one at a time");
        tenants.number("acme", "unknown");
        assert!(accounts.reserve(acme, 1, 1, false));
    }

    #[test]
    fn a_tenant_that_is_named_as_a_tier_is_not_the_tiers() {
        let tenants = Tenants::new(vec![Tier::new("gold").weight(8)]);
        assert_ne!(tenants.number("gold", ""), tenants.number("", "gold"));
    }

    #[test]
    fn the_one_unused_longest_makes_room() {
        let tenants = Tenants::new(vec![Tier::new("gold").weight(8)]);
        let tier = |name| if name == 300 { "gold" } else { "" };
        let number = |name: u32| tenants.number(&name.to_string(), tier(name));
        let first: Vec<u16> = (0..1022).map(number).collect();
        assert_eq!(first, (1..=1022).collect::<Vec<_>>());
        let others = || (0..1022).filter(|&name| name != 300);
        others().for_each(|name| {
            number(name);
        });
        let weight = || tenants.accounts().make(first[300]).weight();
        assert_eq!(weight(), 8);
        assert_eq!(number(5000), first[300]);
        // What the one before was entitled to is gone with it.
        assert_eq!(weight(), 1);
        assert!(others().all(|name| number(name) == first[name as usize]));
    }

    #[test]
    fn who_is_named_by_several_threads_at_once_is_one() {
        let tenants = Tenants::new(Vec::new());
        let tenants = &tenants;
        // Twice as many as there are numbers, so that places are moved meanwhile.
        let passing = || {
            for name in 0..20_000 {
                tenants.number(&format!("passing-{}", name % 2044), "");
            }
        };
        let busy = tenants.number("busy", "");
        assert!(tenants.accounts().reserve(busy, 1, 1, false));
        let known = || (0..20_000).all(|_| tenants.number("busy", "") == busy);
        std::thread::scope(|scope| {
            let threads = [scope.spawn(passing), scope.spawn(passing)];
            let known = [scope.spawn(known), scope.spawn(known)];
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            assert!(known.into_iter().all(|thread| thread.join().unwrap()));
        });
    }
}
