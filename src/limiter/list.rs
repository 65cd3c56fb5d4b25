//! Doubly linked lists through the entries of a slab.

use slab::Slab;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node {
    /// Keys, one above; 0: none.
    previous: usize,
    next: usize,
}

impl Node {
    pub(super) fn next(self) -> Option<usize> {
        self.next.checked_sub(1)
    }

    pub(super) fn previous(self) -> Option<usize> {
        self.previous.checked_sub(1)
    }
}

/// Entries of a slab, in an order. Which of an entry's nodes belongs to the list is
/// said with each call; it must always be the same.
#[derive(Debug, Default)]
pub(super) struct List {
    first: usize,
    last: usize,
    len: usize,
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.first.checked_sub(1)
    }

    pub(super) fn last(&self) -> Option<usize> {
        self.last.checked_sub(1)
    }

    /// Puts an entry before the first one that `comes_after` it: behind all, for one
    /// that has just come. Looks from both ends, so it is quick at either.
    pub(super) fn insert<T>(
        &mut self,
        slab: &mut Slab<T>,
        key: usize,
        node: fn(&mut T) -> &mut Node,
        comes_after: impl Fn(&Slab<T>, usize) -> bool,
    ) {
        let (mut left, mut right) = (self.first(), self.last());
        let (previous, next) = loop {
            match (left, right) {
                (None, _) | (_, None) => break (None, None),
                (_, Some(last)) if !comes_after(slab, last) => {
                    break (Some(last), node(&mut slab[last]).next());
                }
                (Some(first), _) if comes_after(slab, first) => {
                    break (node(&mut slab[first]).previous(), Some(first));
                }
                (Some(first), Some(last)) => {
                    left = node(&mut slab[first]).next();
                    right = node(&mut slab[last]).previous();
                }
            }
        };
        let above = |key: Option<usize>| key.map_or(0, |key| key + 1);
        *node(&mut slab[key]) = Node {
            previous: above(previous),
            next: above(next),
        };
        match previous {
            Some(previous) => node(&mut slab[previous]).next = key + 1,
            None => self.first = key + 1,
        }
        match next {
            Some(next) => node(&mut slab[next]).previous = key + 1,
            None => self.last = key + 1,
        }
        self.len += 1;
    }

    pub(super) fn remove<T>(
        &mut self,
        slab: &mut Slab<T>,
        key: usize,
        node: fn(&mut T) -> &mut Node,
    ) {
        let place = std::mem::take(node(&mut slab[key]));
        match place.previous() {
            Some(previous) => node(&mut slab[previous]).next = place.next,
            None => self.first = place.next,
        }
        match place.next() {
            Some(next) => node(&mut slab[next]).previous = place.previous,
            None => self.last = place.previous,
        }
        self.len -= 1;
    }

    pub(super) fn keys<'a, T>(
        &self,
        slab: &'a Slab<T>,
        node: fn(&T) -> &Node,
    ) -> impl Iterator<Item = usize> + use<'a, T> {
        let mut next = self.first();
        std::iter::from_fn(move || {
            let key = next?;
            next = node(&slab[key]).next();
            Some(key)
        })
    }
}

#[cfg(all(test, not(memory_guard_loom)))]
mod tests {
    use super::*;

    struct Entry {
        number: u64,
        node: Node,
    }

    fn numbers(list: &List, slab: &Slab<Entry>) -> Vec<u64> {
        let keys = list.keys(slab, |entry| &entry.node);
        keys.map(|key| slab[key].number).collect()
    }

    #[test]
    fn entries_stand_in_order_wherever_they_are_put() {
        let (mut slab, mut list) = (Slab::new(), List::default());
        let mut random = fastrand::Rng::with_seed(7);
        let mut there: Vec<usize> = Vec::new();
        for number in 0..500 {
            let number = if random.bool() {
                number
            } else {
                random.u64(0..500)
            };
            let node = Node::default();
            let key = slab.insert(Entry { number, node });
            list.insert(
                &mut slab,
                key,
                |entry| &mut entry.node,
                |slab, other| slab[other].number > number,
            );
            there.push(key);
            if random.u32(0..3) == 0 {
                let key = there.swap_remove(random.usize(..there.len()));
                list.remove(&mut slab, key, |entry| &mut entry.node);
                slab.remove(key);
            }
            let mut expected: Vec<u64> = there.iter().map(|&key| slab[key].number).collect();
            expected.sort_unstable();
            assert_eq!(numbers(&list, &slab), expected);
            assert_eq!(list.len(), expected.len());
        }
    }
}
