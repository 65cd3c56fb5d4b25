//! [`Carried`]: a closure that runs for a request, and its checkpoints.
//!
//! Until the first of them what it may add is taken in one piece. From there on its parts
//! take it, one after the other, and the last one is over when the closure is.

use std::cell::Cell;
use std::mem::ManuallyDrop;

use super::{PART, Part};
use crate::guard::permit::Permit;
use crate::guard::poller::Growth;

thread_local! {
    /// What the closure on this thread adds, until its first checkpoint. Without a destructor,
    /// so that it can be used at any time in a thread's life.
    static GROWTH: Cell<Option<ManuallyDrop<Growth>>> = const { Cell::new(None) };
}

/// A closure that this thread runs for a request. To be dropped after the scope of its work,
/// so that what it allocated is charged by then.
pub(crate) struct Carried {
    /// If it is begun with the brake on: of the closure around this one.
    outer: Option<Option<ManuallyDrop<Growth>>>,
}

impl Carried {
    #[inline]
    pub(crate) fn begin(permit: &Permit) -> Self {
        let outer = permit.brakes().then(|| {
            let growth = Growth::begin_closure(permit);
            GROWTH.replace(growth.map(ManuallyDrop::new))
        });
        Self { outer }
    }

    /// What comes next asks for room by itself. What was taken for all of the closure is given
    /// back: else it would wait for as much again.
    #[inline(always)]
    pub(crate) fn asks(permit: &Permit) {
        if permit.brakes() {
            Self::give_back(permit);
        }
    }

    #[cold]
    fn give_back(permit: &Permit) {
        let Some(growth) = GROWTH.take() else {
            return;
        };
        let Some(slot) = permit.slot().filter(|slot| growth.is_of(slot)) else {
            // Another request's closure.
            return GROWTH.set(Some(growth));
        };
        drop(ManuallyDrop::into_inner(growth));
        // Who asks may be one that the closure waits for.
        PART.set(Some(Part::of(permit.state(), slot, slot.ends())));
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(outer) = self.outer.take() {
            drop(GROWTH.replace(outer).map(ManuallyDrop::into_inner));
        }
    }
}

/// The parts of a closure's work. To be dropped before the scope of its work, as each of them
/// ends within.
pub(crate) struct Parts<'a> {
    permit: &'a Permit,
    /// Of the work around it.
    outer: Option<Part>,
}

impl<'a> Parts<'a> {
    #[inline]
    pub(crate) fn begin(permit: &'a Permit) -> Self {
        let outer = PART.take();
        Self { permit, outer }
    }
}

impl Drop for Parts<'_> {
    #[inline]
    fn drop(&mut self) {
        Part::end(self.permit);
        PART.set(self.outer);
    }
}
