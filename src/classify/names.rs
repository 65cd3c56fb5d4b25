//! Names that callers choose, as small numbers.
//!
//! A list that only grows, up to a bound: reading it takes no lock. What comes
//! once it is full shares one number. Names are few, so comparing them one by one is quicker
//! than hashing one.

use std::sync::OnceLock;

/// What all names beyond the bound are called; who is called so is one of them.
const OTHERS: &str = "other";

/// Up to a bound, each name has a number of its own. 0 is the empty name, and the
/// last number is shared by all that came too late.
#[derive(Debug)]
pub(crate) struct Names {
    /// By their numbers, from 1 on. Made when the first is named.
    named: OnceLock<Box<[OnceLock<Box<str>>]>>,
    most: u16,
}

impl Names {
    /// `most` numbers in all.
    pub(crate) fn new(most: u16) -> Self {
        Self {
            named: OnceLock::new(),
            most,
        }
    }

    /// The number that names beyond the bound share.
    pub(crate) fn others(&self) -> u16 {
        self.most - 1
    }

    /// The number of `name`; a new one, if there is one left.
    #[inline]
    pub(crate) fn number(&self, name: &str) -> u16 {
        match name {
            "" => return 0,
            OTHERS => return self.others(),
            _ => {}
        }
        // Whoever comes first to a free place has it.
        let is_its = |place: &OnceLock<Box<str>>| **place.get_or_init(|| name.into()) == *name;
        let mut places = self.places().iter().zip(1..);
        let own = places.find(|(place, _)| is_its(place));
        own.map_or_else(|| self.others(), |(_, number)| number)
    }

    /// At most half of the numbers are given out, the empty name's included.
    pub(crate) fn has_room(&self) -> bool {
        self.named().count() < usize::from(self.most / 2)
    }

    fn places(&self) -> &[OnceLock<Box<str>>] {
        let places = 1..self.others();
        let made = || places.map(|_| OnceLock::new()).collect();
        self.named.get_or_init(made)
    }

    /// All that have a number, but for the empty one.
    fn named(&self) -> impl Iterator<Item = &str> {
        let places = self.named.get().into_iter().flatten();
        places.map_while(|name| Some(&**name.get()?))
    }

    pub(crate) fn name(&self, number: u16) -> &str {
        match number.checked_sub(1) {
            _ if number == self.others() => OTHERS,
            Some(place) => self.named().nth(place.into()).unwrap_or_default(),
            None => "",
        }
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
    fn a_name_that_is_called_as_those_beyond_the_bound_is_one_of_them() {
        let names = Names::new(8);
        assert_eq!(names.number("other"), 7);
        assert_eq!((names.number("render"), names.name(7)), (1, "other"));
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
