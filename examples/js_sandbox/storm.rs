//! The storm: one server after another under the same limit and the same load, which
//! comes whether or not it is answered.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_memory_guard::{BoxError, MemoryGuardLayer};

use crate::cage::{self, Cage};
use crate::load::{self, Script};
use crate::server::{self, Sandbox};
use crate::tally::{self, Tally};

pub(crate) const LIMIT_BYTES: u64 = 512 << 20;
/// Every caller gives up after it, whatever stands in front of the scripts.
const PATIENCE: Duration = Duration::from_secs(10);
/// The storm is about memory: a slow machine must not look like a full one.
const SCRIPT_TIME: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// What the guard must answer, as a multiple of what the safe limit does.
const WORTH_TIMES: f64 = 1.5;
/// Memory is still filling up.
const FILLING: Duration = Duration::from_secs(2);

/// What the command line says about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// For how long scripts come.
    pub(crate) seconds: u64,
    /// Whether the guard must also do more than the safe limit.
    pub(crate) strict: bool,
    /// One front alone.
    pub(crate) only: Option<Front>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seconds: 25,
            strict: false,
            only: None,
        }
    }
}

/// What stands in front of the scripts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Front {
    Nothing,
    /// As many at once as fit if all are the largest.
    Safe,
    /// As many at once as fit if all are the mean.
    Mean,
    Guard,
}

impl Front {
    const ALL: [Front; 4] = [Front::Nothing, Front::Safe, Front::Mean, Front::Guard];

    fn word(self) -> &'static str {
        match self {
            Front::Nothing => "none",
            Front::Safe => "safe",
            Front::Mean => "mean",
            Front::Guard => "guard",
        }
    }

    pub(crate) fn title(self) -> String {
        match (self, self.at_once()) {
            (Front::Safe, Some(n)) => format!("GlobalConcurrencyLimit({n}), for the largest"),
            (Front::Mean, Some(n)) => format!("GlobalConcurrencyLimit({n}), for the mean"),
            (Front::Guard, _) => "MemoryGuardLayer".into(),
            _ => "no guard".into(),
        }
    }

    /// The fixed limit, if it is one.
    fn at_once(self) -> Option<usize> {
        match self {
            Front::Safe => Some(load::CAPACITY_MIB / load::largest_mib()),
            Front::Mean => Some((load::CAPACITY_MIB as f64 / load::mean_mib()) as usize),
            Front::Nothing | Front::Guard => None,
        }
    }
}

impl FromStr for Front {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Front::ALL.into_iter().find(|front| front.word() == word);
        known.ok_or_else(|| format!("{word}: expected none, safe, mean or guard"))
    }
}

