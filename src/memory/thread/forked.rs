//! A process that was forked after its guards were built.
//!
//! The thread that samples stayed with the parent, and a lock that it held at that moment
//! stays locked. Nothing tells a process that it was forked, so it is asked for its number:
//! where samples are taken, and now and then where requests end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use super::Sampler;

/// A sample that is older raises the question whether there is a thread at all.
const OLD: Duration = Duration::from_secs(1);
/// A lock that is not to be had for so many times this is held by nobody who lives.
const TRIED_EVERY: Duration = Duration::from_millis(2);
const TRIES: u32 = 50;

impl Sampler {
    /// In a forked child, once: takes a sample and starts a thread of its own. Says whether
    /// there is a newer sample now, or never will be.
    #[cold]
    pub(crate) fn check_process(self: &Arc<Self>) -> bool {
        let id = std::process::id();
        if self.process.load(Ordering::Relaxed) == id {
            return false;
        }
        if self.is_lost() {
            return true;
        }
        // Before this is known: whoever is paused from then on is so here.
        let subscribers = Arc::clone(&self.reader().subscribers);
        for one in subscribers.iter() {
            one.subscriber.forked(self.now());
        }
        if self.process.swap(id, Ordering::Relaxed) != id {
            self.forget_thread();
            self.sample_now();
            self.run();
            crate::telemetry::logs::warnings(&[
                "this process was forked after its guard was built: \
                 the guard samples here from now on, and what was in flight in the parent \
                 counts as reserved; build guards after forking"
                    .to_owned(),
            ]);
        }
        true
    }

    /// This process is the one that has the sampler, as far as that is known.
    pub(crate) fn is_here(&self) -> bool {
        let ours = self.process.load(Ordering::Relaxed) == std::process::id();
        ours && !self.lost.load(Ordering::Relaxed)
    }

    /// No sample will ever be taken here, as was found before. Reads nothing but that.
    pub(crate) fn was_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// The last sample is so old that there may be no thread. Reads the clock.
    pub(crate) fn is_old(&self) -> bool {
        self.now().saturating_sub(self.tick()) > OLD
    }

    /// The process was forked while a lock of the sampler's was held: no sample will ever
    /// be taken here.
    pub(crate) fn is_lost(&self) -> bool {
        let id = std::process::id();
        if self.process.load(Ordering::Relaxed) == id {
            return self.lost.load(Ordering::Relaxed);
        }
        // Not said yet which process this is: all that ask meanwhile find out for themselves.
        let lost = !(is_free(&self.reader) && is_free(&self.thread) && is_free(&self.names));
        if lost {
            self.lost.store(true, Ordering::Relaxed);
            self.process.store(id, Ordering::Relaxed);
        }
        lost
    }
}

fn is_free<T>(mutex: &Mutex<T>) -> bool {
    (0..TRIES).any(|_| {
        let is_held = matches!(mutex.try_lock(), Err(TryLockError::WouldBlock));
        if is_held {
            std::thread::sleep(TRIED_EVERY);
        }
        !is_held
    })
}
