//! For whom the thread works at the moment.

#[cfg(feature = "account")]
pub(crate) use charged::{Scope, innermost};

use super::permit::Permit;

/// Without accounting there is nothing to know.
#[cfg(not(feature = "account"))]
pub(crate) struct Scope<'a>(std::marker::PhantomData<&'a Permit>);

impl Permit {
    /// This thread works for the request while the scope lives.
    #[inline]
    pub(crate) fn enter(&self) -> Scope<'_> {
        Scope::enter(self)
    }
}

#[cfg(not(feature = "account"))]
impl<'a> Scope<'a> {
    fn enter(_: &'a Permit) -> Self {
        Self(std::marker::PhantomData)
    }

    #[inline(always)]
    pub(crate) fn begin_poll(&self) -> bool {
        false
    }

    pub(crate) fn end_poll(&self) {}
}

#[cfg(feature = "account")]
mod charged {
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::ptr;

    use super::Permit;
    use crate::running::Slot;
    use crate::running::charge::{switch, thread_bytes};

    thread_local! {
        static THREAD: Thread = const {
            Thread {
                current: Cell::new(Current::NOBODY),
                scopes: Cell::new(0),
            }
        };
    }

    struct Thread {
        current: Cell<Current>,
        /// Scopes begun on it so far.
        scopes: Cell<u64>,
    }

    /// For whom the thread works.
    #[derive(Clone, Copy)]
    struct Current {
        /// Points to a permit for as long as a [`Scope`] borrows it.
        permit: *const Permit,
        /// That its bytes are on.
        ledger: usize,
        /// Is charged what is allocated here once a scope of other memory is over.
        beside: Option<&'static Slot>,
        /// Of the scope.
        number: u64,
    }

    impl Current {
        const NOBODY: Self = Self {
            permit: ptr::null(),
            ledger: 0,
            beside: None,
            number: 0,
        };

        /// A scope of this permit begins. Says for whom the thread worked before.
        #[inline]
        fn begin(permit: *const Permit, ledger: usize) -> (u64, Self) {
            THREAD.with(|thread| {
                let number = thread.scopes.get() + 1;
                thread.scopes.set(number);
                let own = Self {
                    permit,
                    ledger,
                    number,
                    ..thread.current.get()
                };
                (number, thread.current.replace(own))
            })
        }

        #[inline]
        fn get() -> Self {
            THREAD.with(|thread| thread.current.get())
        }

        fn passing_on(self, beside: Option<&'static Slot>) -> Self {
            Self { beside, ..self }
        }

        #[inline]
        fn set(self) {
            THREAD.with(|thread| thread.current.set(self));
        }
    }

    /// While it lives, this thread's allocations are charged to a request.
    ///
    /// Scopes nest. Dropped in the reverse order, also while unwinding.
    #[must_use]
    pub(crate) struct Scope<'a> {
        number: u64,
        outer: Current,
        charged: Option<Charged>,
        /// Neither sent to another thread nor outliving the permit.
        _borrows: PhantomData<(&'a Permit, *const ())>,
    }

    struct Charged {
        account: &'static Slot,
        outer: Option<&'static Slot>,
        /// Held when the scope began.
        held_bytes: u64,
        /// The outer one is of another ledger: what the thread had allocated when it began.
        beside: Option<i64>,
    }

    impl<'a> Scope<'a> {
        #[inline]
        pub(super) fn enter(permit: &'a Permit) -> Self {
            let ledger = permit.ledger();
            let (number, outer) = Current::begin(permit, ledger);
            // Without an account of its own (its bytes are on a guard's further
            // out), that one's goes on. So does one that passes on to it what comes.
            let is_passed = |slot: &&Slot| outer.beside.is_some_and(|to| ptr::eq(to, *slot));
            let account = permit.slot().filter(|slot| !is_passed(slot));
            let charged = account.map(|account| {
                let outer_account = switch(Some(account));
                let is_other = outer_account.is_some_and(|outer| !ptr::eq(outer, account));
                let is_beside = is_other && outer.ledger != ledger;
                if is_beside {
                    Current::get().passing_on(outer_account).set();
                }
                Charged {
                    account,
                    outer: outer_account,
                    held_bytes: account.held_bytes(),
                    beside: is_beside.then(thread_bytes),
                }
            });
            Self {
                number,
                outer,
                charged,
                _borrows: PhantomData,
            }
        }

        /// It is that of a poll. `false`: of one within another for the same request, or nobody
        /// keeps an account.
        #[inline(always)]
        pub(crate) fn begin_poll(&self) -> bool {
            let charged = self.charged.as_ref().filter(|charged| !charged.is_within());
            if let Some(charged) = charged {
                charged.account.polls_from(charged.held_bytes);
            }
            charged.is_some()
        }

        /// The poll is over, if it is that of one.
        #[inline(always)]
        pub(crate) fn end_poll(&self) {
            if let Some(charged) = self.charged.as_ref().filter(|charged| !charged.is_within()) {
                charged.account.polls_no_more_from(charged.held_bytes);
            }
        }
    }

    impl Charged {
        fn is_within(&self) -> bool {
            (self.outer).is_some_and(|outer| ptr::eq(outer, self.account))
        }
    }

    impl Drop for Scope<'_> {
        #[inline]
        fn drop(&mut self) {
            if Current::get().number != self.number {
                // Not in the reverse order, as coroutines may end: of the others nobody knows
                // which are still there.
                Current::NOBODY.set();
                switch(None);
                return;
            }
            self.outer.set();
            let Some(charged) = &self.charged else {
                return;
            };
            switch(charged.outer);
            if let Some((outer, before)) = charged.outer.zip(charged.beside) {
                // Guards that watch different memory: the work is both's.
                outer.charge(thread_bytes() - before, 0);
            }
        }
    }

    /// The permit that the innermost scope on this thread borrows; null: there is none.
    /// It is there for as long as that scope is, so only [`account`](crate::account) looks
    /// at it.
    pub(crate) fn innermost() -> *const Permit {
        Current::get().permit
    }
}
