//! Names that callers choose, as small numbers.
//!
//! A table that only grows, up to a bound: reading it takes no lock. What comes
//! once it is full shares one number.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What all names beyond the bound are called.
const OTHERS: &str = "other";

/// Up to a bound, each name has a number of its own. 0 is the empty name, and the
/// last number is shared by all that came too late.
pub(crate) struct Names {
    /// Open addressing, twice as many places as numbers. Made when the first is named.
    places: OnceLock<Box<[OnceLock<Place>]>>,
    hasher: RandomState,
    /// Numbers given out, the empty name's included.
    count: Mutex<u16>,
    most: u16,
    is_full: AtomicBool,
}

struct Place {
    name: Box<str>,
    number: u16,
}

impl Names {
    /// `most` numbers in all.
    pub(crate) fn new(most: u16) -> Self {
        Self {
            places: OnceLock::new(),
            hasher: RandomState::new(),
            count: Mutex::new(1),
            most,
            is_full: AtomicBool::new(false),
        }
    }

    /// The number that names beyond the bound share.
    pub(crate) fn others(&self) -> u16 {
        self.most - 1
    }

    /// The number of `name`; a new one, if there is one left.
    #[inline]
    pub(crate) fn number(&self, name: &str) -> u16 {
        if name.is_empty() {
            return 0;
        }
        match self.find(name) {
            Ok(number) => number,
            // Relaxed: at worst the lock is taken once for nothing.
            Err(_) if self.is_full.load(Ordering::Relaxed) => self.others(),
            Err(_) => self.add(name),
        }
    }

    /// At most half of the numbers are given out.
    pub(crate) fn has_room(&self) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count <= self.most / 2
    }

    fn places(&self) -> &[OnceLock<Place>] {
        self.places.get_or_init(|| {
            let places = usize::from(self.most).next_power_of_two() * 2;
            (0..places).map(|_| OnceLock::new()).collect()
        })
    }

    /// All that have a number, but for the empty one.
    fn named(&self) -> impl Iterator<Item = &Place> {
        let places = self.places.get().into_iter().flatten();
        places.filter_map(OnceLock::get)
    }

    /// The name's number, or the place where it would stand.
    fn find(&self, name: &str) -> Result<u16, usize> {
        let places = self.places();
        let mask = places.len() - 1;
        let mut at = self.hasher.hash_one(name) as usize & mask;
        loop {
            match places[at].get() {
                None => return Err(at),
                Some(place) if *place.name == *name => return Ok(place.number),
                // There are more places than names, so there is an end.
                Some(_) => at = (at + 1) & mask,
            }
        }
    }

    #[cold]
    fn add(&self, name: &str) -> u16 {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match self.find(name) {
            Ok(number) => return number,
            Err(at) => at,
        };
        if *count >= self.others() {
            self.is_full.store(true, Ordering::Relaxed);
            return self.others();
        }
        let number = *count;
        let name = name.into();
        if self.places()[at].set(Place { name, number }).is_ok() {
            *count += 1;
        }
        number
    }

    /// The name behind a number.
    pub(crate) fn name(&self, number: u16) -> &str {
        if number == self.others() {
            return OTHERS;
        }
        self.named()
            .find(|place| place.number == number)
            .map_or("", |place| &place.name)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.named().map(|place| (place.number, &place.name));
        f.debug_map().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_keeps_its_number() {
        let names = Names::new(8);
        assert_eq!(names.number(""), 0);
        let (render, report) = (names.number("render"), names.number("report"));
        assert_ne!(render, report);
        assert_eq!(names.number("render"), render);
        assert_eq!(names.name(report), "report");
        assert_eq!(names.name(0), "");
    }

    #[test]
    fn names_beyond_the_bound_share_one_number() {
        let names = Names::new(8);
        let numbers: Vec<u16> = (0..1000).map(|n| names.number(&n.to_string())).collect();
        assert_eq!(numbers[..6], [1, 2, 3, 4, 5, 6]);
        assert!(numbers[6..].iter().all(|&number| number == 7));
        assert_eq!(names.name(7), "other");
        assert_eq!(names.number("3"), 4);
    }

    #[test]
    fn threads_that_name_the_same_get_the_same_number() {
        let names = Names::new(64);
        let all = |()| (0..50).map(|n| names.number(&n.to_string())).collect();
        let found: Vec<Vec<u16>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| all(()))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
