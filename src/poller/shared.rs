//! Whose what the process allocates is, where only the sum is known.
//!
//! Whenever a poll begins or ends the sum is read. What was added since it was read last
//! is of the polls that were under way meanwhile: mostly of one. Several share it alike;
//! what was freed meanwhile may be of none of them.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

thread_local! {
    /// The innermost poll under way on this thread.
    static INNERMOST: Cell<Option<usize>> = const { Cell::new(None) };
}

static SUM: Mutex<Sum> = Mutex::new(Sum {
    bytes: 0,
    attributed_bytes: 0,
    under_way: Slab::new(),
});

struct Sum {
    /// As it was read last.
    bytes: i64,
    /// What polls were found to have added, ever.
    attributed_bytes: i64,
    under_way: Slab<Share>,
}

/// What one poll has added so far.
struct Share {
    bytes: i64,
    /// Another one is under way within it.
    holds_another: bool,
}

/// A poll under way.
#[derive(Clone, Copy)]
pub(super) struct Part {
    number: usize,
    outer: Option<usize>,
}

impl Part {
    /// A poll begins on this thread. `allocated`: what the process has allocated, read
    /// while nobody else does, since an older figure would look as if some had been freed.
    /// `None`: that takes too long to tell.
    pub(super) fn begin(allocated: fn() -> Option<u64>) -> Option<Self> {
        let mut sum = sum();
        sum.share(allocated()? as i64);
        let number = sum.under_way.insert(Share {
            bytes: 0,
            holds_another: false,
        });
        let outer = INNERMOST.replace(Some(number));
        sum.set_holds_another(outer, true);
        Some(Self { number, outer })
    }

    /// It is over. Says what it has added; less than nothing if it freed some.
    pub(super) fn end(self, allocated: fn() -> i64) -> i64 {
        let mut sum = sum();
        sum.share(allocated());
        INNERMOST.set(self.outer);
        sum.set_holds_another(self.outer, false);
        let share = sum.under_way.try_remove(self.number);
        share.map_or(0, |share| share.bytes)
    }
}

/// What polls were found to have added, ever, of all that is allocated.
pub(super) fn attributed_bytes() -> i64 {
    sum().attributed_bytes
}

fn sum() -> MutexGuard<'static, Sum> {
    SUM.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sum {
    fn share(&mut self, bytes: i64) {
        let added_bytes = bytes.wrapping_sub(self.bytes);
        self.bytes = bytes;
        let shares = self.under_way.iter_mut().map(|(_, share)| share);
        let mut shares = shares.filter(|share| !share.holds_another);
        let count = shares.by_ref().count() as i64;
        if count == 0 || (added_bytes < 0 && count > 1) {
            return;
        }
        self.attributed_bytes = self.attributed_bytes.wrapping_add(added_bytes);
        for (_, share) in &mut self.under_way {
            if !share.holds_another {
                share.bytes += added_bytes / count;
            }
        }
    }

    fn set_holds_another(&mut self, number: Option<usize>, holds_another: bool) {
        if let Some(share) = number.and_then(|number| self.under_way.get_mut(number)) {
            share.holds_another = holds_another;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sum: &mut Sum, bytes: i64) -> Vec<i64> {
        sum.share(bytes);
        sum.under_way.iter().map(|(_, share)| share.bytes).collect()
    }

    fn under_way(count: usize) -> Sum {
        let mut sum = Sum {
            bytes: 100,
            attributed_bytes: 0,
            under_way: Slab::new(),
        };
        for _ in 0..count {
            let (bytes, holds_another) = (0, false);
            sum.under_way.insert(Share {
                bytes,
                holds_another,
            });
        }
        sum
    }

    #[test]
    fn what_is_added_is_of_those_that_are_under_way() {
        assert_eq!(shares(&mut under_way(1), 140), [40]);
        assert_eq!(shares(&mut under_way(2), 140), [20, 20]);
        let mut nobody = under_way(0);
        nobody.share(140);
        assert_eq!((nobody.bytes, nobody.attributed_bytes), (140, 0));
    }

    #[test]
    fn what_is_freed_is_of_the_only_one_or_of_nobody() {
        assert_eq!(shares(&mut under_way(1), 70), [-30]);
        assert_eq!(shares(&mut under_way(2), 70), [0, 0]);
    }

    #[test]
    fn a_poll_within_another_one_has_what_is_added_meanwhile() {
        let mut sum = under_way(2);
        sum.set_holds_another(Some(0), true);
        assert_eq!(shares(&mut sum, 140), [0, 40]);
        sum.set_holds_another(Some(0), false);
        sum.under_way.remove(1);
        assert_eq!(shares(&mut sum, 150), [10]);
    }
}
