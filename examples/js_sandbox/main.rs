//! A service that runs its callers' JavaScript, behind the memory guard.
//!
//! ```text
//! cargo run --release --example js_sandbox                 # serves on 127.0.0.1:8080
//! cargo run --release --example js_sandbox -- --storm      # more scripts than fit, four ways
//! ```
//!
//! `POST /execute {"code": "…"}` evaluates the code in a QuickJS runtime of its
//! own and answers with the value as JSON. The code may wait: `await host.fetch(200)`
//! stands for a database or a remote service that answers after 200 ms, and meanwhile
//! the script holds its memory but no thread. `/health`, `/ready`, `/live`, `/stats` and
//! `/metrics` stand outside the guard. With `--admin ADDRESS` there is a page for
//! operators at `/guard` of that address. Settings come from `MEMORY_GUARD_*`; nothing
//! needs to be set.

mod cage;
mod group;
mod host;
mod json;
mod load;
mod script;
mod server;
mod storm;
mod tally;

use std::net::SocketAddr;
use std::process::ExitCode;

use tower_memory_guard::account::TrackingAllocator;
use tracing_subscriber::EnvFilter;

/// QuickJS allocates here too, so the guard knows what each script holds.
#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

const USAGE: &str = "\
usage: js_sandbox [--listen ADDRESS] [--admin ADDRESS]
                            serve (default 127.0.0.1:8080; no page for operators)
       js_sandbox --storm [--seconds N] [--only FRONT] [--strict]
                            drive itself with more scripts than fit, guarded and not,
                            for N seconds each (default 25); fails if the guarded one
                            is killed, and with --strict if the guard does not do far
                            more than a fixed limit that is safe";

const FRONTS: &str = "none, safe, mean or guard";

/// What the command line asks for.
enum Task {
    Serve {
        listen: SocketAddr,
        /// Where operators look.
        admin: Option<SocketAddr>,
    },
    Storm(storm::Options),
    /// A server that a storm started.
    Victim {
        front: storm::Front,
        cage: Option<std::path::PathBuf>,
    },
}

fn task(mut words: impl Iterator<Item = String>) -> Result<Task, String> {
    let (mut listen, mut admin) = (SocketAddr::from(([127, 0, 0, 1], 8080)), None);
    let mut storm: Option<storm::Options> = None;
    while let Some(word) = words.next() {
        let mut value = |what: &str| words.next().ok_or(format!("{word} needs {what}"));
        match word.as_str() {
            "--storm" => storm = Some(storm::Options::default()),
            "--seconds" | "--strict" | "--only" => {
                let options = storm.as_mut();
                let options = options.ok_or(format!("{word} comes after --storm"))?;
                match word.as_str() {
                    "--strict" => options.strict = true,
                    "--only" => options.only = Some(value(FRONTS)?.parse()?),
                    _ => {
                        let seconds = value("a number")?;
                        let number = seconds.parse().ok().filter(|seconds| *seconds > 0);
                        options.seconds =
                            number.ok_or(format!("{word} {seconds}: not a number of seconds"))?;
                    }
                }
            }
            "--listen" | "--admin" => {
                let address = value("an address such as 127.0.0.1:8080")?;
                let address = address.parse().map_err(|_| {
                    format!("{word} {address}: not an address such as 127.0.0.1:8080")
                })?;
                match word.as_str() {
                    "--listen" => listen = address,
                    _ => admin = Some(address),
                }
            }
            "--victim" => {
                return Ok(Task::Victim {
                    front: value(FRONTS)?.parse()?,
                    cage: words.next().map(Into::into),
                });
            }
            _ => return Err(format!("{word}: unknown")),
        }
    }
    Ok(match storm {
        Some(options) => Task::Storm(options),
        None => Task::Serve { listen, admin },
    })
}

fn main() -> ExitCode {
    let task = match task(std::env::args().skip(1)) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Before any thread is started: a control group takes the whole process.
    if let Task::Victim {
        cage: Some(cage), ..
    } = &task
    {
        if let Err(error) = group::enter(cage) {
            eprintln!("cannot enter {}: {error}", cage.display());
            return ExitCode::FAILURE;
        }
    }
    let quiet = matches!(task, Task::Victim { .. });
    let default = if quiet { "off" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match task {
            Task::Serve { listen, admin } => server::serve(listen, admin).await,
            Task::Storm(options) => storm::run(options).await,
            Task::Victim { front, .. } => storm::serve_as_victim(front).await,
        }
    });
    // Scripts that still run obey their permit, which is cancelled by now.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            let is_usage = error.is::<tower_memory_guard::ConfigError>();
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}
