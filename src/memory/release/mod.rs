//! Giving memory back before anybody is turned away for want of it.
//!
//! Allocators keep what was freed, caches grow. When memory is short, a thread
//! of its own asks the allocators to return their free pages and calls the
//! service's hooks. The guard measures what that brought: what is useless is tried less
//! and less often. Returning pages stalls allocations meanwhile, so it is done
//! for at most a fiftieth of the time.

mod ask;
mod ffi;
mod teller;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pressure::Pressure;
use crate::sync::foreign::{self, Code};
pub(crate) use ffi::{allocated_bytes, thread_bytes};
pub(crate) use teller::{Teller, is_mapped, see_mapped};

/// After each trim, so many times its duration pass before the next.
const REST: u32 = 49;
/// And at least this.
const SHORTEST_REST: Duration = Duration::from_millis(20);
const SHORTEST_HOOK_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// What brings less is useless.
pub(crate) const USEFUL_BYTES: u64 = 1 << 20;

/// What a hook of [`Guard::on_pressure`](crate::Guard::on_pressure) is told.
#[derive(Clone, Debug)]
pub struct PressureContext {
    pub(crate) level: Pressure,
    pub(crate) usage_bytes: u64,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) wanted_bytes: u64,
}

impl PressureContext {
    /// The pressure level.
    pub fn level(&self) -> Pressure {
        self.level
    }

    /// Bytes in use.
    pub fn usage_bytes(&self) -> u64 {
        self.usage_bytes
    }

    /// Bytes at which something is killed or, where nothing is, the kernel throttles
    /// (`memory.high`); `None` while no limit is known.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.limit_bytes
    }

    /// Bytes that would have to be freed for the next request to be admitted.
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }
}

/// How much memory is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shortage {
    None,
    /// Somebody is held back for want of memory.
    Some,
    /// The limit is near, and what allocators keep was counted on.
    Urgent,
    /// Nobody in flight gets on: whatever there may be is asked for.
    Stuck,
}

type Call = dyn Fn(&PressureContext) + Send + Sync;

struct Hook {
    level: Pressure,
    call: Arc<Call>,
    rest: Backoff,
}

impl Hook {
    fn is_due(&self, level: Pressure, now: Instant) -> bool {
        level >= self.level && self.rest.is_over(now)
    }
}

/// A hook that may be called.
pub(crate) struct DueHook {
    index: usize,
    call: Arc<Call>,
}

impl DueHook {
    pub(crate) fn call(&self, context: &PressureContext) {
        foreign::call(Code::Hook, || (self.call)(context));
    }
}

/// When to try again.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    shortest: Duration,
    pause: Duration,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    fn new(shortest: Duration) -> Self {
        Self {
            shortest,
            pause: shortest,
            since: None,
            until: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// It was tried, stalled allocations for so long and brought so much.
    fn after(&mut self, took: Duration, freed_bytes: u64, now: Instant) {
        self.pause = match freed_bytes >= USEFUL_BYTES {
            true => self.shortest,
            false => (self.pause * 2).min(LONGEST_REST),
        };
        self.since = Some(now);
        self.until = Some(now + self.pause.max(took * REST));
    }

    /// The shortest rest must do.
    fn cut_short(&mut self) {
        let shortest = self.since.map(|since| since + self.shortest);
        self.until = self.until.min(shortest);
    }
}

/// What the allocator has of the system and is not allocated, resident or not.
pub(crate) fn kept_bytes() -> Option<u64> {
    ffi::obtained().map(|obtained| obtained.kept_bytes)
}

/// Polls are told what is allocated.
pub(crate) fn tells_quickly() -> bool {
    thread_bytes().is_some() || (ask::has_time() && Teller::now() == Teller::Allocator)
}

/// Asks the allocators to give back what they keep. Says how long it took.
pub(crate) fn trim() -> Duration {
    let started = Instant::now();
    ffi::give_back();
    started.elapsed()
}

/// What one guard has tried to have memory given back, and when it may try again.
#[derive(Default)]
pub(crate) struct Release {
    state: Mutex<State>,
    /// Asked for, and not done yet.
    /// In this process, by its number; 0: not. What a fork has left behind is nobody's.
    under_way: AtomicU32,
}

struct State {
    trim: Backoff,
    hooks: Vec<Hook>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            trim: Backoff::new(SHORTEST_REST),
            hooks: Vec::new(),
        }
    }
}

