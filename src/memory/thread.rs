//! The sampler: one reader of one or more sources, a thread, and whoever wants to know.

mod again;
mod forked;
mod named;
mod there;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Duration;

use tokio::time::Instant;

use super::subscriber::{Subscriber, blind};
use super::watched::{Named, Watched};
use super::{Detail, MemorySource};
use crate::sync::foreign::{self, Code};

/// Samples for all guards on one ledger. Each goes by the source it asked for, but all are
/// sampled together: what one's sample shows to be free is free for the others too.
pub(crate) struct Sampler {
    reader: Mutex<Reader>,
    started: Instant,
    /// Milliseconds since `started` at the last sample: the clock of those who
    /// may not read one.
    tick_ms: AtomicU64,
    /// The thread parks for long; a kick gets it up.
    dozing: AtomicBool,
    /// A sample has been asked for that has not begun.
    asked: AtomicBool,
    background: bool,
    /// Its one source is its user's.
    given: bool,
    /// What the sources said last that they watch, by their places.
    names: Mutex<Vec<String>>,
    thread: Mutex<Option<Thread>>,
    /// It is there, for those who may not take the lock.
    has_thread: AtomicBool,
    /// When there was none to be had; 0: there was.
    failed_ms: AtomicU64,
    /// The process that has the thread: a forked child does not.
    process: AtomicU32,
    /// Nor will it ever sample.
    lost: AtomicBool,
}

struct Reader {
    sources: Vec<Watched>,
    /// Replaced as a whole, so that they can be called under no lock.
    subscribers: Arc<[Subscribed]>,
}

#[derive(Clone, Copy)]
struct Subscribed {
    /// Its place among the sources.
    source: usize,
    subscriber: &'static dyn Subscriber,
}

/// A point in time, as sixteenths of a millisecond since the sampler began; they begin
/// anew after three days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) const NONE: Self = Self(0);
    /// Parts of a millisecond.
    const PARTS: u32 = 16;

    /// From one to a later one.
    pub(crate) fn until(self, later: Self) -> Duration {
        let parts = u64::from(later.0.wrapping_sub(self.0));
        Duration::from_micros(parts * 1000 / u64::from(Self::PARTS))
    }
}

/// A park longer than this is worth a kick when work arrives.
const DOZE: Duration = Duration::from_millis(250);

/// A thread that went is replaced after this.
const REPLACED_AFTER: Duration = Duration::from_millis(250);

/// The thread rests at least so long between two samples.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Dropped by a thread that goes although it should not: nobody must go on by what it
/// saw last.
struct Lifeline<'a>(&'a Arc<Sampler>);

impl Drop for Lifeline<'_> {
    fn drop(&mut self) {
        self.0.thread_is_gone();
    }
}

impl Sampler {
    /// Of a source that one gave.
    pub(crate) fn of(source: Box<dyn MemorySource>) -> Arc<Self> {
        let background = Self::background_of(&*source);
        Self::new(vec![Watched::new(None, source)], background)
    }

    /// Of no source yet: see [`watch`](Self::watch).
    pub(crate) fn of_the_system() -> Arc<Self> {
        Self::new(Vec::new(), true)
    }

    fn new(sources: Vec<Watched>, background: bool) -> Arc<Self> {
        Arc::new(Self {
            given: !sources.is_empty(),
            reader: Mutex::new(Reader {
                sources,
                subscribers: Arc::from([]),
            }),
            started: Instant::now(),
            tick_ms: AtomicU64::new(0),
            dozing: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            background,
            names: Mutex::default(),
            thread: Mutex::new(None),
            has_thread: AtomicBool::new(false),
            failed_ms: AtomicU64::new(0),
            process: AtomicU32::new(std::process::id()),
            lost: AtomicBool::new(false),
        })
    }

    /// Watches a source; one of this name only once. Says its place.
    pub(crate) fn watch(&self, name: Named, open: impl FnOnce() -> Box<dyn MemorySource>) -> usize {
        let sources = &mut self.reader().sources;
        let named = |watched: &Watched| watched.name.as_ref() == Some(&name);
        sources.iter().position(named).unwrap_or_else(|| {
            sources.push(Watched::new(Some(name), open()));
            sources.len() - 1
        })
    }

