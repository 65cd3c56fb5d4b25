//! Which processes live.

/// When a process began, in ticks since the machine did; `None` if it is dead.
#[cfg(target_os = "linux")]
pub(super) fn started_ticks(process: u32) -> Option<u64> {
    let number = i32::try_from(process).ok()?;
    let process = procfs::process::Process::new(number);
    let stat = process.and_then(|process| process.stat()).ok()?;
    // Killed, and its end not asked for: it writes nothing any more.
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

/// Elsewhere nobody knows.
#[cfg(not(target_os = "linux"))]
pub(super) fn started_ticks(_: u32) -> Option<u64> {
    None
}
