//! What was learned, in a file that outlives the process.
//!
//! [`Keeper`] reads it at the start and writes it while requests run, on a thread of its
//! own: a disk that hangs must neither hold up requests nor blind the sampler. What is in
//! the file says [`forecast::state`](crate::forecast::state), when it is out of date
//! [`forecast::news`](crate::forecast::news).

mod alive;
mod files;
mod owner;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use owner::Owner;

use crate::forecast::news::Known;
use crate::forecast::state::{AtLeast, State, checksum};
use crate::telemetry::logs::{self, say};

/// Shortest time between two looks: a request that grows by a GiB in a second grows by
/// 50 MiB in it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is asked whether the file that was another's is so still: it may be that of a
/// process that this one takes the place of.
const ASKS_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two writes, unless a request exceeds all that is known.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Whoever closes a guard waits for so long at most until what was learned last is written.
const WAITS_FOR: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    /// Why nothing was written at the start.
    problem: Option<String>,
    was_read: bool,
    /// That opened it: in a forked child the file's lock may be held for ever.
    process: u32,
    writer: OnceLock<Writer>,
    file: Mutex<Written>,
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    thread: Thread,
    /// Nobody sends anything; disconnected, it has written what was known when the guard was
    /// closed, or has ended.
    closes: Mutex<Receiver<Infallible>>,
}

/// Whether more is to be kept.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum More {
    Comes,
    /// The guard is closed, and some of its requests run still.
    Ends,
    Nothing,
}

/// The file, as far as this guard has written or read it.
#[derive(Debug, Default)]
struct Written {
    /// `None`: it is not ours, or no longer.
    owner: Option<Owner>,
    asked: Option<Instant>,
    closed: bool,
    known: Known,
    checksum: u64,
    tried: Option<Instant>,
    /// The last write failed, and that was said.
    failed: bool,
}

/// What a guard finds when it starts.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) keeper: Option<Box<Keeper>>,
    pub(crate) learned: Option<State>,
    pub(crate) warnings: Vec<String>,
}

/// Reads the file, and sees to it that nobody else writes it.
pub(crate) fn open(path: &Path) -> Opened {
    let (mut warnings, shown) = (Vec::new(), path.display());
    let resolved = files::resolve(path);
    let text = files::read(&resolved).map_err(|error| error.to_string());
    let read = text.and_then(|text| {
        let text = text.as_deref();
        let state = text.map(State::parse).transpose()?;
        Ok((state, text.map_or(0, checksum)))
    });
    let (learned, checksum) = read.unwrap_or_else(|problem| {
        let problem = format!("what was learned is not read from {shown}: {problem}");
        warnings.push(problem);
        (None, 0)
    });
    let owner = Owner::new(resolved.clone());
    let problem = owner.as_ref().err().cloned();
    if let Some(problem) = &problem {
        warnings.push(format!("what is learned is not kept in {shown}: {problem}"));
    }
    let known = learned.as_ref().map(Known::new).unwrap_or_default();
    Opened {
        keeper: Some(Box::new(Keeper {
            path: resolved,
            problem,
            was_read: learned.is_some(),
            process: std::process::id(),
            writer: OnceLock::new(),
            file: Mutex::new(Written {
                owner: owner.ok(),
                asked: Some(Instant::now()),
                known,
                checksum,
                ..Written::default()
            }),
        })),
        learned,
        warnings,
    }
}

impl Written {
    fn is_due(&self) -> bool {
        self.tried.is_none_or(|at| at.elapsed() >= WRITE_EVERY)
    }
}

impl Keeper {
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(crate) fn was_read(&self) -> bool {
        self.was_read
    }

