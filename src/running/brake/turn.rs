//! What a request may do, as the last sweep said.

use super::Brake;
use crate::class::tag::ClassKey;
use crate::running::{Slot, SlotRef};
use crate::sync::Ordering;

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Turn {
    /// It may grow as long as so much stays free.
    Keep(f32),
    /// It needs nothing more: what it gives back soon makes room for others.
    Free,
    /// It has had its turns and not used them: as far as can be told it is about to end,
    /// and may go into the reserve for that.
    Ends,
    /// The same, but what is left is another's, and it may take all of that.
    EndsLater,
    /// Its growth does not fit beside those before it.
    #[default]
    Hold,
}

impl Turn {
    /// They are the last numbers there are as bits, which no number of bytes has.
    const WITHOUT_KEEP: [Self; 4] = [Self::Free, Self::Ends, Self::EndsLater, Self::Hold];

    /// To be kept in a word; 0: nothing has to stay free.
    pub(super) fn bits(self) -> u32 {
        match (self, Self::WITHOUT_KEEP.iter().position(|&one| one == self)) {
            (Self::Keep(bytes), _) => bytes.to_bits(),
            (_, place) => u32::MAX - place.unwrap_or_default() as u32,
        }
    }

    /// What [`bits`](Self::bits) are of.
    pub(super) fn of_bits(bits: u32) -> Self {
        let without = Self::WITHOUT_KEEP.get((u32::MAX - bits) as usize);
        without.copied().unwrap_or(Self::Keep(f32::from_bits(bits)))
    }
}

/// A kind of a guard's requests: each guard has numbers of its own.
pub(super) fn kind_of(slot: &Slot, guard: usize) -> u64 {
    let kinds = ClassKey::COUNT as u64;
    (guard as u64).wrapping_mul(kinds) + slot.class_key().index() as u64
}

impl Brake {
    /// What must stay free when this request takes some.
    pub(super) fn keep_bytes(&self, slot: &Slot, guard: usize) -> Option<i64> {
        if slot.adds_nothing() {
            return Some(i64::MIN);
        }
        if self.may_outgrow(slot, guard) {
            return None;
        }
        let turn = slot.turn().unwrap_or_else(|| self.turn_of_newcomer(slot));
        match turn {
            Turn::Hold | Turn::EndsLater => None,
            // As long as it holds no more than was expected.
            Turn::Free if slot.is_within_need() => Some(i64::MIN),
            // They may go into a part of the reserve: who ends gives more back.
            Turn::Free | Turn::Ends => Some(-self.for_ending.load(Ordering::Relaxed)),
            Turn::Keep(bytes) => Some(bytes as i64),
        }
    }

    /// Its growth does not fit beside those before it, whatever the headroom is now.
    pub(crate) fn is_held(&self, slot: &Slot, guard: usize) -> bool {
        self.keep_bytes(slot, guard).is_none()
    }

    /// It may be about to do what nobody has seen but of one that does it just now.
    fn may_outgrow(&self, slot: &Slot, guard: usize) -> bool {
        let outgrows = self.outgrows.get();
        let is_like_it = outgrows.is_some_and(|kind| kind == kind_of(slot, guard));
        is_like_it && slot.has_shown_nothing() && !slot.place().is_front()
    }

    /// No sweep has said what is to be done with it.
    pub(super) fn turn_of_newcomer(&self, slot: &Slot) -> Turn {
        if slot.place().is_front() {
            return Turn::Keep(0.0);
        }
        let turn = Turn::of_bits(self.newcomer.load(Ordering::Relaxed));
        match (turn, slot.rest_bytes()) {
            (Turn::Keep(bytes), Some(rest_bytes)) => {
                let least_bytes = self.newcomer_least.load(Ordering::Relaxed);
                Turn::Keep(bytes.min((least_bytes as u64 + rest_bytes) as f32))
            }
            _ => turn,
        }
    }
}

impl SlotRef {
    pub(super) fn set_turn(self, turn: Turn) {
        self.slot().turn.set(self.generation(), turn.bits());
    }
}

impl Slot {
    /// What is to be done with it, if anybody has said.
    pub(super) fn turn(&self) -> Option<Turn> {
        self.turn.get(self.generation()).map(Turn::of_bits)
    }

    /// No plan has it any more: whatever one said of it was for as long as it did.
    pub(crate) fn unplan(&self) {
        if self.turn().is_some() {
            self.turn.unset();
        }
        if self.is_idle() {
            self.set_idle(false);
        }
    }

    /// What its next poll may add beyond its jump, as one of many has, and no more than it may
    /// need at the very worst; if no sweep has seen it.
    pub(super) fn rest_of_newcomer(&self) -> Option<i64> {
        let rest_bytes = self.rest_bytes().filter(|_| self.turn().is_none())?;
        let bytes = rest_bytes.min(self.once_bytes()) as i64;
        Some(bytes).filter(|&bytes| bytes > 0)
    }

    /// As far as can be told it gives back soon what it holds.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.turn(), Some(Turn::Free | Turn::Ends | Turn::EndsLater))
    }
}
