//! Whose what the process allocates is, where only the sum is known.
//!
//! Whenever a poll begins or ends the sum is read. What was added since it was read last
//! is of the polls that were under way meanwhile: mostly of one. Of several, the one that
//! ends knows which pages it was the first to touch. Work allocates first and touches then,
//! so what it has touched beyond what it is known to have added is its own, and the rest is
//! of the others. Where it touches little, it may live in what others left behind, and all
//! share alike. What was freed meanwhile may be of none of them, and hides what was added:
//! that was no less than what was touched.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::memory::release::Teller;

thread_local! {
    /// The innermost poll under way on this thread.
    static INNERMOST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Page faults tell nothing of a poll that has added less.
const LEAST_TOLD_BYTES: i64 = 256 << 10;

static SUM: Mutex<Sum> = Mutex::new(Sum {
    teller: Teller::Allocator,
    bytes: 0,
    attributed_bytes: 0,
    under_way: Slab::new(),
});

struct Sum {
    /// As it was read last, and of whom.
    bytes: i64,
    teller: Teller,
    /// What polls were found to have added, ever.
    attributed_bytes: i64,
    under_way: Slab<Share>,
}

#[derive(Default)]
struct Share {
    bytes: i64,
    /// Another one is under way within it.
    holds_another: bool,
    /// Something was freed, by it or by another one.
    is_unclear: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Part {
    number: usize,
    outer: Option<usize>,
    /// What this thread had touched before.
    touched_before: i64,
    accounted: bool,
    teller: Teller,
}

impl Part {
    /// A poll begins on this thread. The sum is read while nobody else does, since an older
    /// figure would look as if some had been freed. `None`: that takes too long to tell.
    pub(super) fn begin(accounted: bool) -> Option<Self> {
        let touched_before = crate::memory::touched_bytes();
        let mut sum = sum();
        let teller = teller(accounted);
        let bytes = teller.bytes_in_time()?;
        sum.is_told_by(teller, bytes as i64);
        sum.share(bytes as i64, None);
        let number = sum.under_way.insert(Share::default());
        let outer = INNERMOST.replace(Some(number));
        sum.set_holds_another(outer, true);
        Some(Self {
            number,
            outer,
            touched_before,
            accounted,
            teller,
        })
    }

    /// Who told the sum when it began.
    pub(super) fn teller(self) -> Teller {
        self.teller
    }

    /// It is over, and accounts show so much. Says what else it has added; less than
    /// nothing if it freed some.
    pub(super) fn end(self, accounted_bytes: i64) -> i64 {
        let touched_bytes = crate::memory::touched_bytes().wrapping_sub(self.touched_before);
        let touched_bytes = touched_bytes - accounted_bytes.max(0);
        let mut sum = sum();
        let teller = teller(self.accounted);
        let bytes = teller.bytes();
        sum.is_told_by(teller, bytes);
        sum.share(bytes, Some((self.number, touched_bytes)));
        INNERMOST.set(self.outer);
        sum.set_holds_another(self.outer, false);
        let share = sum.under_way.try_remove(self.number);
        share.map_or(0, |share| share.bytes)
    }
}

pub(super) fn attributed_bytes() -> i64 {
    sum().attributed_bytes
}

fn teller(accounted: bool) -> Teller {
    match accounted {
        true => Teller::BesideAllocator,
        false => Teller::now(),
    }
}

fn sum() -> MutexGuard<'static, Sum> {
    SUM.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sum {
    /// Of what another one tells, the difference says nothing.
    fn is_told_by(&mut self, teller: Teller, bytes: i64) {
        if std::mem::replace(&mut self.teller, teller) != teller {
            self.bytes = bytes;
            let shares = self.under_way.iter_mut().map(|(_, share)| share);
            shares.for_each(|share| share.is_unclear = true);
        }
    }

    /// So much is allocated now. `ends`: a poll that is over, and what it has touched.
    fn share(&mut self, bytes: i64, ends: Option<(usize, i64)>) {
        let added_bytes = bytes.wrapping_sub(self.bytes);
        self.bytes = bytes;
        let sharing = (self.under_way.iter()).filter(|(_, share)| !share.holds_another);
        let count = sharing.count() as i64;
        if count == 1 || (count > 1 && added_bytes >= 0) {
            self.attributed_bytes = self.attributed_bytes.wrapping_add(added_bytes);
            let several = ends.filter(|_| count > 1);
            let own_bytes = several.and_then(|(number, touched_bytes)| {
                self.own_bytes(number, touched_bytes, added_bytes)
            });
            let (own, others) = match own_bytes {
                Some(own) => (own, (added_bytes - own) / (count - 1)),
                None => (added_bytes / count, added_bytes / count),
            };
            for (number, share) in &mut self.under_way {
                if !share.holds_another {
                    let is_over = ends.is_some_and(|(ends, _)| ends == number);
                    share.bytes += if is_over { own } else { others };
                }
            }
        } else if count > 1 {
            let mut shares = self.under_way.iter_mut().map(|(_, share)| share);
            shares.by_ref().for_each(|share| share.is_unclear = true);
        }
        if let Some((number, touched_bytes)) = ends {
            self.clear_up(number, touched_bytes);
        }
    }

    /// What of that is of a poll that is over. `None`: what it has touched does not tell.
    fn own_bytes(&self, number: usize, touched_bytes: i64, added_bytes: i64) -> Option<i64> {
        let share = self.under_way.get(number)?;
        let tells = share.bytes >= LEAST_TOLD_BYTES && touched_bytes >= share.bytes / 2;
        tells.then(|| (touched_bytes - share.bytes).clamp(0, added_bytes))
    }

    /// What a poll has added may be hidden behind what another one freed.
    fn clear_up(&mut self, number: usize, touched_bytes: i64) {
        let Some(share) = self.under_way.get_mut(number) else {
            return;
        };
        let hidden_bytes = touched_bytes - share.bytes;
        if share.is_unclear && hidden_bytes > 0 {
            share.bytes += hidden_bytes;
            self.attributed_bytes = self.attributed_bytes.wrapping_add(hidden_bytes);
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

    const MIB: i64 = 1 << 20;

    fn shares(sum: &mut Sum, bytes: i64) -> Vec<i64> {
        sum.share(bytes, None);
        sum.under_way.iter().map(|(_, share)| share.bytes).collect()
    }

    fn under_way(count: usize) -> Sum {
        let mut sum = Sum {
            bytes: 100,
            teller: Teller::Allocator,
            attributed_bytes: 0,
            under_way: Slab::new(),
        };
        for _ in 0..count {
            sum.under_way.insert(Share::default());
        }
        sum
    }

    /// The first one is over, and has touched so much.
    fn shares_at_end(sum: &mut Sum, bytes: i64, touched_bytes: i64) -> Vec<i64> {
        sum.share(bytes, Some((0, touched_bytes)));
        sum.under_way.iter().map(|(_, share)| share.bytes).collect()
    }

    #[test]
    fn what_is_added_is_of_those_that_are_under_way() {
        assert_eq!(shares(&mut under_way(1), 140), [40]);
        assert_eq!(shares(&mut under_way(2), 140), [20, 20]);
        let mut nobody = under_way(0);
        nobody.share(140, None);
        assert_eq!((nobody.bytes, nobody.attributed_bytes), (140, 0));
    }

    #[test]
    fn what_is_freed_is_of_the_only_one_or_of_nobody() {
        assert_eq!(shares(&mut under_way(1), 70), [-30]);
        assert_eq!(shares(&mut under_way(2), 70), [0, 0]);
    }

    #[test]
    fn who_has_touched_what_it_had_added_before_adds_no_more() {
        let mut sum = under_way(2);
        sum.under_way[0].bytes = MIB;
        assert_eq!(shares_at_end(&mut sum, 140, MIB), [MIB, 40]);
        assert_eq!(shares_at_end(&mut sum, 180, MIB + 10), [MIB + 10, 70]);
    }

    #[test]
    fn who_lives_in_what_others_left_behind_shares_alike() {
        let mut sum = under_way(2);
        sum.under_way[0].bytes = MIB;
        assert_eq!(shares_at_end(&mut sum, 140, 0), [MIB + 20, 20]);
    }

    #[test]
    fn what_another_one_frees_does_not_hide_what_was_touched() {
        let mut sum = under_way(1);
        assert_eq!(shares_at_end(&mut sum, 60, 10 * MIB), [-40]);
        let mut sum = under_way(2);
        assert_eq!(shares_at_end(&mut sum, 50, 0), [0, 0]);
        assert_eq!(shares_at_end(&mut sum, 50, 30), [30, 0]);
        assert_eq!(sum.attributed_bytes, 30);
    }

    #[test]
    fn what_another_one_tells_was_not_added() {
        let mut sum = under_way(1);
        sum.is_told_by(Teller::Kernel, 500 * MIB);
        assert_eq!(shares(&mut sum, 500 * MIB + 40), [40]);
        sum.is_told_by(Teller::Allocator, MIB);
        // Meanwhile it has touched more.
        assert_eq!(shares_at_end(&mut sum, MIB, MIB), [MIB]);
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
