//! What a request may do, as the last sweep said.

use super::Brake;
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
    /// Its growth does not fit beside those before it.
    #[default]
    Hold,
}

impl Turn {
    /// They are the last numbers there are as bits, which no number of bytes has.
    const WITHOUT_KEEP: [Self; 3] = [Self::Free, Self::Ends, Self::Hold];

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

impl Brake {
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

    /// What its next poll may add beyond its jump, as one of many has, and no more than it may
    /// need at the very worst; if no sweep has seen it.
    pub(super) fn rest_of_newcomer(&self) -> Option<i64> {
        let rest_bytes = self.rest_bytes().filter(|_| self.turn().is_none())?;
        let bytes = rest_bytes.min(self.once_bytes()) as i64;
        Some(bytes).filter(|&bytes| bytes > 0)
    }

    /// As far as can be told it gives back soon what it holds.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.turn(), Some(Turn::Free | Turn::Ends))
    }
}
