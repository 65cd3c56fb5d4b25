//! Starts a server, and starts it again when it was killed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tower_memory_guard::BoxError;

use super::server::{CPU_GROUP, ESTIMATES, ServerArguments};

const SIGKILL: i32 = 9;

/// Runs a server until this is dropped; restarts it at once, as an orchestrator
/// would, when the kernel killed it. `address` is `None` while there is none.
pub(crate) async fn keep_running(
    arguments: &ServerArguments,
    address: &watch::Sender<Option<SocketAddr>>,
    kills: &AtomicU64,
) -> Result<Infallible, BoxError> {
    loop {
        let mut child = start(arguments)?;
        address.send_replace(listening(&mut child).await?);
        // Nobody but the kernel kills it: dropping the child ends this future.
        // `wait` would close its standard input, by which it knows its parent.
        let stdin = child.stdin.take();
        let status = child.wait().await?;
        drop(stdin);
        address.send_replace(None);
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the server ended by itself: {status}").into());
        }
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

fn start(arguments: &ServerArguments) -> Result<Child, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--serve", arguments.pattern.word(), arguments.guard.word()])
        .arg(&arguments.group)
        .args(&arguments.file)
        .envs(arguments.guard.environment())
        .envs(arguments.cpu_group.iter().map(|group| (CPU_GROUP, group)))
        .envs(arguments.estimates.iter().map(|path| (ESTIMATES, path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Where it listens; `None` if it ended before it did.
async fn listening(child: &mut Child) -> Result<Option<SocketAddr>, BoxError> {
    let output = child.stdout.take().ok_or("the server has no output")?;
    let line = BufReader::new(output).lines().next_line().await?;
    Ok(line.map(|line| line.parse()).transpose()?)
}
