//! [`Stage`]: what a request has of its memory, and how it comes to have the rest.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::{Extensions, Request};
use tokio::time::Instant;

use crate::classify::labels::Demand;
use crate::error::Rejected;
use crate::guard::permit::Permit;
use crate::guard::staged::{Remainder, StagedWork};
use crate::guard::waiting::Waiting;
use crate::http::deadline;
use crate::telemetry::logs::say;

/// The body is read; only its bytes are reserved.
const READING: u8 = 0;
/// The body was dropped before its end; nobody will wait for the rest.
const LET_GO: u8 = 1;
/// The rest is reserved, or the request turned away.
const SETTLED: u8 = 2;

/// Somebody was told that the layer is missing.
static TOLD: AtomicBool = AtomicBool::new(false);

/// One staged request, in its extensions from its guard to the layer that takes it.
///
/// The body reads and finishes; the response future looks at what came of it.
pub(crate) struct Stage {
    work: StagedWork,
    /// When the request's caller gives up.
    callers: Option<Instant>,
    state: AtomicU8,
    taken: AtomicBool,
    rejected: OnceLock<Rejected>,
}

/// The work of a request begins, or its body comes first. `since`: it waited from then on.
#[inline]
pub(crate) fn begin<B>(
    permit: &mut Permit,
    demand: Demand,
    request: &mut Request<B>,
    since: Option<Instant>,
) {
    match demand.is_for_body() {
        false => permit.start(),
        true => begin_staged(permit, demand, request, since),
    }
}

#[cold]
fn begin_staged<B>(
    permit: &mut Permit,
    demand: Demand,
    request: &mut Request<B>,
    since: Option<Instant>,
) {
    let Some(work) = StagedWork::begin(permit, demand) else {
        return;
    };
    let config = permit.state().config();
    let left = deadline::of_caller(request.headers(), &config.deadline_headers);
    let stage = Stage {
        work,
        callers: left.and_then(|left| since.unwrap_or_else(Instant::now).checked_add(left)),
        state: AtomicU8::new(READING),
        taken: AtomicBool::new(false),
        rejected: OnceLock::new(),
    };
    request.extensions_mut().insert(Arc::new(stage));
}

/// The stage of a request on its way to the layer.
pub(crate) fn of<B>(request: &Request<B>) -> Option<Arc<Stage>> {
    request.extensions().get().cloned()
}

pub(super) fn take(extensions: &mut Extensions) -> Option<Arc<Stage>> {
    let stage = extensions.remove::<Arc<Stage>>()?;
    stage.taken.store(true, Ordering::Relaxed);
    Some(stage)
}

impl Stage {
    /// So many bytes of the body are there; the reservation grows if it has to.
    pub(super) fn read(&self, bytes: usize) -> Result<(), Rejected> {
        let grown = self.work.read(bytes);
        grown.map_err(|rejected| self.reject(rejected))
    }

    /// The body is there: ready once the rest is reserved. Settled when it is ready.
    pub(super) fn poll_rest(
        &self,
        waiting: &mut Option<Box<Waiting>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejected>> {
        let reserved = if let Some(waits) = waiting {
            ready!(waits.poll_kib(cx))
        } else {
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            match self.work.admit_rest(self.callers.map(left)) {
                Ok(Remainder::Reserved(kib)) => Ok(kib),
                Ok(Remainder::Waiting(waits)) => {
                    ready!(waiting.insert(Box::new(waits)).poll_kib(cx))
                }
                Err(rejected) => Err(rejected),
            }
        };
        *waiting = None;
        let settled = reserved.map(|kib| {
            self.work.has(kib);
            self.end(READING);
        });
        Poll::Ready(settled.map_err(|rejected| self.reject(rejected)))
    }

    /// Leaves the rejection to the response future.
    fn reject(&self, rejected: Rejected) -> Rejected {
        self.work.turn_away();
        let _ = self.rejected.set(rejected.clone());
        // Before the future is woken, so that it sees the rejection.
        self.end(READING);
        self.work.wake();
        rejected
    }

    pub(crate) fn rejected(&self) -> Option<&Rejected> {
        self.rejected.get()
    }

    /// Reading → let go: the body is dropped before its end.
    pub(super) fn let_go(&self) {
        self.moves(READING, LET_GO);
    }

    /// Let go → settled: the handler works on without its body.
    pub(crate) fn catch_up(&self) {
        if self.state.load(Ordering::Acquire) == LET_GO && self.end(LET_GO) {
            self.work.force_rest();
        }
    }

    pub(crate) fn answered(&self) {
        let missing = !self.taken.load(Ordering::Relaxed);
        if missing && !TOLD.swap(true, Ordering::Relaxed) {
            say!(
                warn,
                "the memory guard stages bodies, and a request was answered that no \
                 StagedBodyLayer had seen; it has to be inside of the guard"
            );
        }
    }

    /// To settled; `false` if it was not in the state `from`.
    fn end(&self, from: u8) -> bool {
        let ended = self.moves(from, SETTLED);
        if ended {
            self.work.end();
        }
        ended
    }

    fn moves(&self, from: u8, to: u8) -> bool {
        let (moved, not) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(from, to, moved, not).is_ok()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if *self.state.get_mut() != SETTLED {
            self.work.unstage();
        }
    }
}