impl Release {
    /// Nothing is done for the guard at the moment.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Acquire) != std::process::id()
    }

    /// As if nothing had been tried so far, without hooks.
    pub(crate) fn forget(&self) {
        let old = std::mem::take(&mut *self.state());
        // Unlocked: hooks are the user's, and so is what they drop.
        foreign::call(Code::Hook, || drop(old));
    }

    pub(crate) fn add_hook(&self, level: Pressure, call: Arc<Call>) {
        self.state().hooks.push(Hook {
            level,
            call,
            rest: Backoff::new(SHORTEST_HOOK_REST),
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has memory given back soon, if anything may be tried now: `work` does it, on a
    /// thread of its own.
    pub(crate) fn ask(
        &'static self,
        shortage: Shortage,
        level: Pressure,
        work: impl FnOnce() + Send + 'static,
    ) {
        let now = Instant::now();
        let due = {
            let mut state = self.state();
            if shortage >= Shortage::Urgent {
                state.trim.cut_short();
            }
            let mut hooks = state.hooks.iter();
            (shortage > Shortage::None && state.trim.is_over(now))
                || hooks.any(|hook| hook.is_due(level, now))
        };
        let own = std::process::id();
        if due && self.under_way.swap(own, Ordering::AcqRel) != own {
            let work = Work {
                of: self,
                run: Box::new(work),
            };
            let sent = worker().is_some_and(|worker| worker.send(work).is_ok());
            if !sent {
                self.under_way.store(0, Ordering::Release);
            }
        }
    }

    /// The hooks that may be called now.
    pub(crate) fn due_hooks(&self, level: Pressure, now: Instant) -> Vec<DueHook> {
        let state = self.state();
        let due = state.hooks.iter().enumerate();
        let due = due.filter(|(_, hook)| hook.is_due(level, now));
        due.map(|(index, hook)| DueHook {
            index,
            call: Arc::clone(&hook.call),
        })
        .collect()
    }

    /// The allocators may be asked now.
    pub(crate) fn may_trim(&self, now: Instant) -> bool {
        self.state().trim.is_over(now)
    }

    /// So much did a hook give back. However long it took, no allocation was stalled for it.
    pub(crate) fn hook_gave_back(&self, hook: &DueHook, freed_bytes: u64) {
        let rest = &mut self.state().hooks[hook.index].rest;
        rest.after(Duration::ZERO, freed_bytes, Instant::now());
    }

    /// So much did the allocators give back, in so long. What was freed meanwhile is there
    /// for the next one.
    pub(crate) fn trim_gave_back(&self, took: Duration, freed_bytes: u64, meanwhile_bytes: u64) {
        let rest = &mut self.state().trim;
        let useful_bytes = freed_bytes.max(meanwhile_bytes);
        rest.after(took, useful_bytes, Instant::now());
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Release")
            .field("is_idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}

struct Work {
    of: &'static Release,
    run: Box<dyn FnOnce() + Send>,
}

/// The thread that does it, started when memory is first short, and again in a
/// forked child. `None` if there is no thread to be had.
fn worker() -> Option<Sender<Work>> {
    static WORKER: Mutex<Option<(u32, Sender<Work>)>> = Mutex::new(None);
    let process = std::process::id();
    let mut worker = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, sender)) = &*worker {
        if *owner == process {
            return Some(sender.clone());
        }
    }
    let (sender, receiver) = channel::<Work>();
    let spawned = std::thread::Builder::new()
        .name("memory-release".into())
        .spawn(move || {
            for work in receiver {
                foreign::call(Code::Guard, work.run);
                work.of.under_way.store(0, Ordering::Release);
            }
        });
    spawned.ok()?;
    *worker = Some((process, sender.clone()));
    Some(sender)
}
