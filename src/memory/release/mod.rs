//! Giving memory back before anybody is turned away for want of it.
//!
//! Allocators keep what was freed, caches grow. When memory is short, a thread
//! of its own asks the allocators to return their free pages. Another one calls the
//! service's hooks, which may take long. The guard measures what that brought: what is
//! useless is tried less and less often. Returning pages stalls allocations meanwhile, so
//! it is done for at most a fiftieth of the time.

mod ask;
mod ffi;
mod teller;

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

/// By which memory is given back, each with a thread of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Means {
    Allocators,
    Hooks,
}

impl Means {
    const ALL: [Self; 2] = [Self::Allocators, Self::Hooks];
    const THREADS: [&str; 2] = ["memory-release", "memory-hooks"];
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
    /// Asked for, and not done yet, by each of the [`Means`].
    /// In this process, by its number; 0: not. What a fork has left behind is nobody's.
    under_way: [AtomicU32; 2],
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
        let own = std::process::id();
        let mut under_way = self.under_way.iter();
        under_way.all(|process| process.load(Ordering::Acquire) != own)
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

    /// Has memory given back soon by what may be tried now: `work` does it, on a thread
    /// of its own for each of the means.
    pub(crate) fn ask(
        &'static self,
        shortage: Shortage,
        level: Pressure,
        work: impl FnOnce(Means) + Copy + Send + 'static,
    ) {
        for means in self.due(shortage, level) {
            let own = std::process::id();
            let under_way = &self.under_way[means as usize];
            if under_way.swap(own, Ordering::AcqRel) != own {
                let run = Box::new(move || {
                    foreign::call(Code::Guard, || work(means));
                    under_way.store(0, Ordering::Release);
                });
                if worker(means).is_none_or(|worker| worker.send(run).is_err()) {
                    under_way.store(0, Ordering::Release);
                }
            }
        }
    }

    fn due(&self, shortage: Shortage, level: Pressure) -> impl Iterator<Item = Means> {
        let now = Instant::now();
        let mut state = self.state();
        if shortage >= Shortage::Urgent {
            state.trim.cut_short();
        }
        let trim = shortage > Shortage::None && state.trim.is_over(now);
        let hook = state.hooks.iter().any(|hook| hook.is_due(level, now));
        let due = [trim, hook];
        Means::ALL
            .into_iter()
            .filter(move |&means| due[means as usize])
    }

    /// Calls the hooks that may be called now, by `call`, which says how much that gave back.
    pub(crate) fn call_hooks(
        &self,
        level: Pressure,
        mut call: impl FnMut(&dyn Fn(&PressureContext)) -> u64,
    ) {
        let now = Instant::now();
        let due = |hook: &Hook| hook.is_due(level, now).then(|| Arc::clone(&hook.call));
        let due: Vec<_> = self.state().hooks.iter().map(due).collect();
        for (index, hook) in due.into_iter().enumerate() {
            let Some(hook) = hook else { continue };
            let freed_bytes = call(&|context: &PressureContext| {
                foreign::call(Code::Hook, || hook(context));
            });
            // However long it took, no allocation was stalled for it.
            let rest = &mut self.state().hooks[index].rest;
            rest.after(Duration::ZERO, freed_bytes, Instant::now());
        }
    }

    /// The allocators may be asked now.
    pub(crate) fn may_trim(&self) -> bool {
        self.state().trim.is_over(Instant::now())
    }

    /// So much did the allocators give back, in so long. What was freed meanwhile is there
    /// for the next one.
    pub(crate) fn trim_gave_back(&self, took: Duration, freed_bytes: u64, meanwhile_bytes: u64) {
        let rest = &mut self.state().trim;
        let useful_bytes = freed_bytes.max(meanwhile_bytes);
        rest.after(took, useful_bytes, Instant::now());
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The thread that does it, started when memory is first short, and again in a
/// forked child. `None` if there is no thread to be had.
fn worker(means: Means) -> Option<Sender<Work>> {
    type Worker = Option<(u32, Sender<Work>)>;
    static WORKERS: [Mutex<Worker>; 2] = [const { Mutex::new(None) }; 2];
    let process = std::process::id();
    let worker = WORKERS[means as usize].lock();
    let mut worker = worker.unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, sender)) = &*worker {
        if *owner == process {
            return Some(sender.clone());
        }
    }
    let (sender, receiver) = channel::<Work>();
    let spawned = std::thread::Builder::new()
        .name(Means::THREADS[means as usize].into())
        .spawn(move || receiver.into_iter().for_each(|work| work()));
    spawned.ok()?;
    *worker = Some((process, sender.clone()));
    Some(sender)
}