/// The child: serves on a free port, which it prints.
pub(crate) async fn serve_as_victim(front: Front) -> Result<ExitCode, BoxError> {
    let bare = server::execute_route(Sandbox {
        guard: None,
        script_time: SCRIPT_TIME,
    });
    let app: Router = match (front, front.at_once()) {
        (Front::Guard, _) => server::app(MemoryGuardLayer::try_from_env()?, SCRIPT_TIME),
        (_, Some(at_once)) => bare.layer(GlobalConcurrencyLimitLayer::new(at_once)),
        (_, None) => bare,
    };
    let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn run(options: Options) -> Result<ExitCode, BoxError> {
    tokio::select! {
        outcome = storm(options) => outcome,
        // The child dies with its handle, and the group is removed.
        _ = tokio::signal::ctrl_c() => Err("stopped".into()),
    }
}

async fn storm(options: Options) -> Result<ExitCode, BoxError> {
    let scripts = load::scripts(options.seconds);
    let offered: f64 = scripts.iter().map(Script::mib_seconds).sum();
    println!(
        "{} scripts in {} s, of 8 to {} MiB ({:.0} on average), {offered:.0} MiB·s in all, \
         in {} MiB;\neach grows in steps and waits for its host; its caller waits {} s for it",
        scripts.len(),
        options.seconds,
        load::largest_mib(),
        load::mean_mib(),
        LIMIT_BYTES >> 20,
        PATIENCE.as_secs(),
    );
    println!(
        "limit enforced by: {}\n",
        Cage::new(LIMIT_BYTES, "probe").describe()
    );
    let mut rows = Vec::new();
    for front in Front::ALL {
        if options.only.is_none_or(|only| only == front) {
            rows.push((front, drive(front, &scripts).await?));
        }
    }
    tally::print(&rows);
    let of = |wanted| rows.iter().find(|(front, _)| *front == wanted);
    let guard = of(Front::Guard).map(|(_, guard)| guard);
    let survived =
        guard.is_none_or(|guard| guard.kills == 0 && guard.lost == 0 && guard.answered > 0);
    let mut worth_it = true;
    if let (Some(guard), Some((_, safe))) = (guard, of(Front::Safe)) {
        let times = guard.mib_seconds / safe.mib_seconds;
        println!("\nthe guard answered {times:.1} times the memory × time of the safe limit");
        worth_it = times >= WORTH_TIMES;
    }
    Ok(if survived && (worth_it || !options.strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn drive(front: Front, scripts: &[Script]) -> Result<Tally, BoxError> {
    let mut cage = Cage::new(LIMIT_BYTES, front.word());
    let (mut child, address) = start(front, &cage).await?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let waits = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    if front == Front::Guard {
        asking.spawn(ask(client.clone(), address, waits.clone()));
    }
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut coming = scripts.iter().peekable();
    let mut requests = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    while coming.peek().is_some() || !requests.is_empty() {
        let due = started + coming.peek().map_or(Duration::ZERO, |next| next.at);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()), if coming.peek().is_some() => {
                let now = started.elapsed();
                while let Some(script) = coming.next_if(|next| next.at <= now) {
                    let (client, script) = (client.clone(), script.clone());
                    requests.spawn(async move {
                        let answer = execute(client, address, &script);
                        let answer = tokio::time::timeout(PATIENCE, answer).await;
                        (script, answer)
                    });
                }
            }
            Some(done) = requests.join_next() => {
                match done? {
                    (script, Ok(Some(StatusCode::OK))) => {
                        tally.answered += 1;
                        tally.mib_seconds += script.mib_seconds();
                    }
                    (_, Ok(Some(StatusCode::SERVICE_UNAVAILABLE))) => tally.rejected += 1,
                    (_, Ok(Some(status))) => return Err(format!("unexpected answer: {status}").into()),
                    (_, Ok(None)) => tally.lost += 1,
                    (_, Err(_)) => tally.gave_up += 1,
                }
                show(front, &tally);
            }
            _ = look.tick() => {
                if child.id().is_some_and(|pid| cage.is_over(pid)) {
                    child.kill().await?;
                }
                if child.try_wait()?.is_some() {
                    // Who still comes finds nobody.
                    tally.lost += coming.by_ref().count();
                    continue;
                }
                tally.processor = child.id().and_then(cage::processor_time).or(tally.processor);
                let anybody_waits = match front.at_once() {
                    Some(at_once) => requests.len() > at_once,
                    None => waits.load(Ordering::Relaxed),
                };
                if anybody_waits && started.elapsed() >= FILLING {
                    tally.while_waiting.extend(child.id().and_then(|pid| cage.used_bytes(pid)));
                }
            }
        }
    }
    tally.seconds = started.elapsed().as_secs_f64();
    tally.peak_bytes = cage.peak_bytes();
    // The kernel may need a moment to finish with it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    // It serves for ever: if it is gone, it was killed.
    tally.kills = usize::from(child.try_wait()?.is_some());
    child.kill().await?;
    show(front, &tally);
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    Ok(tally)
}

async fn start(front: Front, cage: &Cage) -> Result<(Child, SocketAddr), BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--victim", front.word()])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    match cage.directory() {
        Some(directory) => command.arg(directory),
        None => command
            .env("MEMORY_GUARD_SOURCE", "process")
            .env("MEMORY_GUARD_MEMORY_LIMIT", LIMIT_BYTES.to_string()),
    };
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;
    let first = BufReader::new(output).lines().next_line().await?;
    let address = first.ok_or("the child did not start")?.parse()?;
    Ok((child, address))
}

/// The status of the answer; `None` if there was none.
async fn execute(
    client: Client<HttpConnector, Body>,
    address: SocketAddr,
    script: &Script,
) -> Option<StatusCode> {
    let body = serde_json::json!({ "code": script.code() }).to_string();
    let request = Request::post(format!("http://{address}/execute"))
        .header("content-type", "application/json")
        .body(Body::from(body))
        .ok()?;
    let response = client.request(request).await.ok()?;
    let status = response.status();
    response.into_body().collect().await.ok()?;
    Some(status)
}

/// Keeps asking the guard whether anybody waits.
async fn ask(client: Client<HttpConnector, Body>, address: SocketAddr, waits: Arc<AtomicBool>) {
    let waiting = || async {
        let address = format!("http://{address}/stats").parse().ok()?;
        let stats = client.get(address).await.ok()?.into_body();
        let stats = stats.collect().await.ok()?.to_bytes();
        serde_json::from_slice::<serde_json::Value>(&stats).ok()?["waiting_requests"].as_u64()
    };
    loop {
        waits.store(waiting().await.is_some_and(|n| n > 0), Ordering::Relaxed);
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// One line that is written over, where somebody watches.
fn show(front: Front, tally: &Tally) {
    if std::io::stderr().is_terminal() {
        eprint!(
            "\r{:42} {:3} answered, {:3} rejected, {:3} gave up, {:3} lost ",
            front.title(),
            tally.answered,
            tally.rejected,
            tally.gave_up,
            tally.lost
        );
        let _ = std::io::stderr().flush();
    }
}
