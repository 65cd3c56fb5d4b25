//! Calls into code that is not the guard's.
//!
//! A panic in it ends that call and nothing else: not the thread that samples, not the
//! round in which others are woken, not the connection whose request is turned away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    #[cfg(feature = "tracing")]
    Subscriber,
    #[cfg(feature = "metrics")]
    Recorder,
    Hook,
    Source,
    Waker,
    Responder,
    Classifier,
    /// None of the above: the guard's own, where a fault must not end its thread.
    Guard,
}

impl Code {
    fn what(self) -> &'static str {
        match self {
            #[cfg(feature = "tracing")]
            Code::Subscriber => "the tracing subscriber",
            #[cfg(feature = "metrics")]
            Code::Recorder => "the metrics recorder",
            Code::Hook => "a hook",
            Code::Source => "the memory source",
            Code::Waker => "a waker",
            Code::Responder => "the responder",
            Code::Classifier => "the classifier",
            Code::Guard => "the memory guard",
        }
    }

    /// It would have to be said to the one that panics.
    fn cannot_be_said(self) -> bool {
        #[cfg(feature = "tracing")]
        return self == Code::Subscriber;
        #[cfg(not(feature = "tracing"))]
        true
    }
}

/// Panics caught so far, in this process.
static CAUGHT: AtomicU64 = AtomicU64::new(0);
/// A bit for each code whose panic has been said.
static SAID: AtomicU32 = AtomicU32::new(0);

pub(crate) fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// What it returns; `None` if it panics.
#[inline]
pub(crate) fn call<T>(code: Code, run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(payload) => {
            count(code);
            // Its drop is foreign, too.
            if catch_unwind(AssertUnwindSafe(|| drop(payload))).is_err() {
                count(code);
            }
            None
        }
    }
}

/// What it returns. If it panics, that goes on to whoever catches it, and `panicked` is
/// called first.
#[inline(always)]
pub(crate) fn watch<T>(run: impl FnOnce() -> T, panicked: impl FnOnce()) -> T {
    let unwinding = Unwinding(Some(panicked));
    let result = run();
    std::mem::forget(unwinding);
    result
}

/// Dropped by a panic alone.
struct Unwinding<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Unwinding<F> {
    #[cold]
    fn drop(&mut self) {
        if let Some(panicked) = self.0.take() {
            panicked();
        }
    }
}

/// Wakes a task, whatever its executor makes of it.
pub(crate) fn wake(waker: Waker) {
    call(Code::Waker, || waker.wake());
}

/// The same of one that is kept under a lock. Cloning the `Arc` there runs nobody's code.
pub(crate) fn wake_kept(waker: Arc<Waker>) {
    call(Code::Waker, move || waker.wake_by_ref());
}

#[cold]
fn count(code: Code) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
    let bit = 1 << code as u32;
    let said = SAID.fetch_or(bit, Ordering::Relaxed) & bit != 0;
    if !said && !code.cannot_be_said() {
        panicked(code.what());
    }
}

#[cfg(feature = "tracing")]
fn panicked(what: &str) {
    call(Code::Subscriber, || {
        tracing::error!(
            target: "tower_memory_guard",
            what,
            "code that the memory guard calls panicked, and was passed over; further \
             panics of its kind are counted only"
        );
    });
}

#[cfg(not(feature = "tracing"))]
fn panicked(_: &str) {}
