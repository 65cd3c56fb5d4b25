//! Standard input of a child, by which it knows that its parent lives: the parent holds the
//! other end, however it ends.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::thread;

use tokio::process::{Child, Command};

/// Starts a child that ends with this process, and when it is dropped.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::piped()).kill_on_drop(true).spawn()
}

/// Until it has ended by itself. `Child::wait` alone would close its standard input.
pub(crate) async fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    let _stdin = child.stdin.take();
    child.wait().await
}

/// For the child.
pub(crate) fn exit_with_parent() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}
