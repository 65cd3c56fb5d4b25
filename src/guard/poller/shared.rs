//! Whose what the process allocates is, where only the sum is known.
//!
//! Whenever a poll begins or ends the sum is read. What was added since it was read last
//! is of the polls that were under way meanwhile: mostly of one. Of several, be it one within
//! another, the one that ends knows which pages it was the first to touch. Work allocates
//! first and touches then, so what it has touched beyond what it is known to have added is its
//! own, and the rest is of the others. Where it touches little, it may live in what others left
//! behind, and all share alike. What was freed meanwhile may be of none of them, and hides what
//! was added: that was no less than what was touched.
//!
//! Where asking takes long, most polls go by what they touch, and live in what others left
//! behind. When the sum is read next, what was added beside what they touched is theirs as
//! well, and shared alike.

mod rest;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::memory::release::Teller;
use crate::running::SlotRef;
pub(super) use rest::Rest;

/// Page faults tell nothing of a poll that has added less.
const LEAST_TOLD_BYTES: i64 = 256 << 10;
/// So many are remembered: more seldom come between two looks.
const MOST_UNTOLD: usize = 256;
/// What was added since an older reading may be anybody's: the brake was off meanwhile.
const READ_AFTER: Duration = Duration::from_millis(500);

static SUM: Mutex<Sum> = Mutex::new(Sum {
    teller: Teller::Allocator,
    bytes: 0,
    attributed_bytes: 0,
    read_at: None,
    under_way: Slab::new(),
});

/// Polls that are over since the sum was read last, and of which nobody told what they added:
/// beside the lock of the sum, since whoever reads that may take long.
static UNTOLD: Mutex<Vec<Untold>> = Mutex::new(Vec::new());

struct Sum {
    /// As it was read last, and of whom.
    bytes: i64,
    teller: Teller,
    /// What polls and parts of work were found to have added, ever.
    attributed_bytes: i64,
    read_at: Option<Instant>,
    under_way: Slab<Share>,
}

/// Charged with what it touched.
struct Untold {
    request: SlotRef,
    touched_bytes: i64,
}

#[derive(Default)]
struct Share {
    bytes: i64,
    /// Something was freed, by it or by another one.
    is_unclear: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Part {
    number: usize,
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
        sum.share(bytes as i64, None, take_untold());
        let number = sum.under_way.insert(Share::default());
        Some(Self {
            number,
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
        sum.share(bytes, Some((self.number, touched_bytes)), take_untold());
        let share = sum.under_way.try_remove(self.number);
        share.map_or(0, |share| share.bytes)
    }
}

/// A poll is over that was charged with what it touched, and may have added more.
pub(super) fn ends_untold(request: SlotRef, touched_bytes: i64) {
    let mut polls = untold();
    if polls.len() < MOST_UNTOLD {
        polls.push(Untold {
            request,
            touched_bytes: touched_bytes.max(0),
        });
    }
}

fn take_untold() -> Vec<Untold> {
    std::mem::take(&mut *untold())
}

fn untold() -> MutexGuard<'static, Vec<Untold>> {
    UNTOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the allocator says is allocated, read while no poll does.
pub(crate) fn allocated_bytes() -> Option<u64> {
    let mut sum = sum();
    let bytes = crate::memory::release::allocated_bytes()?;
    if sum.teller == Teller::Allocator {
        sum.share(bytes as i64, None, take_untold());
    }
    Some(bytes)
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
            self.are_unclear();
        }
    }

    fn attribute(&mut self, bytes: i64) {
        self.attributed_bytes = self.attributed_bytes.wrapping_add(bytes);
    }

    fn are_unclear(&mut self) {
        let shares = self.under_way.iter_mut();
        shares.for_each(|(_, share)| share.is_unclear = true);
    }

    /// So much is allocated now. `ends`: a poll that is over, and what it has touched. `untold`:
    /// those that were over before, of which nobody told.
    fn share(&mut self, bytes: i64, ends: Option<(usize, i64)>, untold: Vec<Untold>) {
        let mut added_bytes = bytes.wrapping_sub(self.bytes);
        self.bytes = bytes;
        let count = self.under_way.len() as i64;
        // They are charged with it in any case.
        self.attribute(untold.iter().map(|poll| poll.touched_bytes).sum());
        let before = self.read_at.replace(Instant::now());
        // Of those that are under way it is all the same.
        if count > 0 || before.is_some_and(|before| before.elapsed() < READ_AFTER) {
            added_bytes -= self.share_untold(untold, added_bytes, count);
        }
        if count == 1 || (count > 1 && added_bytes >= 0) {
            self.attribute(added_bytes);
            let several = ends.filter(|_| count > 1);
            let own_bytes = several.and_then(|(number, touched_bytes)| {
                self.own_bytes(number, touched_bytes, added_bytes)
            });
            let (own, others) = match own_bytes {
                Some(own) => (own, (added_bytes - own) / (count - 1)),
                None => (added_bytes / count, added_bytes / count),
            };
            for (number, share) in &mut self.under_way {
                let is_over = ends.is_some_and(|(ends, _)| ends == number);
                share.bytes += if is_over { own } else { others };
            }
        } else if count > 1 {
            self.are_unclear();
        }
        if let Some((number, touched_bytes)) = ends {
            self.clear_up(number, touched_bytes);
        }
    }