    /// Adds a subscriber to the source at this place, gives it a first sample and sees to
    /// it that the thread runs.
    pub(crate) fn subscribe(self: &Arc<Self>, subscriber: &'static dyn Subscriber, source: usize) {
        self.check_process();
        let mut reader = self.reader();
        let subscribers = reader.subscribers.iter().copied();
        let joins = Subscribed { source, subscriber };
        reader.subscribers = subscribers.chain([joins]).collect();
        drop(reader);
        self.sample_now();
        self.run();
    }

    /// Time since the sampler began, as of the last sample.
    pub(crate) fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.load(Ordering::Relaxed))
    }

    /// Time since the sampler began, by the clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Now, by the clock.
    pub(crate) fn moment(&self) -> Moment {
        let parts = self.started.elapsed().as_micros() * u128::from(Moment::PARTS) / 1000;
        Moment((parts as u32).max(1))
    }

    /// A full sample, waiting for one that is under way. Says when the next is due.
    pub(crate) fn sample_now(&self) -> Duration {
        if self.is_lost() {
            return DOZE;
        }
        let reader = self.reader();
        self.asked.store(false, Ordering::SeqCst);
        let now = self.started.elapsed();
        // Never back: where tests have paused tokio's clock, other threads have another.
        self.tick_ms
            .fetch_max(now.as_millis() as u64, Ordering::Relaxed);
        self.sample(reader, Detail::Full, now)
    }

    /// A quick sample for a request near the limit. If another is under way,
    /// that one's bounds will do: nobody waits for another's read.
    pub(crate) fn refresh(self: &Arc<Self>) {
        if self.background && self.check_process() {
            return;
        }
        let Some(reader) = self.free_reader() else {
            return;
        };
        // The tick, not the clock: a request must not pay for the time of day.
        self.sample(reader, Detail::Quick, self.tick());
    }

    /// Gets the thread up if it dozes: work has arrived.
    #[inline]
    pub(crate) fn kick(self: &Arc<Self>) {
        // SeqCst, here and where it is set: either this sees that the thread
        // dozes, or the thread sees the reservation that was made before.
        if self.dozing.load(Ordering::SeqCst) && self.dozing.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Gets the thread up if its last sample is older than this: it may have
    /// chosen a long pause before anybody waited. Reads the clock.
    pub(crate) fn wake_if_older(self: &Arc<Self>, age: Duration) {
        if self.started.elapsed().saturating_sub(self.tick()) > age {
            self.unpark();
        }
    }

    /// Work has ended and somebody waits for its memory: a sample shows whether
    /// it is free. Without a thread, it is taken here.
    #[cold]
    pub(crate) fn request_sample(self: &Arc<Self>) {
        // SeqCst, here and where it is cleared: a sample that clears it sees what was
        // given back before.
        if self.asked.swap(true, Ordering::SeqCst) {
            return;
        }
        if !self.unpark() {
            self.sample_now();
        }
    }

    /// Gets the thread up; `false` if there is none.
    #[cold]
    pub(crate) fn unpark(self: &Arc<Self>) -> bool {
        if self.check_process() || self.lost.load(Ordering::Relaxed) {
            return true;
        }
        self.run_again();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().map(Thread::unpark).is_some()
    }

    fn sample(
        &self,
        mut reader: MutexGuard<'_, Reader>,
        detail: Detail,
        now: Duration,
    ) -> Duration {
        let Reader {
            sources,
            subscribers,
            ..
        } = &mut *reader;
        for one in subscribers.iter() {
            foreign::call(Code::Guard, || one.subscriber.before_sample(detail, now));
        }
        for (place, watched) in sources.iter_mut().enumerate() {
            // All that wanted it may be gone.
            if subscribers.iter().any(|one| one.source == place) {
                watched.read(detail);
            }
        }
        let mut act = Some(detail == Detail::Full);
        for one in subscribers.iter() {
            let Watched { read, sample, .. } = &sources[one.source];
            let sample = read.as_ref().map(|()| sample);
            let acts = foreign::call(Code::Guard, || {
                one.subscriber.on_sample(sample, detail, now)
            })
            .unwrap_or_else(|| blind(one.subscriber, "the decision panicked", detail, now));
            act = act.zip(acts).map(|(all, one)| all | one);
        }
        if act.is_some() {
            for one in subscribers.iter() {
                foreign::call(Code::Guard, || one.subscriber.have_decided());
            }
        }
        let warnings = sources.iter_mut().map(|one| &mut one.sample.warnings);
        let warnings: Vec<_> = warnings.flat_map(std::mem::take).collect();
        if act != Some(true) && warnings.is_empty() {
            return DOZE;
        }
        let subscribers = Arc::clone(subscribers);
        drop(reader);
        crate::telemetry::logs::warnings(&warnings);
        if act.is_none() {
            return DOZE;
        }
        let full = detail == Detail::Full;
        let due = subscribers.iter().map(|one| {
            let acted = foreign::call(Code::Guard, || one.subscriber.after_sample(full, now));
            acted.unwrap_or(DOZE)
        });
        due.min().unwrap_or(DOZE)
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: a sample is under way.
    fn free_reader(&self) -> Option<MutexGuard<'_, Reader>> {
        match self.reader.try_lock() {
            Ok(reader) => Some(reader),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn run(self: &Arc<Self>) {
        self.run_after(Duration::ZERO);
    }

    fn run_after(self: &Arc<Self>, pause: Duration) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*thread {
            // It may rest for longer than whoever has come now would have it.
            return thread.unpark();
        }
        if !self.background {
            return;
        }
        let sampler = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("memory-guard".into())
            .spawn(move || {
                std::thread::sleep(pause);
                let lifeline = Lifeline(&sampler);
                sampler.work();
                std::mem::forget(lifeline);
            });
        match spawned {
            Ok(handle) => self.set_thread(&mut thread, Some(handle.thread().clone())),
            // Admissions near the limit still sample.
            Err(error) => self.has_no_thread(&error),
        }
    }

    /// All go by their policy for failures, until another thread samples.
    #[cold]
    fn thread_is_gone(self: &Arc<Self>) {
        self.forget_thread();
        let now = self.started.elapsed();
        let subscribers = {
            let reader = self.reader();
            for one in reader.subscribers.iter() {
                blind(
                    one.subscriber,
                    "the sampling thread ended",
                    Detail::Full,
                    now,
                );
            }
            Arc::clone(&reader.subscribers)
        };
        for one in subscribers.iter() {
            foreign::call(Code::Guard, || one.subscriber.after_sample(true, now));
        }
        self.run_after(REPLACED_AFTER);
    }

    /// Samples for as long as there is somebody to sample for.
    fn work(&self) {
        loop {
            let pause = self.sample_now();
            let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reader = self.reader();
            let subscribers = reader.subscribers.iter().copied();
            let staying: Vec<_> = subscribers.filter(|one| !one.subscriber.leaves()).collect();
            if staying.len() < reader.subscribers.len() {
                reader.subscribers = staying.into();
            }
            if reader.subscribers.is_empty() {
                // The next to subscribe starts another.
                self.set_thread(&mut thread, None);
                return;
            }
            let subscribers = Arc::clone(&reader.subscribers);
            drop((reader, thread));
            // Only an idle thread is kicked: otherwise requests that come one by
            // one would each cause a sample.
            if pause > DOZE && subscribers.iter().all(|one| one.subscriber.was_idle()) {
                self.dozing.store(true, Ordering::SeqCst);
                if subscribers.iter().any(|one| one.subscriber.has_work()) {
                    // It came before the flag: look again.
                    self.dozing.store(false, Ordering::SeqCst);
                    continue;
                }
            }
            let parked = Instant::now();
            std::thread::park_timeout(pause);
            // Woken early again and again, it would do nothing but sample.
            let least = SHORTEST_PAUSE.min(pause);
            std::thread::sleep(least.saturating_sub(parked.elapsed()));
            self.dozing.store(false, Ordering::SeqCst);
        }
    }
}
