//! Responses on their way to peers that may stall.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::error::PeerStalled;
use crate::guard::permit::Permit;
use crate::guard::stalls::Stalls;
use crate::guard::state::State;

/// A response that is more than one small frame. Holds the permit until its
/// body and all its large frames are gone, or its peer has stalled for too long.
pub(crate) struct Delivery {
    permit: Mutex<Option<Permit>>,
    /// Since when a ready frame is not taken. Nothing here reads a clock: the first
    /// look that finds it unread says when that was.
    unread: AtomicU64,
    stalled: AtomicBool,
    /// Where it stands in the register.
    place: Option<usize>,
    guard: &'static State,
}

const TAKEN: u64 = 0;
const UNSEEN: u64 = 1;
/// Above it, the milliseconds of the clock that looks have.
const SEEN: u64 = 2;

impl Delivery {
    pub(crate) fn start(permit: Permit) -> Arc<Self> {
        let guard = permit.state();
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            permit: Mutex::new(Some(permit)),
            unread: AtomicU64::new(TAKEN),
            stalled: AtomicBool::new(false),
            place: guard.watch(this.clone()),
            guard,
        })
    }

    /// The server takes what it was given.
    pub(crate) fn asked(&self) -> Result<(), PeerStalled> {
        self.unread.store(TAKEN, Ordering::Relaxed);
        if self.stalled.load(Ordering::Relaxed) {
            Err(PeerStalled)
        } else {
            Ok(())
        }
    }

    /// A frame is ready to be sent.
    pub(crate) fn gave(&self) {
        self.unread.store(UNSEEN, Ordering::Relaxed);
    }

    /// Nobody waits for the rest.
    pub(crate) fn abandon(&self) {
        // Cloned: it wakes who is paused, which may be anybody's code, under no lock.
        let permit = self.permit().clone();
        permit.iter().for_each(Permit::abandon);
    }

    /// The response ends with an error.
    pub(crate) fn fail(&self) {
        self.permit().iter().for_each(Permit::fails);
    }

    /// The permit, if what its work holds is kept track of, or it may be paused.
    pub(crate) fn tracked_permit(&self) -> Option<Permit> {
        if !self.guard.watches_frames() {
            return None;
        }
        self.permit().clone()
    }

    fn permit(&self) -> MutexGuard<'_, Option<Permit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stalls for Delivery {
    fn has_stalled(&self, timeout: Duration, now: Duration) -> bool {
        let now_ms = now.as_millis() as u64;
        match self.unread.load(Ordering::Relaxed) {
            _ if self.stalled.load(Ordering::Relaxed) => false,
            TAKEN => false,
            UNSEEN => {
                // If it is taken meanwhile, that stands.
                let (unread, seen) = (&self.unread, now_ms + SEEN);
                let _ = unread.compare_exchange(UNSEEN, seen, Ordering::Relaxed, Ordering::Relaxed);
                false
            }
            seen => now_ms.saturating_sub(seen - SEEN) >= timeout.as_millis() as u64,
        }
    }

    /// A peer that does not read holds no budget; what its response still
    /// occupies shows in the usage.
    fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
        self.abandon();
        let permit = self.permit().take();
        drop(permit);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.guard.unwatch(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::{ManualSource, MemoryGuardLayer};

    /// Woken, it has a look at the delivery, as whatever is dropped with a task may.
    #[derive(Default)]
    struct Curious {
        delivery: OnceLock<Arc<Delivery>>,
        found_it_free: AtomicBool,
    }

    impl Wake for Curious {
        fn wake(self: Arc<Self>) {
            let delivery = self.delivery.get().unwrap();
            let is_free = delivery.permit.try_lock().is_ok();
            self.found_it_free.store(is_free, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_woken_since_nobody_waits_for_it_may_do_anything() {
        let memory = ManualSource::new(1 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let guard = builder.build().unwrap().guard().clone();
        let permit = guard.try_acquire(1 << 20).unwrap();
        memory.set_usage_bytes(1 << 30);
        guard.sample_now();
        let curious = Arc::new(Curious::default());
        let _ = curious.delivery.set(Delivery::start(permit.clone()));
        let waker = Waker::from(Arc::clone(&curious));
        let mut work = Box::pin(permit.checkpoint_async());
        let paused = work.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(paused.is_pending());
        curious.delivery.get().unwrap().abandon();
        assert!(curious.found_it_free.load(Ordering::Relaxed));
        assert!(permit.cancelled());
    }
}
