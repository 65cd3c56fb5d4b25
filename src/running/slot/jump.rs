//! What polls add: of a request, and of those of its kind.

use std::sync::atomic::Ordering;

use super::Slot;
use crate::sync::optional::AtomicOption;

/// Who has held as much has begun.
const BEGUN_BYTES: u64 = 64 << 10;

/// What polls of a request were seen to add, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Jump {
    /// At most.
    pub(crate) largest: f64,
    /// At most, after the first that added something.
    pub(crate) later: f64,
    /// At most, of those that began when it seemed to be about to end; `None`: there was
    /// none such.
    pub(crate) ending: Option<f64>,
}

impl Jump {
    pub(crate) fn scaled(self, by: f64) -> Self {
        Self {
            largest: self.largest * by,
            later: self.later * by,
            ending: self.ending.map(|ending| ending * by),
        }
    }
}

/// What one poll of a kind of requests may add, in bytes, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct KnownJumps {
    pub(crate) largest: f64,
    /// The same of many more requests.
    pub(crate) once: f64,
    /// Of one of which no poll has added anything yet.
    pub(crate) first: f64,
    /// After one that is about as large.
    pub(crate) later: Option<f64>,
    /// And when such a request seems to be about to end.
    pub(crate) ending: Option<f64>,
}

impl KnownJumps {
    pub(crate) fn scaled(self, by: f64) -> Self {
        let scale = |bytes: f64| bytes * by;
        Self {
            largest: scale(self.largest),
            once: scale(self.once),
            first: scale(self.first),
            later: self.later.map(scale),
            ending: self.ending.map(scale),
        }
    }
}

/// Which of what is known of a kind.
#[derive(Clone, Copy)]
pub(in crate::running) enum Known {
    Largest,
    Once,
    First,
    Later,
    Ending,
    /// The most that a request may need, if its hint is the unit.
    Worst,
    /// Of such a request: what its first poll may add, and what one has added since that was
    /// found, if it is more.
    Unit,
    Record,
}

/// The same in KiB, to be read by polls.
#[derive(Debug, Default)]
pub(in crate::running) struct JumpOfKind([AtomicOption; Known::Record as usize + 1]);

impl JumpOfKind {
    pub(in crate::running) fn kib(&self, known: Known) -> Option<u64> {
        self.0[known as usize].get()
    }

    pub(in crate::running) fn set(&self, known: Known, kib: Option<u64>) {
        self.0[known as usize].set(kib);
    }

    /// A first poll is feared to add more than any was seen to.
    pub(super) fn is_feared(&self) -> bool {
        self.kib(Known::First) > self.kib(Known::Largest).max(self.kib(Known::Record))
    }

    /// As if no poll had ever been seen.
    pub(in crate::running) fn forget(&self) {
        self.0.iter().for_each(|kib| kib.set(None));
    }
}

impl Slot {
    /// A poll begins, and it holds so much.
    #[cfg(any(feature = "account", test))]
    #[inline(always)]
    pub(crate) fn polls_from(&self, held_bytes: u64) {
        self.poll_from.set(Some(held_bytes));
    }

    /// It is over; another one may have begun meanwhile.
    #[cfg(any(feature = "account", test))]
    #[inline(always)]
    pub(crate) fn polls_no_more_from(&self, held_bytes: u64) {
        if self.poll_from.get() == Some(held_bytes) {
            self.poll_from.set(None);
        }
    }

    /// What the poll under way has added so far: as accounts show it.
    pub(crate) fn added_in_poll(&self) -> u64 {
        let from_bytes = self.poll_from.get();
        from_bytes.map_or(0, |bytes| self.held_bytes().saturating_sub(bytes))
    }

    /// No poll of it has added anything yet, as far as anybody saw, and it seems to have more
    /// to do than to end.
    pub(in crate::running) fn has_shown_nothing(&self) -> bool {
        let grew = self.grew.load(Ordering::Relaxed) > 0;
        !grew && self.peak_bytes() < BEGUN_BYTES && !self.ends()
    }

    /// What its first poll that adds something may add.
    pub(super) fn first_kib(&self, of_kind: &JumpOfKind) -> u64 {
        let unit_kib = of_kind.kib(Known::Unit).max(of_kind.kib(Known::Record));
        let scaled = unit_kib.map(|unit_kib| (unit_kib as f64 * self.scale()) as u64);
        scaled.unwrap_or_else(|| self.reserved_kib())
    }
}
