//! Control groups with a memory limit, for child processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A group of version 1 below the own one.
pub(crate) fn v1(limit_bytes: u64, name: &str) -> io::Result<PathBuf> {
    let own = own_group(|line| line.split(':').nth(1) == Some("memory"))?;
    let directory = Path::new("/sys/fs/cgroup/memory").join(own).join(name);
    make(&directory, "memory.limit_in_bytes", limit_bytes)?;
    // Without a bound on swap, a host that has some does not kill.
    let _ = fs::write(
        directory.join("memory.memsw.limit_in_bytes"),
        limit_bytes.to_string(),
    );
    Ok(directory)
}

/// A group of version 2 under the nearest one that may hand the controller down:
/// one that holds processes, as the own group does, may not, unless it is the root.
pub(crate) fn v2(limit_bytes: u64, name: &str) -> io::Result<PathBuf> {
    let own = own_group(|line| line.starts_with("0::"))?;
    let hands_down = |group: &Path| {
        let control = group.join("cgroup.subtree_control");
        fs::read_to_string(&control).is_ok_and(|all| all.split_whitespace().any(|c| c == "memory"))
            || fs::write(&control, "+memory").is_ok()
    };
    let group = own
        .ancestors()
        .map(|group| Path::new("/sys/fs/cgroup").join(group))
        .find(|group| hands_down(group))
        .ok_or(io::ErrorKind::PermissionDenied)?;
    let directory = group.join(name);
    make(&directory, "memory.max", limit_bytes)?;
    let _ = fs::write(directory.join("memory.swap.max"), "0");
    Ok(directory)
}

fn make(directory: &Path, file: &str, limit_bytes: u64) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::write(directory.join(file), limit_bytes.to_string()).inspect_err(|_| {
        let _ = fs::remove_dir(directory);
    })
}

/// This process's group, relative to the mount.
pub(crate) fn own_group(is_it: impl Fn(&str) -> bool) -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let line = groups
        .lines()
        .find(|line| is_it(line))
        .ok_or(io::ErrorKind::NotFound)?;
    let path = line.splitn(3, ':').nth(2).unwrap_or("/");
    Ok(PathBuf::from(path.trim_start_matches('/')))
}

/// Moves this process into a group.
pub(crate) fn enter(directory: &Path) -> io::Result<()> {
    fs::write(
        directory.join("cgroup.procs"),
        std::process::id().to_string(),
    )
}

/// The number that a group's file holds.
pub(crate) fn number(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    text.trim().parse().map_err(io::Error::other)
}

/// Removes a group; a process that was just killed may still be on its way out.
pub(crate) fn remove(directory: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(directory).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{} stays behind", directory.display());
}
