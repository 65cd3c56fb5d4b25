//! Starts a server, and starts it again when it was killed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tower_memory_guard::BoxError;

use super::guard::GuardKind;
use super::lifeline;
use super::server::{CPU_GROUP, ServerArguments};

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
        let status = lifeline::ended(&mut child).await?;
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
        .arg0(arguments.allocator.word())
        .args(["--serve", arguments.pattern.word(), arguments.guard.word()])
        .arg(&arguments.group)
        .args(&arguments.file)
        .envs(environment(arguments.guard))
        .envs(arguments.cpu_group.iter().map(|group| (CPU_GROUP, group)))
        .stdout(Stdio::piped());
    Ok(lifeline::spawn(&mut command)?)
}

/// What a guard wants, unless whoever runs this said otherwise.
fn environment(guard: GuardKind) -> impl Iterator<Item = (&'static str, &'static str)> {
    let wanted = guard.environment().iter().copied();
    wanted.filter(|(name, _)| std::env::var_os(name).is_none())
}

/// Runs the neighbour of the servers of a group until this is dropped. Its kills count:
/// whom the kernel takes is its choice.
pub(crate) async fn keep_neighbour(
    group: &Path,
    kills: &AtomicU64,
) -> Result<Infallible, BoxError> {
    loop {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = lifeline::spawn(command.arg("--neighbour").arg(group))?;
        let status = lifeline::ended(&mut child).await?;
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the neighbour ended by itself: {status}").into());
        }
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where it listens; `None` if it ended before it did.
async fn listening(child: &mut Child) -> Result<Option<SocketAddr>, BoxError> {
    let output = child.stdout.take().ok_or("the server has no output")?;
    let line = BufReader::new(output).lines().next_line().await?;
    Ok(line.map(|line| line.parse()).transpose()?)
}
