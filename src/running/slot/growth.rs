//! What a slot knows of how its request grows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Jump, JumpOfKind, Known, Slot};
use crate::class::Priority;
use crate::running::place::{FRONT, Place, rank};
use crate::sync::AtomicU32;
use crate::sync::optional::AtomicOption;

/// A poll that adds less has added nothing.
const LEAST_GROWTH_BYTES: u64 = 4 << 10;
/// After so many polls that added something a request is known by them.
const SHOWN: u32 = 3;

/// Who has not been polled for so long waits for something else than memory, and lends
/// its place; or for so many times as long as it has been between two polls so far.
const LENDS_AFTER: Duration = Duration::from_millis(50);
const GAPS: u64 = 2;
const LENDS_AFTER_AT_MOST: Duration = Duration::from_millis(500);
/// And after so long it may not be polled for hours.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(2);

/// It needs no more than one in so many parts of what it holds, and adds one in so many.
const HAS_ALL: u64 = 20;
const ADDS_NOTHING: u64 = 64;

const SETTLES_AFTER: Duration = Duration::from_millis(20);
const SETTLES_AFTER_AT_MOST: Duration = Duration::from_millis(500);

/// When something was done last, by the sampler's tick, and the longest time between two
/// such, pauses aside.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    last_ms: AtomicOption,
    longest_ms: AtomicU32,
}

impl Gaps {
    /// Two at once may count as one: they are as far from the one before. What was before
    /// `seen_since`, nobody has seen the time from.
    fn next(&self, now_ms: Option<u64>, seen_since: Duration) {
        let last_ms = self.last_ms.get();
        let last_ms = last_ms.filter(|&ms| u128::from(ms) >= seen_since.as_millis());
        if let Some((now_ms, last_ms)) = now_ms.zip(last_ms) {
            let gap_ms = now_ms.saturating_sub(last_ms).min(u32::MAX.into());
            self.longest_ms.fetch_max(gap_ms as u32, Ordering::Relaxed);
        }
        self.last_ms.set(now_ms);
    }

    pub(super) fn clear(&self) {
        self.last_ms.set(None);
        self.longest_ms.store(0, Ordering::Relaxed);
    }
}

impl Slot {
    /// Where it stands among those that may grow.
    pub(crate) fn place(&self) -> Place {
        Place {
            rank: self.rank(),
            began_ms: self.began_ms.load(Ordering::Relaxed),
            shard: self.shard,
            index: self.index,
        }
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.tag().priority == Priority::Critical
    }

    fn rank(&self) -> u8 {
        match self.rank.get(self.generation()) {
            None => rank(self.tag().priority, false),
            Some(said) => said as u8,
        }
    }

    /// Where one of the requests that had the slot stands, unless it is at the front.
    pub(in crate::running) fn set_rank(&self, generation: u32, rank: u8) {
        if self.rank() != FRONT {
            self.rank.set(generation, rank.into());
        }
    }

    /// It has been paused for as long as it may be: it goes before all others.
    pub(crate) fn to_the_front(&self) {
        let rank = self.rank().min(FRONT);
        self.rank.set(self.generation(), rank.into());
    }

    /// What it is expected to hold at most.
    pub(crate) fn expect(&self, need_bytes: f64) {
        self.need_kib.set(Some((need_bytes / 1024.0) as u64));
    }

    /// What its next poll may add: the most that one has, or one of its kind has while
    /// it has shown little, up to what it is expected to need. Beyond that nobody knows.
    /// After one that was as large as any, no more than others then did, or if it seems to
    /// be about to end, than others that seemed so.
    pub(in crate::running) fn jump_bytes(&self, of_kind: &JumpOfKind) -> u64 {
        let largest_kib = u64::from(self.largest_kib.load(Ordering::Relaxed));
        let of_kind_kib = of_kind.kib(Known::Largest);
        let grew = self.grew.load(Ordering::Relaxed);
        // Nor is it known what the first poll adds where more is feared than was seen.
        let is_feared = grew == 0 && of_kind.is_feared();
        let is_guess = (largest_kib == 0 && of_kind_kib.is_none()) || is_feared;
        self.is_guess.store(is_guess, Ordering::Relaxed);
        let is_large = largest_kib > 0 && largest_kib >= of_kind_kib.unwrap_or(0) / 2;
        let ending_kib = of_kind
            .kib(Known::Ending)
            .filter(|_| is_large && self.ends());
        let kib = match (grew, of_kind.kib(Known::Later)) {
            (0, _) => self.first_kib(of_kind),
            _ if ending_kib.is_some() => ending_kib.max(self.ending_kib.get()).unwrap_or(0),
            (_, Some(of_others_kib)) if is_large => {
                let later_kib = u64::from(self.later_kib.load(Ordering::Relaxed));
                of_others_kib.max(later_kib + later_kib / 8)
            }
            (..SHOWN, _) => {
                let shown = (largest_kib > 0).then_some(largest_kib * 4);
                largest_kib.max(of_kind_kib.or(shown).unwrap_or_else(|| self.reserved_kib()))
            }
            _ => largest_kib + largest_kib / 8,
        };
        let held_kib = self.look().held_bytes / 1024;
        let left_kib = self.need_kib.get().unwrap_or(0).saturating_sub(held_kib);
        // Of one that has shown nothing yet only the mean is known.
        let is_bounded = grew > 0 && left_kib > 0;
        let kib = if is_bounded { kib.min(left_kib) } else { kib };
        let kib = kib.min(u32::MAX.into()) as u32;
        self.jump_kib.store(kib, Ordering::Relaxed);
        let worst_kib = of_kind.kib(Known::Worst);
        let rest_kib = worst_kib.map(|worst_kib| {
            let worst_kib = (worst_kib as f64 * self.scale()) as u64;
            worst_kib.saturating_sub(held_kib + u64::from(kib))
        });
        self.rest_kib.set(rest_kib);
        let once_kib = of_kind.kib(Known::Once).unwrap_or(0) as u32;
        (self.once_kib).store(once_kib.saturating_sub(kib), Ordering::Relaxed);
        u64::from(kib) << 10
    }