    /// Of what was added beside what they touched, those of which nobody told have as much
    /// each as the `others` that are under way. Says how much is theirs of what was added:
    /// nothing, if something was freed and hides it.
    fn share_untold(&mut self, polls: Vec<Untold>, added_bytes: i64, others: i64) -> i64 {
        let touched_bytes: i64 = polls.iter().map(|poll| poll.touched_bytes).sum();
        let more_bytes = added_bytes - touched_bytes;
        if polls.is_empty() || more_bytes <= 0 {
            return 0;
        }
        let count = polls.len() as i64;
        let each_bytes = more_bytes / (count + others);
        polls
            .iter()
            .for_each(|poll| poll.request.charge(each_bytes));
        let all_bytes = each_bytes * count;
        self.attribute(all_bytes);
        all_bytes + touched_bytes
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
            self.attribute(hidden_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::tag::Tag;
    use crate::running::{Running, Slot};

    const MIB: i64 = 1 << 20;

    fn shares(sum: &mut Sum, bytes: i64) -> Vec<i64> {
        sum.share(bytes, None, Vec::new());
        sum.under_way.iter().map(|(_, share)| share.bytes).collect()
    }

    fn under_way(count: usize) -> Sum {
        let mut sum = Sum {
            bytes: 100,
            teller: Teller::Allocator,
            attributed_bytes: 0,
            read_at: Some(Instant::now()),
            under_way: Slab::new(),
        };
        for _ in 0..count {
            sum.under_way.insert(Share::default());
        }
        sum
    }

    /// The first one is over, and has touched so much.
    fn shares_at_end(sum: &mut Sum, bytes: i64, touched_bytes: i64) -> Vec<i64> {
        sum.share(bytes, Some((0, touched_bytes)), Vec::new());
        sum.under_way.iter().map(|(_, share)| share.bytes).collect()
    }

    #[test]
    fn what_is_added_is_of_those_that_are_under_way() {
        assert_eq!(shares(&mut under_way(1), 140), [40]);
        assert_eq!(shares(&mut under_way(2), 140), [20, 20]);
        let mut nobody = under_way(0);
        nobody.share(140, None, Vec::new());
        assert_eq!((nobody.bytes, nobody.attributed_bytes), (140, 0));
    }

    #[test]
    fn what_nobody_told_of_is_found_when_the_sum_is_read() {
        let running: &'static Running = Box::leak(Box::default());
        let taken = || running.take(1024, Tag::NONE, Duration::ZERO);
        let slots: Vec<&Slot> = (0..3).map_while(|_| taken()).collect();
        let untold = |touched_bytes: &[i64]| {
            let polls = slots.iter().zip(touched_bytes);
            let poll = |(slot, &touched_bytes): (&&'static Slot, &i64)| Untold {
                request: slot.request(),
                touched_bytes,
            };
            polls.map(poll).collect::<Vec<_>>()
        };
        let held = || {
            slots
                .iter()
                .map(|slot| slot.held_bytes())
                .collect::<Vec<_>>()
        };
        // 40 were added, of which 10 are charged already.
        let mut nobody = under_way(0);
        nobody.share(140, None, untold(&[10, 0]));
        assert_eq!((held(), nobody.attributed_bytes), (vec![15, 15, 0], 40));
        // One that is under way has its part.
        let mut one = under_way(1);
        one.share(130, None, untold(&[0, 0]));
        assert_eq!(held(), [25, 25, 0]);
        assert_eq!((one.under_way[0].bytes, one.attributed_bytes), (10, 30));
        // Something was freed: what was added is not known.
        nobody.share(90, None, untold(&[0, 0, 0]));
        assert_eq!(held(), [25, 25, 0]);
        // Nor is it where the sum was not read for long.
        nobody.read_at = nobody.read_at.and_then(|at| at.checked_sub(READ_AFTER));
        nobody.share(130, None, untold(&[0, 0, 0]));
        assert_eq!(held(), [25, 25, 0]);
        // But that one has been under way for long.
        let mut long = under_way(1);
        long.read_at = nobody.read_at;
        long.share(140, None, untold(&[0]));
        assert_eq!((held(), long.under_way[0].bytes), (vec![45, 25, 0], 20));
        // Who has the slot of one that is over has not added it.
        let over = untold(&[0]);
        running.end(slots[0]);
        while running
            .take(1024, Tag::NONE, Duration::ZERO)
            .is_some_and(|slot| !std::ptr::eq(slot, slots[0]))
        {}
        nobody.share(190, None, over);
        assert_eq!(held(), [0, 25, 0]);
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
}
