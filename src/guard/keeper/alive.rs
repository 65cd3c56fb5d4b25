//! Which processes live.

use procfs::process::Process;

/// When a process began, in ticks since the machine did; `None` if it is dead.
pub(super) fn started_ticks(process: u32) -> Option<u64> {
    let number = i32::try_from(process).ok()?;
    let stat = Process::new(number).and_then(|process| process.stat());
    let stat = stat.ok()?;
    // Killed, and its end not asked for: it writes nothing any more.
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}
