//! Who writes the file: one guard of one process.
//!
//! Beside the file is a lock that says whose it is. Two processes that find the lock of a
//! dead one at the same moment may both take it, and processes of different containers
//! cannot see each other: then who writes last wins, and the file is whole all the same,
//! since it is only ever replaced.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::alive::started_ticks;
use super::files;

/// What guards of this process write.
static OURS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The right to write a file, until it is dropped.
#[derive(Debug)]
pub(super) struct Owner {
    path: PathBuf,
    process: u32,
}

impl Owner {
    /// Or why not.
    pub(super) fn new(path: PathBuf) -> Result<Self, String> {
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err("it is no file".into());
        }
        let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
        if ours.contains(&path) {
            return Err("another guard of this process writes it".into());
        }
        match lock(&lock_path(&path)) {
            Ok(None) => {}
            Ok(Some(process)) => return Err(format!("process {process} writes it")),
            Err(error) => return Err(error.to_string()),
        }
        ours.insert(path.clone());
        Ok(Self {
            path,
            process: std::process::id(),
        })
    }

    /// `false` in a forked child.
    pub(super) fn is_this_process(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.is_this_process() {
            let _ = fs::remove_file(lock_path(&self.path));
        }
        let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
        ours.remove(&self.path);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    files::with_suffix(path, ".lock")
}

/// Takes the lock, or says which process has it.
fn lock(path: &Path) -> io::Result<Option<u32>> {
    let own = std::process::id();
    let own = format!("{own} {}\n", started_ticks(own).unwrap_or(0));
    match files::create_whole(path, &own) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let holder = fs::read_to_string(path).unwrap_or_default();
            match living(&holder) {
                Some(process) => Ok(Some(process)),
                None => files::replace(path, &own).map(|()| None),
            }
        }
        Err(error) => Err(error),
    }
}

/// The process that a lock names, if it lives and is another. The next process in a
/// container often has the number of the one that was killed: then the lock is ours.
fn living(holder: &str) -> Option<u32> {
    let mut words = holder.split_whitespace();
    let process: u32 = words.next()?.parse().ok()?;
    let now = started_ticks(process)?;
    // Another may have the number by now.
    let same = words.next().is_none_or(|start| start.parse() == Ok(now));
    (process != std::process::id() && same).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_lives_holds_a_lock() {
        let own = std::process::id();
        assert_eq!(living(&format!("{own} 1")), None);
        assert_eq!(living(&own.to_string()), None);
        assert_eq!(living(""), None);
        assert_eq!(living("nobody 7"), None);
        // Numbers of processes are smaller.
        assert_eq!(living("4294967294 7"), None);
    }

    #[test]
    fn a_lock_says_whose_it_is_from_the_first_moment_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guard.state");
        let found = std::thread::scope(|scope| {
            let takes = scope.spawn(|| {
                for _ in 0..2000 {
                    let _owner = Owner::new(path.clone()).unwrap();
                    // Long enough to be found where cores are few.
                    std::thread::sleep(std::time::Duration::from_micros(10));
                }
            });
            let mut found = Vec::new();
            while !takes.is_finished() {
                found.extend(fs::read_to_string(lock_path(&path)).ok());
            }
            found
        });
        assert!(!found.is_empty());
        assert!(found.iter().all(|holder| !holder.is_empty()));
        let left = fs::read_dir(directory.path()).unwrap();
        assert_eq!(left.count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_number_that_another_process_has_by_now_holds_none() {
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let number = other.id();
        let start = started_ticks(number).unwrap();
        assert_eq!(living(&number.to_string()), Some(number));
        assert_eq!(living(&format!("{number} {start}\n")), Some(number));
        assert_eq!(living(&format!("{number} {start}0\n")), None);
        // Dead from here on, although nobody has asked for its end yet.
        other.kill().unwrap();
        let gone = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            living(&number.to_string()).is_none()
        });
        other.wait().unwrap();
        assert!(gone);
    }
}