    /// Has `look` called in a thread, once after each [`wake`](Self::wake), but not more
    /// often than is of use; until it says that there is nothing more to do.
    pub(crate) fn run(&self, look: impl Fn() -> More + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("memory-guard-st".into());
        let (open, closes) = channel();
        let work = move || {
            let mut open: Option<Sender<Infallible>> = Some(open);
            loop {
                let more = look();
                if more != More::Comes {
                    drop(open.take());
                }
                if more == More::Nothing {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
                // Once it is closed it asks by itself: the process may end with its last request.
                if more == More::Comes {
                    std::thread::park();
                }
            }
        };
        let handle = thread.spawn(work)?;
        // Only whoever starts the guard calls this.
        let _ = self.writer.set(Writer {
            thread: handle.thread().clone(),
            closes: Mutex::new(closes),
        });
        Ok(())
    }

    pub(crate) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.thread.unpark();
        }
    }

    /// Writes what `state` says if the file is out of date. `running` and
    /// `usage_average` are what requests in flight need at least.
    pub(crate) fn look(
        &self,
        running: &[AtLeast],
        usage_average: Option<f64>,
        state: impl FnOnce() -> State,
    ) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.owner.is_none() && !self.takes_over(&mut file) {
            return;
        }
        let due = file.is_due();
        let surprise = file.known.is_exceeded(running, usage_average);
        // What failed is not tried again and again.
        if !due && (!surprise || file.failed) {
            return;
        }
        let state = state();
        if surprise || file.known.is_outdated(&state) {
            self.write(&mut file, &state);
        }
    }

    /// The file was another's, and is so no more.
    fn takes_over(&self, file: &mut Written) -> bool {
        let rested = file.asked.is_none_or(|at| at.elapsed() >= ASKS_EVERY);
        if file.closed || !rested || self.process != std::process::id() {
            return false;
        }
        file.asked = Some(Instant::now());
        file.owner = Owner::new(self.path.clone()).ok();
        if file.owner.is_none() {
            return false;
        }
        // What it holds is what the other has learned.
        file.checksum = 0;
        say!(
            info,
            path = %self.path.display(),
            "what is learned is kept from now on: nobody else writes the file any more"
        );
        true
    }

    /// Has the thread see that the guard is closed: it writes what was learned so far, and ends
    /// once nothing more comes. Waits for the former, but not for a disk that hangs. `false`: there
    /// is no thread.
    pub(crate) fn finish(&self) -> bool {
        // In a forked child there is none, and its parent goes on writing.
        let here = self.process == std::process::id();
        let Some(writer) = self.writer.get().filter(|_| here) else {
            return false;
        };
        writer.thread.unpark();
        let closes = writer.closes.lock().unwrap_or_else(PoisonError::into_inner);
        if closes.recv_timeout(WAITS_FOR) == Err(RecvTimeoutError::Timeout) {
            logs::warnings(&[format!(
                "what was learned last is not written yet to {}: nobody waits any longer",
                self.path.display()
            )]);
        }
        true
    }

    /// Of a guard that is closed: writes what `state` says if the file is out of date, and lets
    /// others write once nothing runs that it says to run. The process may end with its last
    /// request, before that is seen: of those that run only who exceeds all that is learned is
    /// said to.
    pub(crate) fn close(&self, state: impl FnOnce() -> State) -> More {
        if self.process != std::process::id() {
            return More::Nothing;
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let is_closing = std::mem::replace(&mut file.closed, true);
        if file.owner.is_none() {
            return More::Nothing;
        }
        let mut state = state();
        let is_over = state.running.is_empty();
        let running = std::mem::take(&mut state.running);
        let learned = Known::new(&state);
        let exceeds = |one: &AtLeast| learned.is_exceeded(std::slice::from_ref(one), None);
        state.running = running.into_iter().filter(exceeds).collect();
        let surprise = file.known.is_exceeded(&state.running, None);
        let due = is_over || !is_closing || file.is_due() || (surprise && !file.failed);
        if due && (file.known.is_outdated(&state) || file.known.have_ended(&state)) {
            self.write(&mut file, &state);
        }
        if is_over {
            file.owner = None;
            return More::Nothing;
        }
        More::Ends
    }

    fn write(&self, file: &mut Written, state: &State) {
        // A forked child has no such thread, and its parent goes on writing.
        let owned = file.owner.as_ref().is_some_and(Owner::is_this_process);
        if !owned || state.is_empty() {
            if owned && file.known.have_ended(state) {
                // Nothing is known but who ran.
                let _ = std::fs::remove_file(&self.path);
            }
            return;
        }
        let text = state.to_text();
        let checksum = checksum(text.as_bytes());
        if checksum == file.checksum {
            return;
        }
        file.tried = Some(Instant::now());
        match files::replace(&self.path, &text) {
            Ok(()) => {
                file.known = Known::new(state);
                file.checksum = checksum;
                file.failed = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut file.failed, true) {
                    let path = self.path.display();
                    logs::warnings(&[format!("what is learned cannot be kept in {path}: {error}")]);
                }
            }
        }
    }
}

#[cfg(test)]
impl Keeper {
    /// Until that is dropped, the disk hangs.
    pub(crate) fn hang(&self) -> impl Drop + '_ {
        self.file.lock().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(bytes: u64, seen: u64) -> State {
        let text = format!("tower-memory-guard state 1\nusage {bytes} {seen}\n");
        let sum = checksum(text.as_bytes());
        State::parse(format!("{text}check {sum:016x}\n").as_bytes()).unwrap()
    }

    #[test]
    fn what_was_forgotten_while_nobody_came_is_not_written_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.state");
        let close = |state: State| {
            open(&path).keeper.unwrap().close(|| state);
            std::fs::read_to_string(&path).unwrap()
        };
        let good = close(usage(1_000_000_000, 300));
        assert!(good.contains("usage 1000000000 300\n"), "{good}");
        assert_eq!(close(usage(100_000, 300)), good);
        let less = close(usage(100_000, 400));
        assert!(less.contains("usage 100000 400\n"), "{less}");
    }

    #[test]
    fn a_file_that_was_anothers_is_taken_over_once_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.state");
        let keeper = || open(&path).keeper.unwrap();
        let (first, second) = (keeper(), keeper());
        assert!(second.problem().is_some());
        let takes_over = |rested| {
            let mut file = second.file.lock().unwrap();
            if rested {
                file.asked = None;
            }
            second.takes_over(&mut file)
        };
        assert!(!takes_over(true), "it is the first one's");
        first.close(State::default);
        assert!(!takes_over(false), "not so soon");
        assert!(takes_over(true));
        second.close(State::default);
        assert!(!takes_over(true), "it has ended");
    }
}
