//! For whom the thread works at the moment.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;

use super::allocator::switch;
use crate::guard::permit::Permit;
use crate::running::Slot;

thread_local! {
    /// Points to a permit for as long as a [`Scope`] borrows it.
    static CURRENT: Cell<*const Permit> = const { Cell::new(ptr::null()) };
}

/// While it lives, this thread's allocations are charged to a request.
///
/// Scopes nest. Dropped in the reverse order, also while unwinding.
#[must_use]
pub(crate) struct Scope<'a> {
    outer: *const Permit,
    charged: Option<Charged>,
    /// Neither sent to another thread nor outliving the permit.
    _borrows: PhantomData<(&'a Permit, *const ())>,
}

struct Charged {
    account: &'static Slot,
    outer: Option<&'static Slot>,
    /// Held when the scope began.
    held_bytes: u64,
}

impl<'a> Scope<'a> {
    #[inline]
    pub(crate) fn enter(permit: &'a Permit) -> Self {
        let outer = CURRENT.replace(permit);
        // Without an account of its own (its bytes are on a guard's further
        // out), that one's goes on.
        let charged = permit.slot().map(|account| Charged {
            account,
            outer: switch(Some(account)),
            held_bytes: account.held_bytes(),
        });
        Self {
            outer,
            charged,
            _borrows: PhantomData,
        }
    }
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.outer);
        let Some(charged) = &self.charged else {
            return;
        };
        switch(charged.outer);
        if let Some(outer) = charged.outer {
            if !ptr::eq(outer, charged.account) {
                // Guards that watch different memory: the work is both's.
                let held = charged.account.held_bytes() as i64;
                outer.charge(held - charged.held_bytes as i64, 0);
            }
        }
    }
}

/// A clone of the permit that the innermost scope borrows.
pub(super) fn current() -> Option<Permit> {
    let permit = CURRENT.get();
    // SAFETY: null, or the permit that the innermost scope on this thread still
    // borrows: a scope puts back what it found when it is dropped, it cannot
    // leave its thread, and this crate forgets none.
    unsafe { permit.as_ref() }.cloned()
}
