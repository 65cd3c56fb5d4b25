//! Arguments, and the order in which things run.

mod beside;
mod cage;
mod chart;
mod child;
mod door;
#[path = "../../examples/js_sandbox/group.rs"]
mod group;
mod guard;
mod lifeline;
mod load;
mod oracle;
mod pattern;
mod run;
mod server;
mod table;
mod work;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tower_memory_guard::BoxError;

use self::cage::Cage;
use self::guard::GuardKind;
use self::pattern::Pattern;
use self::run::{Case, Record};
use crate::allocator::Allocator;

const LIMIT_BYTES: u64 = 512 << 20;
const MIB: f64 = (1 << 20) as f64;
/// Connections of one run under the heaviest load: two for each request that is
/// not answered, one of them being closed.
const OPEN_FILES_PER_JOB: u64 = 4096;

#[derive(Debug, PartialEq)]
struct Options {
    patterns: Vec<Pattern>,
    guards: Vec<GuardKind>,
    seeds: u64,
    first_seed: u64,
    /// `None`: as each pattern usually takes.
    seconds: Option<u64>,
    jobs: usize,
    svg_directory: Option<PathBuf>,
    /// A kill is a failure.
    no_kills: bool,
    /// Of one processor, for each server.
    cpu_percent: Option<u64>,
    /// Of each server.
    allocator: Allocator,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            patterns: Pattern::usual(),
            guards: GuardKind::usual(),
            seeds: 1,
            first_seed: 1,
            seconds: None,
            jobs: 1,
            svg_directory: None,
            no_kills: false,
            cpu_percent: None,
            allocator: Allocator::System,
        };
        while let Some(name) = arguments.next() {
            match name.as_str() {
                // Cargo adds the first to what the caller gave; every run is cold.
                "--bench" | "--cold" => continue,
                "--no-kills" => {
                    options.no_kills = true;
                    continue;
                }
                _ => {}
            }
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--patterns" => options.patterns = list(&value()?)?,
                "--guards" => options.guards = list(&value()?)?,
                "--seeds" => options.seeds = number(&name, &value()?, 1, 10_000)?,
                "--first-seed" => options.first_seed = number(&name, &value()?, 0, u64::MAX / 2)?,
                "--seconds" => options.seconds = Some(number(&name, &value()?, 1, 600)?),
                "--cpu-percent" => options.cpu_percent = Some(number(&name, &value()?, 1, 1000)?),
                "--jobs" => options.jobs = number(&name, &value()?, 1, 64)? as usize,
                "--allocator" => options.allocator = value()?.parse()?,
                "--svg" => options.svg_directory = Some(value()?.into()),
                _ => return Err(format!("{name} is not known; see benches/survival/main.rs")),
            }
        }
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        let seeds = self.first_seed..self.first_seed + self.seeds;
        self.patterns.iter().flat_map(move |&pattern| {
            seeds.clone().flat_map(move |seed| {
                self.guards.iter().map(move |&guard| Case {
                    pattern,
                    guard,
                    seed,
                    seconds: self.seconds.unwrap_or(pattern.usual_seconds()),
                    cpu_percent: self.cpu_percent,
                    allocator: self.allocator,
                })
            })
        })
    }
}

fn list<T: FromStr<Err = String>>(words: &str) -> Result<Vec<T>, String> {
    words.split(',').map(|word| word.trim().parse()).collect()
}

fn number(name: &str, text: &str, least: u64, most: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("{name} {text}: expected a whole number from {least} to {most}"))
}

pub(crate) fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let outcome = if arguments.next_if_eq("--serve").is_some() {
        server::main(arguments)
    } else if arguments.next_if_eq("--neighbour").is_some() {
        beside::neighbour(arguments)
    } else {
        Options::parse(arguments)
            .map_err(Into::into)
            .and_then(bench)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

fn fail(error: impl Display) -> ExitCode {
    eprintln!("survival: {error}");
    ExitCode::FAILURE
}

fn bench(options: Options) -> Result<(), BoxError> {
    Cage::new(LIMIT_BYTES).map_err(|error| {
        format!(
            "cannot make a control group with a memory limit ({error}); \
             this needs root and the memory controller"
        )
    })?;
    let needed = OPEN_FILES_PER_JOB * options.jobs as u64;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if allowed.is_some_and(|allowed| allowed < needed) {
        return Err(format!("needs {needed} open files at once; try `ulimit -n {needed}`").into());
    }
    if let Some(directory) = &options.svg_directory {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run_all(&options))
}

async fn run_all(options: &Options) -> Result<(), BoxError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("# allocator {}", options.allocator.word());
    println!("{}", table::RESULT_HEADER);
    let mut records = Vec::new();
    let mut failures = 0;
    let mut stopped = false;
    let mut cases = options.cases();
    let mut runs = JoinSet::new();
    while !stopped {
        for case in cases.by_ref().take(options.jobs - runs.len()) {
            runs.spawn(async move { (case, run::bounded(case).await) });
        }
        let finished = tokio::select! {
            finished = runs.join_next() => finished,
            _ = interrupt.recv() => {
                stopped = true;
                None
            }
            _ = terminate.recv() => {
                stopped = true;
                None
            }
        };
        let Some(finished) = finished else {
            break;
        };
        let (case, outcome) = finished?;
        match outcome {
            Ok(record) => {
                println!("{}", table::result_line(&record));
                records.push(record);
            }
            Err(error) => {
                failures += 1;
                eprintln!(
                    "survival: {} behind {}, seed {}: {error}",
                    case.pattern.word(),
                    case.guard.word(),
                    case.seed
                );
            }
        }
        let done = records.len() + failures;
        eprintln!("survival: {done} of {} done", options.cases().count());
    }
    // Ends when all of them are dropped, and with them their children and groups.
    runs.shutdown().await;
    show(options, &records)?;
    let kills: u64 = records.iter().map(|record| record.kills).sum();
    if options.no_kills && kills > 0 {
        return Err(format!("{kills} kills").into());
    }
    match (stopped, failures) {
        (true, _) => Err("stopped".into()),
        (false, 0) => Ok(()),
        (false, failures) => Err(format!("{failures} runs failed").into()),
    }
}

fn show(options: &Options, records: &[Record]) -> Result<(), BoxError> {
    for &pattern in &options.patterns {
        let of_pattern = || {
            records
                .iter()
                .filter(|record| record.case.pattern == pattern)
        };
        if of_pattern().next().is_none() {
            continue;
        }
        println!(
            "\n{}",
            table::of_pattern(pattern, &options.guards, of_pattern())
        );
        if let Some(directory) = &options.svg_directory {
            let mut first: Vec<&Record> = of_pattern()
                .filter(|record| record.case.seed == options.first_seed)
                .collect();
            first.sort_by_key(|record| {
                let place = |guard: &GuardKind| *guard == record.case.guard;
                options.guards.iter().position(place)
            });
            let path = directory.join(format!("{}.svg", pattern.word()));
            chart::draw(&path, &first).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}
