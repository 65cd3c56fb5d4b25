//! [`Permit`]: the right to use memory, and the duty to give it back.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::controller::Controller;

/// Memory that is reserved for one piece of work.
///
/// It is given back when the last clone is dropped. The response flavour puts
/// a clone into the request's extensions, so that work which outlives the
/// response can keep it:
///
/// ```
/// use axum::Extension;
/// use tower_memory_guard::Permit;
///
/// async fn render(Extension(permit): Extension<Permit>) -> String {
///     tokio::task::spawn_blocking(move || {
///         for _ in 0..3 {
///             if permit.cancelled() {
///                 return String::new();
///             }
///             // … a part of the work …
///         }
///         "done".to_string()
///     })
///     .await
///     .unwrap_or_default()
/// }
/// ```
pub struct Permit {
    controller: &'static Controller,
    kib: u64,
    /// Made by the first clone, so that a permit nobody clones allocates nothing.
    shared: OnceLock<Arc<Shared>>,
}

/// What the clones of a permit have in common. Once it exists it owns the reservation.
struct Shared {
    controller: &'static Controller,
    kib: u64,
    cancelled: AtomicBool,
    /// The permit of a guard further out, which this one took the place of.
    outer: OnceLock<Permit>,
}

impl Permit {
    /// Owns a reservation of `kib` that has been made.
    #[inline]
    pub(crate) fn new(controller: &'static Controller, kib: u64) -> Self {
        Self {
            controller,
            kib,
            shared: OnceLock::new(),
        }
    }

    /// Leaves the reservation of a permit without clones to the caller, who
    /// must release so many KiB.
    #[inline]
    pub(crate) fn into_kib(self) -> u64 {
        debug_assert!(
            self.shared.get().is_none(),
            "its clones own the reservation"
        );
        let kib = self.kib;
        std::mem::forget(self);
        kib
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.kib * 1024
    }

    /// Whether the work should stop: nobody waits for its result any more.
    ///
    /// Set once the caller is gone (the response future or its body was dropped
    /// before its end, or the peer stalled past
    /// [`body_timeout`](crate::MemoryGuardBuilder::body_timeout)); never for a permit
    /// of [`Guard::acquire`](crate::Guard::acquire). A flag to poll in synchronous work, which nothing else
    /// can interrupt.
    pub fn cancelled(&self) -> bool {
        self.shared
            .get()
            .is_some_and(|shared| shared.cancelled.load(Ordering::Relaxed))
    }

    /// Tells the clones that nobody waits for the result.
    pub(crate) fn abandon(&self) {
        if let Some(shared) = self.shared.get() {
            shared.cancelled.store(true, Ordering::Relaxed);
            if let Some(outer) = shared.outer.get() {
                outer.abandon();
            }
        }
    }

    /// The guard puts its permits where handlers find them.
    pub(crate) fn goes_into_extensions(&self) -> bool {
        self.controller.config.permit_in_extensions
    }

    pub(crate) fn controller(&self) -> &'static Controller {
        self.controller
    }

    /// Keeps the permit of a guard further out for as long as this one.
    pub(crate) fn keep(&self, outer: Permit) {
        let _ = self.share().outer.set(outer);
    }

    /// The same guard admitted it, itself or further out.
    pub(crate) fn is_of(&self, controller: &Controller) -> bool {
        std::ptr::eq(self.controller, controller)
            || self
                .shared
                .get()
                .and_then(|shared| shared.outer.get())
                .is_some_and(|outer| outer.is_of(controller))
    }

    /// Its bytes are on the same ledger, so they need not be reserved again.
    pub(crate) fn covers(&self, controller: &Controller) -> bool {
        Arc::ptr_eq(&self.controller.limiter, &controller.limiter)
    }

    fn share(&self) -> &Arc<Shared> {
        self.shared.get_or_init(|| {
            Arc::new(Shared {
                controller: self.controller,
                kib: self.kib,
                cancelled: AtomicBool::new(false),
                outer: OnceLock::new(),
            })
        })
    }
}

impl Clone for Permit {
    fn clone(&self) -> Self {
        Self {
            controller: self.controller,
            kib: self.kib,
            shared: OnceLock::from(Arc::clone(self.share())),
        }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        // With clones, the last one releases.
        if self.shared.get().is_none() {
            self.controller.release(self.kib);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.controller.release(self.kib);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("bytes", &self.bytes())
            .field("cancelled", &self.cancelled())
            .finish_non_exhaustive()
    }
}

/// A permit whose work is under way: dropped before it is taken, the permit's
/// clones are told that nobody waits for the result any more.
#[derive(Debug)]
pub(crate) struct Held(Option<Permit>);

impl Held {
    #[inline]
    pub(crate) fn new(permit: Option<Permit>) -> Self {
        Self(permit)
    }

    /// The work came to its end, and something else holds on.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Permit> {
        self.0.take()
    }

    /// The work came to its end.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if let Some(permit) = &self.0 {
            permit.abandon();
        }
    }
}