    /// The same, as said last; of what is only guessed no more than `most_bytes`.
    pub(crate) fn jump_within(&self, most_bytes: Option<i64>) -> u64 {
        let bytes = u64::from(self.jump_kib.load(Ordering::Relaxed)) << 10;
        match most_bytes {
            Some(most_bytes) if self.is_guess() => bytes.min(most_bytes.max(1) as u64),
            _ => bytes,
        }
    }

    /// What it may need beyond that at the very worst, if anything is known of its kind.
    pub(in crate::running) fn rest_bytes(&self) -> Option<u64> {
        self.rest_kib.get().map(|kib| kib << 10)
    }

    /// What a poll of it may add beyond its jump, as one of many has.
    pub(in crate::running) fn once_bytes(&self) -> u64 {
        u64::from(self.once_kib.load(Ordering::Relaxed)) << 10
    }

    /// What it may add where a mistake would be the end of all: what its polls have added one
    /// may add again, whatever it is expected to need.
    pub(in crate::running) fn jump_at_worst(&self) -> u64 {
        let shown_kib = self.later_kib.load(Ordering::Relaxed);
        self.jump_within(None).max(u64::from(shown_kib) << 10)
    }

    /// It may be a stream that lasts for hours.
    pub(in crate::running) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.is_idle.store(idle, Ordering::Relaxed);
    }

    /// Nobody has seen what a poll of such a request adds.
    pub(in crate::running) fn is_guess(&self) -> bool {
        self.is_guess.load(Ordering::Relaxed)
    }

    /// Somebody polls it, or would if it were not paused.
    pub(crate) fn was_polled(&self) -> bool {
        let polled = self.polled.last_ms.get();
        polled.is_some() || self.grew.load(Ordering::Relaxed) > 0 || self.is_paused()
    }

    /// It began then, or later.
    pub(crate) fn began_since(&self, since: Duration) -> bool {
        u128::from(self.began_ms.load(Ordering::Relaxed)) >= since.as_millis()
    }

    /// It is known by how it grew, and when.
    pub(crate) fn has_shown(&self) -> bool {
        self.timed.load(Ordering::Relaxed) >= SHOWN
    }

    /// It holds no more than it was expected to.
    pub(in crate::running) fn is_within_need(&self) -> bool {
        self.look().held_bytes / 1024 <= self.need_kib.get().unwrap_or(0)
    }

    /// It holds half of what it is expected to, or more.
    pub(in crate::running) fn is_half_way(&self) -> bool {
        self.look().held_bytes / 512 >= self.need_kib.get().unwrap_or(0)
    }

    /// What it is expected to need still.
    pub(in crate::running) fn rest_to_come_kib(&self) -> u64 {
        let need_kib = self.need_kib.get().unwrap_or(u64::MAX);
        need_kib.saturating_sub(self.look().held_bytes / 1024)
    }

    /// It holds about what it needs, and its next poll adds next to nothing to that, as far as
    /// was seen of such requests: it only has to be polled in order to end.
    pub(in crate::running) fn adds_nothing(&self) -> bool {
        let held_kib = self.look().held_bytes / 1024;
        let need_kib = self.need_kib.get().unwrap_or(u64::MAX);
        let has_about_all = self.ends() || need_kib <= held_kib + held_kib / HAS_ALL;
        let jump_kib = u64::from(self.jump_kib.load(Ordering::Relaxed));
        held_kib > 0 && has_about_all && jump_kib <= held_kib / ADDS_NOTHING
    }

    /// It has grown, to all that it is expected to hold.
    pub(in crate::running) fn has_all(&self) -> bool {
        let held_kib = self.look().held_bytes / 1024;
        held_kib > 0 && held_kib >= self.need_kib.get().unwrap_or(u64::MAX)
    }

    /// It is polled. The brake has been on since `seen_since`.
    pub(crate) fn polled(&self, tick: Duration, seen_since: Duration) {
        self.polled.next(Some(tick.as_millis() as u64), seen_since);
    }

    /// The time until it is polled next says nothing of how it is polled.
    pub(in crate::running) fn stands_still(&self) {
        self.polled.last_ms.set(None);
        self.grown.last_ms.set(None);
    }

    /// A poll begins, with the brake on.
    pub(crate) fn begin_poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_poll(&self) {
        self.polls.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is in the midst of a poll.
    pub(crate) fn is_polled(&self) -> bool {
        self.polls.load(Ordering::Relaxed) > 0
    }

    /// Without growth for so long, it has had its turns and not used them: for twice as
    /// long as it was between two polls that added something, of its own or, until it has
    /// shown some, of its kind.
    pub(crate) fn settles_after(&self, of_kind_ms: Option<u32>) -> Duration {
        let own_ms = self.grown.longest_ms.load(Ordering::Relaxed);
        let gap_ms = match self.has_shown() && own_ms > 0 {
            true => own_ms,
            false => own_ms.max(of_kind_ms.unwrap_or(u32::MAX)),
        };
        let after = Duration::from_millis(u64::from(gap_ms) * 2);
        after.clamp(SETTLES_AFTER, SETTLES_AFTER_AT_MOST)
    }

    /// The longest time between two polls that added something, pauses aside; `None`: nobody has
    /// seen such polls.
    pub(crate) fn seen_gap_ms(&self) -> Option<u32> {
        let seen = self.timed.load(Ordering::Relaxed) > 0;
        seen.then(|| self.grown.longest_ms.load(Ordering::Relaxed))
    }

    /// Whether it gets on, or would if it were not paused; and whether it is idle: by how long
    /// nobody has polled it while the brake was on, which is `seen_since`.
    pub(crate) fn gets_on(&self, now: Duration, seen_since: Duration) -> (bool, bool) {
        if self.is_paused() {
            return (true, false);
        }
        let began_ms = self.began_ms.load(Ordering::Relaxed);
        let since_ms = (self.polled.last_ms.get().unwrap_or(0)).max(began_ms);
        let since_ms = since_ms.max(seen_since.as_millis() as u64);
        let idle_ms = (now.as_millis() as u64).saturating_sub(since_ms);
        let gap_ms = u64::from(self.polled.longest_ms.load(Ordering::Relaxed));
        let lends_after = Duration::from_millis(gap_ms * GAPS);
        let lends_after = lends_after.clamp(LENDS_AFTER, LENDS_AFTER_AT_MOST);
        let idle = Duration::from_millis(idle_ms);
        // In the midst of a poll it may wait for something else, but not for hours.
        (idle <= lends_after, idle >= IDLE_AFTER && !self.is_polled())
    }

    /// A poll added so much. `ending`: when it began, the request seemed to be about to end.
    pub(crate) fn grew(&self, bytes: u64, ending: bool, seen_since: Duration) {
        if ending {
            let before_kib = self.ending_kib.get().unwrap_or(0);
            self.ending_kib.set(Some(before_kib.max(bytes / 1024)));
        }
        if bytes >= LEAST_GROWTH_BYTES {
            self.timed.fetch_add(1, Ordering::Relaxed);
            self.grown.next(self.polled.last_ms.get(), seen_since);
            self.grew_untimed(bytes);
        }
    }

    /// The same with the brake off, when nobody sees when that was: it says how much one adds,
    /// and not how long it is from one to the next.
    pub(crate) fn grew_untimed(&self, bytes: u64) {
        let is_first = self.grew.fetch_add(1, Ordering::Relaxed) == 0;
        let kib = (bytes / 1024) as u32;
        self.largest_kib.fetch_max(kib, Ordering::Relaxed);
        if !is_first {
            self.later_kib.fetch_max(kib, Ordering::Relaxed);
        }
    }

    /// What its polls have added.
    pub(crate) fn jump(&self) -> Jump {
        let bytes = |kib: &AtomicU32| f64::from(kib.load(Ordering::Relaxed)) * 1024.0;
        Jump {
            largest: bytes(&self.largest_kib),
            later: bytes(&self.later_kib),
            ending: self.ending_kib.get().map(|kib| kib as f64 * 1024.0),
        }
    }
}
