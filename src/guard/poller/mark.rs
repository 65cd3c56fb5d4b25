//! [`Mark`]: what a poll adds, or work between two checkpoints.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::shared::{Part, Rest};
use crate::memory::release::{Teller, is_mapped};
use crate::running::brake::UNTOLD;
use crate::running::charge;

thread_local! {
    /// What polls of this thread were found to have added, ever: a poll within another
    /// one is not counted twice.
    static COUNTED: Cell<i64> = const { Cell::new(0) };
}

/// From here on, what this thread adds.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    meter: Meter,
    from_bytes: i64,
    counted_bytes: i64,
}

/// What this thread has added, by accounts, that no poll was found to have: where nobody had
/// to ask. Without accounts nobody knows.
#[inline(always)]
pub(super) fn unasked_bytes() -> i64 {
    charge::thread_bytes().wrapping_sub(COUNTED.get())
}

/// What was added; less than nothing if some was freed.
pub(crate) struct Added {
    pub(crate) bytes: i64,
    /// What of it no account shows; `None`: accounts show all.
    pub(crate) uncharged_bytes: Option<i64>,
    /// What is mapped past the allocator is in it.
    has_mapped: bool,
}

/// What tells how much that is.
#[derive(Clone, Copy)]
enum Meter {
    /// This crate's allocator: what this thread has allocated and not freed.
    Account,
    /// The same, and what is mapped past the allocator.
    Mapped(Part),
    /// The process's allocator, which tells the same.
    Thread,
    /// The process's allocator or else the kernel, which tell the sum of all threads.
    Poll(Part),
    /// The same, less what others are found to have added meanwhile.
    Beside(Rest),
    /// Page faults: what this thread was the first to touch. Less than it adds where it
    /// lives in what others left behind.
    Faults,
}

impl Meter {
    /// Where the allocator tells what each thread does.
    fn of_thread() -> Option<Self> {
        crate::memory::release::thread_bytes().map(|_| Meter::Thread)
    }

    fn untold() -> Self {
        UNTOLD.fetch_add(1, Ordering::Relaxed);
        Meter::Faults
    }

    fn bytes(self) -> i64 {
        match self {
            Meter::Account | Meter::Mapped(_) => charge::thread_bytes(),
            Meter::Thread => crate::memory::release::thread_bytes().unwrap_or(0),
            // Its part knows.
            Meter::Poll(_) | Meter::Beside(_) => 0,
            Meter::Faults => crate::memory::touched_bytes(),
        }
    }

    /// By pages, whoever mapped them.
    fn sees_mapped(self) -> bool {
        match self {
            Meter::Poll(part) => part.teller() == Teller::Kernel,
            Meter::Beside(rest) => rest.teller == Teller::Kernel,
            Meter::Faults => true,
            _ => false,
        }
    }

    fn mark(self) -> Mark {
        Mark {
            meter: self,
            from_bytes: self.bytes(),
            counted_bytes: COUNTED.get(),
        }
    }
}

impl Mark {
    /// Of a poll that begins.
    pub(crate) fn of_poll(accounted: bool) -> Self {
        if accounted {
            let mapped = is_mapped().then(|| Part::begin(true)).flatten();
            return mapped.map_or(Meter::Account, Meter::Mapped).mark();
        }
        let by_sum = || Part::begin(accounted).map_or_else(Meter::untold, Meter::Poll);
        Meter::of_thread().unwrap_or_else(by_sum).mark()
    }

    /// Of a closure that begins. What all threads add while it runs is of those that are polled:
    /// it may take long and add nothing.
    #[cfg(feature = "account")]
    pub(crate) fn of_closure(accounted: bool) -> Self {
        match accounted {
            // But for what is mapped, of which nothing else tells.
            true => Self::of_poll(true),
            false => Meter::of_thread().unwrap_or_else(Meter::untold).mark(),
        }
    }

    /// Of work that may end without anybody being told.
    pub(crate) fn of_work(accounted: bool) -> Self {
        if accounted {
            return Meter::Account.mark();
        }
        let by_sum = || Rest::begin().map_or_else(Meter::untold, Meter::Beside);
        Meter::of_thread().unwrap_or_else(by_sum).mark()
    }

    /// The allocator or the kernel tells all that is added.
    pub(super) fn is_told(&self) -> bool {
        !matches!(self.meter, Meter::Faults)
    }

    /// What was added that no poll within has counted; less than nothing if some was
    /// freed. From here on it is counted. To be called once.
    pub(crate) fn count(&self) -> Added {
        let has_mapped = self.meter.sees_mapped();
        match self.meter {
            Meter::Poll(part) => return Added::uncharged(part.end(0), has_mapped),
            Meter::Beside(rest) => return Added::uncharged(rest.end(), has_mapped),
            _ => {}
        }
        let within = COUNTED.get().wrapping_sub(self.counted_bytes);
        let all = self.meter.bytes().wrapping_sub(self.from_bytes);
        let added_bytes = all.wrapping_sub(within);
        COUNTED.set(COUNTED.get().wrapping_add(added_bytes));
        match self.meter {
            Meter::Account => Added {
                bytes: added_bytes,
                uncharged_bytes: None,
                has_mapped,
            },
            Meter::Mapped(part) => {
                let mapped_bytes = part.end(all);
                Added {
                    bytes: added_bytes.wrapping_add(mapped_bytes),
                    uncharged_bytes: Some(mapped_bytes),
                    has_mapped,
                }
            }
            _ => Added::uncharged(added_bytes, has_mapped),
        }
    }
}

impl Added {
    fn uncharged(bytes: i64, has_mapped: bool) -> Self {
        Self {
            bytes,
            uncharged_bytes: Some(bytes),
            has_mapped,
        }
    }

    /// Of these, what is not among those that were said to be held meanwhile, or not any more.
    pub(crate) fn unsaid(&self, bytes: i64, said_bytes: i64) -> i64 {
        match self.has_mapped {
            true => bytes - said_bytes.clamp(bytes.min(0), bytes.max(0)),
            false => bytes,
        }
    }
}
