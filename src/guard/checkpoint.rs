//! Checkpoints: places at which work that no guard polls may be paused.
//!
//! What the part up to the next checkpoint may add is taken from the headroom and counted
//! as added at once; samples show what really was. So nothing is held for a part whose
//! end nobody tells. What a thread adds between two checkpoints is known at the second
//! one, and is what the next part may add. Of a closure that follows its request the end is
//! told, and so is that of its last part.

#[cfg(feature = "account")]
pub(crate) mod carried;

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use super::permit::Permit;
use super::poller::{self, Leave, Mark, Poller};
use super::state::State;
use crate::error::Cancelled;
use crate::running::brake::Ahead;
use crate::running::{Fact, Slot, SlotRef};

/// Threads that are parked at once, at most: half of tokio's for work that blocks, so that
/// others still find one.
const MOST_PARKED: u32 = 256;
static PARKED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Since this thread's last checkpoint while the brake was on.
    static PART: Cell<Option<Part>> = const { Cell::new(None) };
}

/// The part of the work from one checkpoint on.
#[derive(Clone, Copy)]
struct Part {
    request: SlotRef,
    from: Mark,
    reported_bytes: u64,
    ending: bool,
    ahead: Ahead,
}

impl Part {
    /// Takes effect on this thread.
    fn begin(leave: Leave) {
        let part = Self::of(leave.state, leave.slot, leave.ending);
        let ahead = leave.taken.begin_part(leave.state.sampler.tick());
        PART.set(Some(Self { ahead, ..part }));
    }

    /// Nothing of it is counted yet.
    fn of(state: &State, slot: &'static Slot, ending: bool) -> Self {
        Self {
            request: slot.request(),
            from: Mark::of_work(state.is_accounted()),
            reported_bytes: slot.reported_bytes(),
            ending,
            ahead: Ahead::default(),
        }
    }

    /// What this thread has added since its last checkpoint is counted, if that was the
    /// same work's.
    fn end(permit: &Permit) {
        let Some((part, slot)) = PART.take().zip(permit.slot()) else {
            return;
        };
        if part.request != slot.request() {
            return;
        }
        let added = part.from.count();
        let said_bytes = slot.reported_bytes() as i64 - part.reported_bytes as i64;
        let unsaid_bytes = added.unsaid(added.bytes, said_bytes);
        if !is_charged(permit, slot) {
            slot.charge(unsaid_bytes, 1);
        }
        let grown_bytes = unsaid_bytes.max(0).saturating_add(said_bytes.max(0));
        (permit.state()).grew(slot, grown_bytes as u64, part.ending);
        permit.state().brake.end_part(part.ahead, grown_bytes);
    }
}

/// An allocator charges it for what this thread allocates.
fn is_charged(permit: &Permit, slot: &Slot) -> bool {
    permit.state().is_accounted() && crate::running::charge::charges(slot)
}

