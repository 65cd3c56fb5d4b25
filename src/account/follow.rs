//! Work that leaves its task or its thread, and keeps its account.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

use super::allocator::tell;
use super::current;
use crate::guard::checkpoint::carried::{Carried, Parts};
use crate::guard::permit::Permit;
use crate::guard::poller::{Poller, is_polling};
use crate::running::{Elsewhere, Fact, Slot};

pin_project! {
    /// A future whose memory is charged to a request; made by [`follow`] or
    /// [`Permit::follow`].
    ///
    /// Holds the request's permit until it is done or dropped.
    pub struct Followed<F> {
        // `None`: it is done.
        #[pin]
        future: Option<F>,
        poller: Poller,
        // Once something else than its request polls it.
        elsewhere: Option<Elsewhere>,
        permit: Option<Permit>,
    }

    impl<F> PinnedDrop for Followed<F> {
        fn drop(this: Pin<&mut Self>) {
            // What it held is free before the permit is, and off its account.
            let mut this = this.project();
            let _scope = this.permit.as_ref().map(Permit::enter);
            this.future.set(None);
        }
    }
}

fn elsewhere(permit: &Permit) -> Option<Elsewhere> {
    permit.slot().map(Slot::begin_elsewhere)
}

impl<F> Followed<F> {
    pub(crate) fn new(future: F, permit: Option<Permit>) -> Self {
        Self {
            future: Some(future),
            poller: Poller::default(),
            elsewhere: None,
            permit,
        }
    }
}

impl Permit {
    /// Charges the memory of `future` to this permit, wherever it is polled, and
    /// holds the permit until the future is done or dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_memory_guard::Rejected> {
    /// use tower_memory_guard::{Cost, MemoryGuardLayer};
    ///
    /// let layer = MemoryGuardLayer::from_env();
    /// let permit = layer.guard().acquire(Cost::Estimated).await?;
    /// let job = permit.follow(async { vec![1_u8; 1 << 20].len() });
    /// assert_eq!(job.await, 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    pub fn follow<F: Future>(self, future: F) -> Followed<F> {
        Followed::new(future, Some(self))
    }
}

impl<F: Future> Future for Followed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let polled = {
            let permit = this.permit.as_ref();
            let by_itself = !is_polling();
            if this.elsewhere.is_none() && by_itself {
                *this.elsewhere = permit.and_then(elsewhere);
            }
            if let Some(permit) = permit.filter(|_| by_itself) {
                // A closure may block on it.
                Carried::asks(permit.holder());
            }
            let mut growth = None;
            let _polling = ready!(this.poller.poll_followed(permit, &mut growth, cx));
            let future = this.future.as_mut().as_pin_mut();
            let polled = future.expect("polled after it was done").poll(cx);
            if polled.is_ready() {
                this.future.set(None);
            }
            polled
        };
        if polled.is_ready() {
            *this.elsewhere = None;
            *this.permit = None;
        }
        polled
    }
}

impl<F> fmt::Debug for Followed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed")
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

/// Charges the memory of `future` to the request that this code runs for, wherever
/// it is polled. Outside of a request it changes nothing.
pub fn follow<F: Future>(future: F) -> Followed<F> {
    Followed::new(future, current())
}

/// Charges the memory of `work` to the request that this code runs for, on whatever
/// thread it is called. Outside of a request it changes nothing.
///
/// ```
/// use tower_memory_guard::account;
///
/// let sum = account::carry(|| (0..1000_u64).collect::<Vec<_>>().len());
/// assert_eq!(std::thread::spawn(sum).join().unwrap(), 1000);
/// ```
pub fn carry<F, T>(work: F) -> impl FnOnce() -> T
where
    F: FnOnce() -> T,
{
    let permit = current();
    let closure = Closure {
        work: Some(work),
        elsewhere: permit.as_ref().and_then(elsewhere),
        permit,
    };
    move || closure.run()
}

/// Work that a thread will do, or never. In this order: what it holds is free before the permit
/// is.
struct Closure<F> {
    /// `None`: it is done.
    work: Option<F>,
    /// From the first on: what it holds waits for its thread with it.
    elsewhere: Option<Elsewhere>,
    permit: Option<Permit>,
}

impl<F> Closure<F> {
    fn run<T>(mut self) -> T
    where
        F: FnOnce() -> T,
    {
        let permit = self.permit.take();
        let work = self.work.take().expect("run once");
        let done = {
            // What it adds is known at its end, or at its checkpoints, which alone hold it back.
            let holder = permit.as_ref().map(Permit::holder);
            let _carried = holder.map(Carried::begin);
            let _elsewhere = self.elsewhere.take();
            let _scope = permit.as_ref().map(Permit::enter);
            let _parts = holder.map(Parts::begin);
            let done = work();
            if let Some(slot) = permit.as_ref().and_then(Permit::slot) {
                says_unheld(slot);
            }
            done
        };
        // The thread may end with it.
        tell();
        done
    }
}

impl<F> Drop for Closure<F> {
    fn drop(&mut self) {
        // No thread came to it: what it held comes off its account.
        let _scope = self.permit.as_ref().map(Permit::enter);
        self.work = None;
    }
}

/// A closure of it has run. In a poll it was held back with that.
fn says_unheld(slot: &Slot) {
    let was_held = is_polling() || slot.is(Fact::Checked);
    if !was_held && !slot.is(Fact::Unheld) {
        slot.say(Fact::Unheld);
    }
}

/// [`tokio::spawn`] for work that belongs to a request: its memory is charged to
/// the request, whose permit it keeps.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(follow(future))
}

/// [`tokio::task::spawn_blocking`] for work that belongs to a request: its memory
/// is charged to the request, whose permit it keeps, also if the caller is gone.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn_blocking<F, T>(work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(carry(work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Guard, ManualSource, MemoryGuardLayer};

    /// A guard, and memory of which so much is in use.
    fn guard(used_mib: u64) -> Guard {
        let memory = ManualSource::new(1 << 30);
        let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
        let guard = builder.build().unwrap().guard().clone();
        memory.set_usage_bytes(used_mib << 20);
        guard.sample_now();
        guard
    }

    /// Has a thread do that work for it.
    fn elsewhere(permit: &Permit, work: fn(&Permit)) {
        let carried = {
            let _scope = permit.enter();
            carry(move || work(&current().unwrap()))
        };
        std::thread::spawn(carried).join().unwrap();
    }

    #[test]
    fn who_comes_to_no_checkpoint_is_unheld() {
        let guard = guard(1);
        let is_unheld = |work: fn(&Permit)| {
            let mut permit = guard.try_acquire(1 << 20).unwrap();
            permit.start_staged();
            elsewhere(&permit, work);
            permit.slot().unwrap().is(Fact::Unheld)
        };
        assert!(is_unheld(|_| ()));
        assert!(!is_unheld(|permit| permit.checkpoint().unwrap()));
    }

    #[test]
    fn who_had_begun_before_anybody_counted_says_nothing_of_others() {
        let guard = guard(1000);
        let permit = guard.try_acquire(1 << 20).unwrap();
        assert!(permit.brakes() && permit.slot().is_none());
        elsewhere(&permit, |_| ());
        assert!(permit.slot().unwrap().is(Fact::Declared));
    }
}
