//! Wakers that are to be woken once no lock is held.

use std::task::Waker;

use crate::sync::foreign;

/// Most rounds wake one waiter, which costs no allocation.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakers {
    pub(super) fn push(&mut self, waker: Waker) {
        if self.first.is_none() {
            self.first = Some(waker);
        } else {
            self.others.push(waker);
        }
    }

    pub(super) fn wake(self) {
        let all = self.first.into_iter().chain(self.others);
        all.for_each(foreign::wake);
    }
}