/// One of the threads that may be parked.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let before = PARKED.fetch_add(1, Ordering::Relaxed);
        // Dropped at once if there were too many.
        let place = Self;
        (before < MOST_PARKED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PARKED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes a thread.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Parked {
    fn wait(&self) {
        // Others may unpark the thread too.
        while !self.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

impl Permit {
    /// A place at which synchronous work may be paused: blocks the thread until there is
    /// room for what the work may add up to its next checkpoint.
    ///
    /// That is the most that it has added between two checkpoints so far, by what this
    /// thread allocates or, where no allocator tells that, by what the process adds
    /// meanwhile and nobody else is found to have added, and by what is
    /// [`report`](Self::report)ed; at first what work of its class adds, or all
    /// that is reserved. The more checkpoints, the less has to be free for each part:
    /// call it before each part that grows.
    ///
    /// Blocks while there is no room; after
    /// [`max_pause`](crate::MemoryGuardBuilder::max_pause) (default 5 s) in all the work
    /// comes first in the order, and still needs room. With critical [priority](crate::Priority) it
    /// never does, nor where 256 threads of the process are blocked by checkpoints
    /// already, nor where a guarded request, body or followed future is polled on this
    /// thread: those are paused between their polls. Other async work must use
    /// [`checkpoint_async`](Self::checkpoint_async), or it blocks its runtime's thread.
    ///
    /// While memory is far from its limit (the brake is off) it takes a nanosecond or two.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] if the work should stop, as [`cancelled`](Self::cancelled) says; at
    /// once if that happens meanwhile.
    ///
    /// ```
    /// use axum::Extension;
    /// use axum::http::StatusCode;
    /// use tower_memory_guard::{Cancelled, Permit};
    ///
    /// async fn render(Extension(permit): Extension<Permit>) -> Result<String, StatusCode> {
    ///     let work = move || -> Result<String, Cancelled> {
    ///         let mut rows = Vec::new();
    ///         for row in 0..3 {
    ///             permit.checkpoint()?;
    ///             rows.push(format!("row {row}"));
    ///         }
    ///         Ok(rows.join("\n"))
    ///     };
    ///     let rendered = tokio::task::spawn_blocking(work).await;
    ///     let rendered = rendered.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    ///     rendered.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    /// }
    /// ```
    #[inline]
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        if self.brakes() {
            return self.pass();
        }
        // What was added since the last one is more than one part.
        PART.set(None);
        self.can_be_told();
        self.go_on()
    }

    /// A place at which async work may be paused that no guard polls, such as a task that
    /// keeps a permit: ready once there is room for what the work may add up to its next
    /// checkpoint.
    ///
    /// That is what work of its class adds in one part, or all that is reserved. Guarded
    /// requests, their bodies and [`follow`](Self::follow)ed work are paused by
    /// themselves: there it is ready at once. Otherwise as
    /// [`checkpoint`](Self::checkpoint).
    ///
    /// # Errors
    ///
    /// [`Cancelled`] if the work should stop, as [`cancelled`](Self::cancelled) says; at
    /// once if that happens meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_memory_guard::{Cancelled, Cost, MemoryGuardLayer};
    ///
    /// let guard = MemoryGuardLayer::builder().build()?.guard().clone();
    /// let permit = guard.acquire(Cost::Estimated).await?;
    /// let job = tokio::spawn(async move {
    ///     let mut rows = Vec::new();
    ///     for row in 0..3 {
    ///         permit.checkpoint_async().await?;
    ///         rows.push(row);
    ///     }
    ///     Ok::<_, Cancelled>(rows)
    /// });
    /// assert_eq!(job.await??, [0, 1, 2]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn checkpoint_async(&self) -> Result<(), Cancelled> {
        self.can_be_told();
        if !self.brakes() || poller::is_polling() {
            return self.go_on();
        }
        // A closure may block on it.
        #[cfg(feature = "account")]
        carried::Carried::asks(self.holder());
        let mut poller = Poller::default();
        let leave = poll_fn(|cx| self.poll_leave(&mut poller, cx)).await?;
        if let Some(leave) = leave {
            leave.taken.charge_all();
        }
        Ok(())
    }

    /// For how long the work has been paused so far, in all, to the millisecond. Several
    /// of its parts that are paused at once count once.
    ///
    /// For time limits that should leave it out:
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use tower_memory_guard::Permit;
    ///
    /// fn is_too_slow(permit: &Permit, began: Instant) -> bool {
    ///     began.elapsed().saturating_sub(permit.paused()) > Duration::from_secs(30)
    /// }
    /// ```
    pub fn paused(&self) -> Duration {
        let now = || self.holder().state().sampler.now();
        self.slot()
            .map_or(Duration::ZERO, |slot| slot.paused(now()))
    }

    /// Work elsewhere asks whether it should stop: it can be cancelled.
    #[inline]
    fn can_be_told(&self) {
        let unchecked = (self.holder().slot()).filter(|slot| !slot.is(Fact::Checked));
        // What is polled is told by its guard, and says nothing of work elsewhere.
        if let Some(slot) = unchecked.filter(|_| !poller::is_polling()) {
            slot.say(Fact::Checked);
        }
    }

    fn go_on(&self) -> Result<(), Cancelled> {
        match self.cancelled() {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }

    #[cold]
    fn pass(&self) -> Result<(), Cancelled> {
        if poller::is_polling() {
            return self.go_on();
        }
        self.can_be_told();
        let holder = self.holder();
        #[cfg(feature = "account")]
        carried::Carried::asks(holder);
        Part::end(holder);
        self.go_on()?;
        let leave = match Leave::ask(holder, false, false) {
            Ok(leave) => leave,
            Err(_) => match Place::take() {
                Some(_place) => self.wait()?,
                None => Leave::take(holder, false),
            },
        };
        if let Some(leave) = leave {
            Part::begin(leave);
        }
        Ok(())
    }

    /// Blocks until there is room.
    fn wait(&self) -> Result<Option<Leave>, Cancelled> {
        let parked = Arc::new(Parked {
            thread: std::thread::current(),
            woken: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&parked));
        let cx = Context::from_waker(&waker);
        let mut poller = Poller::default();
        loop {
            match self.poll_leave(&mut poller, &cx) {
                Poll::Ready(leave) => return leave,
                Poll::Pending => parked.wait(),
            }
        }
    }

    fn poll_leave(
        &self,
        poller: &mut Poller,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Leave>, Cancelled>> {
        let leave = poller.poll_leave(self.holder(), false, cx);
        // After it is paused: who says so later, wakes it.
        match self.go_on() {
            Ok(()) => leave.map(Ok),
            Err(cancelled) => Poll::Ready(Err(cancelled)),
        }
    }
}
