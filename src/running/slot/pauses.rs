//! For how long a request was paused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Fact, Slot, SlotRef};

/// Of the word that says how long it was paused.
const SINCE: u64 = u32::MAX as u64;

impl Slot {
    /// One of its pollers is paused. Under the brake's lock, as where it goes on.
    pub(in crate::running) fn pause(&self, now: Duration) {
        self.stands_still();
        let generation = self.generation();
        let pausing = self.pausing.get(generation).unwrap_or(0);
        if pausing == 0 {
            let was_paused = self.was_paused();
            let before = match was_paused {
                true => self.pause_ms.load(Ordering::Relaxed) & !SINCE,
                // What is there is of a request before it.
                false => 0,
            };
            // 0 would be no pause at all.
            let since = (now.as_millis() as u32).wrapping_add(1).max(1);
            self.pause_ms
                .store(before | u64::from(since), Ordering::Relaxed);
            if !was_paused {
                self.told_ms.store(0, Ordering::Relaxed);
                self.life.say(Fact::Paused);
            }
        }
        self.pausing.set(generation, pausing + 1);
    }

    /// For how long it had been paused before, and since when it is.
    fn paused_ms(&self, now: Duration) -> (u32, u32) {
        // One word: else time that is paused no more would count twice, or not yet.
        let pause_ms = self.pause_ms.load(Ordering::Relaxed);
        let ms = match (pause_ms & SINCE) as u32 {
            0 => 0,
            since => {
                // The clock's bits begin anew after seven weeks. What is more than half of
                // that has not begun yet: `now` may be older.
                let ms = (now.as_millis() as u32).wrapping_sub(since - 1);
                if ms > u32::MAX / 2 { 0 } else { ms }
            }
        };
        ((pause_ms >> 32) as u32, ms)
    }

    pub(crate) fn is_paused(&self) -> bool {
        let pausing = self.pausing.get(self.generation());
        pausing.is_some_and(|pausing| pausing > 0)
    }

    /// It is paused, or has been.
    #[inline]
    pub(crate) fn was_paused(&self) -> bool {
        self.life.get().is(Fact::Paused)
    }

    /// For how long it was paused, in all pauses that are over, if that is more than was
    /// told before.
    pub(crate) fn untold_ms(&self) -> Option<u64> {
        let ms = (self.pause_ms.load(Ordering::Relaxed) >> 32) as u32;
        let told_ms = self.told_ms.fetch_max(ms, Ordering::Relaxed);
        (told_ms < ms).then_some(u64::from(ms))
    }

    /// For how long it has been paused, in all.
    pub(crate) fn paused(&self, now: Duration) -> Duration {
        if !self.was_paused() {
            return Duration::ZERO;
        }
        let (before_ms, ms) = self.paused_ms(now);
        Duration::from_millis(u64::from(before_ms) + u64::from(ms))
    }
}

impl SlotRef {
    /// One of its pollers goes on, or is gone. Says for how long it was paused, if it is not
    /// any more.
    pub(in crate::running) fn resume(self, now: Duration) -> u64 {
        let Self { slot, generation } = self;
        // Else the next one in the slot has been paused meanwhile.
        let Some(pausing @ 1..) = slot.pausing.get(generation) else {
            return 0;
        };
        slot.pausing.set(generation, pausing - 1);
        if pausing > 1 {
            return 0;
        }
        let (before_ms, ms) = slot.paused_ms(now);
        let all_ms = u64::from(before_ms.saturating_add(ms));
        slot.pause_ms.store(all_ms << 32, Ordering::Relaxed);
        u64::from(ms)
    }
}
