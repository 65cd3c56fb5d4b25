//! The storm: one server after another under the same limit and the same load.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::str::FromStr;
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
use tokio::sync::mpsc;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_memory_guard::{BoxError, MemoryGuardLayer};

use crate::cage::Cage;
use crate::server::{self, Sandbox};

const LIMIT_BYTES: u64 = 512 << 20;
const SCRIPTS: usize = 100;
/// Chosen knowing what a script needs: eight of 54 MiB fit into 512 MiB.
const FIXED_LIMIT: usize = 8;
/// The run ends by itself, whatever happens.
const PATIENCE: Duration = Duration::from_secs(60);

/// 100,000 objects, about 54 MiB.
const CODE: &str = "const rows = [];
for (let i = 0; i < 100000; i++) rows.push({ id: i, name: 'row ' + i, tags: [i, String(i)], at: { x: i, y: -i } });
";
/// One script in so many answers with the objects, about 8 MiB of JSON; the
/// others with their number.
const ONE_ANSWERS_ALL: usize = 10;

/// What stands in front of the scripts.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Front {
    Nothing,
    Fixed,
    Guard,
}

impl Front {
    const ALL: [Front; 3] = [Front::Nothing, Front::Fixed, Front::Guard];

    fn word(self) -> &'static str {
        match self {
            Front::Nothing => "none",
            Front::Fixed => "fixed",
            Front::Guard => "guard",
        }
    }

    fn title(self) -> String {
        match self {
            Front::Nothing => "no guard".into(),
            Front::Fixed => format!("GlobalConcurrencyLimit({FIXED_LIMIT})"),
            Front::Guard => "MemoryGuardLayer".into(),
        }
    }
}

impl FromStr for Front {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Front::ALL.into_iter().find(|front| front.word() == word);
        known.ok_or_else(|| format!("{word}: expected none, fixed or guard"))
    }
}

/// The child: serves on a free port, which it prints.
pub(crate) async fn serve_as_victim(front: Front) -> Result<ExitCode, BoxError> {
    // The storm is about memory: a slow machine must not look like a full one.
    let script_time = PATIENCE;
    let bare = || {
        server::execute_route(Sandbox {
            guard: None,
            script_time,
        })
    };
    let app: Router = match front {
        Front::Nothing => bare(),
        Front::Fixed => bare().layer(GlobalConcurrencyLimitLayer::new(FIXED_LIMIT)),
        Front::Guard => server::app(MemoryGuardLayer::try_from_env()?, script_time),
    };
    let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(ExitCode::SUCCESS)
}

/// What became of the scripts.
#[derive(Default)]
struct Tally {
    answered: usize,
    refused: usize,
    rejected: usize,
    lost: usize,
    kills: usize,
    /// Requests that had to wait, as the guard says.
    queued: Option<u64>,
    seconds: f64,
    peak_mib: Option<u64>,
}

pub(crate) async fn run() -> Result<ExitCode, BoxError> {
    tokio::select! {
        outcome = storm() => outcome,
        // The child dies with its handle, and the group is removed.
        _ = tokio::signal::ctrl_c() => Err("stopped".into()),
    }
}

async fn storm() -> Result<ExitCode, BoxError> {
    let mib = LIMIT_BYTES >> 20;
    println!("{SCRIPTS} scripts at once, each builds 100,000 objects, in {mib} MiB;");
    println!("one in {ONE_ANSWERS_ALL} answers with all of them");
    println!(
        "limit enforced by: {}\n",
        Cage::new(LIMIT_BYTES, "probe").describe()
    );
    let mut rows = Vec::new();
    for front in Front::ALL {
        rows.push((front, drive(front).await?));
    }
    println!(
        "| in front of the scripts | answered | result refused | rejected | lost | seconds | peak MiB | kills |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (front, tally) in &rows {
        let peak = tally.peak_mib.map_or("?".into(), |mib| mib.to_string());
        println!(
            "| {} | {} | {} | {} | {} | {:.1} | {peak} | {} |",
            front.title(),
            tally.answered,
            tally.refused,
            tally.rejected,
            tally.lost,
            tally.seconds,
            tally.kills
        );
    }
    if let Some((queued, tally)) = rows
        .iter()
        .find_map(|(_, tally)| Some((tally.queued?, tally)))
    {
        println!(
            "\nthe guard refused {} results before they were built, made {queued} requests wait, \
             and turned {} away",
            tally.refused, tally.rejected
        );
    }
    let survived = rows
        .iter()
        .any(|(front, tally)| *front == Front::Guard && tally.kills == 0 && tally.answered > 0);
    Ok(if survived {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn drive(front: Front) -> Result<Tally, BoxError> {
    let mut cage = Cage::new(LIMIT_BYTES, front.word());
    let (mut child, address) = start(front, &cage).await?;
    let started = Instant::now();
    let (report, mut reports) = mpsc::unbounded_channel();
    let client = Client::builder(TokioExecutor::new()).build_http();
    for number in 0..SCRIPTS {
        let (client, report) = (client.clone(), report.clone());
        tokio::spawn(async move {
            let _ = report.send(execute(client, address, number).await);
        });
    }
    drop(report);
    let mut tally = Tally::default();
    let mut look = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            report = reports.recv() => {
                match report {
                    Some(Some(StatusCode::OK)) => tally.answered += 1,
                    Some(Some(StatusCode::PAYLOAD_TOO_LARGE)) => tally.refused += 1,
                    Some(Some(StatusCode::SERVICE_UNAVAILABLE)) => tally.rejected += 1,
                    Some(Some(status)) => return Err(format!("unexpected answer: {status}").into()),
                    Some(None) => tally.lost += 1,
                    None => break,
                }
                show(front, &tally);
            }
            _ = look.tick() => {
                if child.id().is_some_and(|pid| cage.is_over(pid)) {
                    child.kill().await?;
                }
            }
        }
    }
    tally.seconds = started.elapsed().as_secs_f64();
    if front == Front::Guard {
        tally.queued = queued(&client, address).await;
    }
    tally.peak_mib = cage.peak_bytes().map(|bytes| bytes >> 20);
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
    number: usize,
) -> Option<StatusCode> {
    let answer = if number % ONE_ANSWERS_ALL == 0 {
        "rows"
    } else {
        "rows.length"
    };
    let body = serde_json::json!({ "code": format!("{CODE}{answer}") }).to_string();
    let request = Request::post(format!("http://{address}/execute"))
        .header("content-type", "application/json")
        .body(Body::from(body))
        .ok()?;
    let answer = async {
        let response = client.request(request).await.ok()?;
        let status = response.status();
        response.into_body().collect().await.ok()?;
        Some(status)
    };
    tokio::time::timeout(PATIENCE, answer).await.ok()?
}

async fn queued(client: &Client<HttpConnector, Body>, address: SocketAddr) -> Option<u64> {
    let stats = client
        .get(format!("http://{address}/stats").parse().ok()?)
        .await
        .ok()?;
    let stats = stats.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice::<serde_json::Value>(&stats).ok()?["queued_requests"].as_u64()
}

/// One line that is written over, where somebody watches.
fn show(front: Front, tally: &Tally) {
    if std::io::stderr().is_terminal() {
        eprint!(
            "\r{:28} {:3} answered, {:3} rejected, {:3} lost ",
            front.title(),
            tally.answered,
            tally.rejected,
            tally.lost
        );
        let _ = std::io::stderr().flush();
    }
}
