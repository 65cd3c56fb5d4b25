//! Arguments, and the order in which things run.

mod cage;
mod chart;
mod child;
mod door;
#[path = "../../examples/js_sandbox/group.rs"]
mod group;
mod guard;
mod load;
mod oracle;
mod pattern;
mod run;
mod server;
mod table;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tower_memory_guard::BoxError;

use self::cage::Cage;
use self::guard::GuardKind;
use self::pattern::{PageFile, Pattern};
use self::run::{Case, Files, Record};

const LIMIT_BYTES: u64 = 512 << 20;
const MIB: f64 = (1 << 20) as f64;
/// Connections of one run under the heaviest load: two for each request that is
/// not answered, one of them being closed.
const OPEN_FILES_PER_JOB: u64 = 4096;
/// No seed that counts.
const LESSON_SEED: u64 = 1 << 40;

#[derive(Debug, PartialEq)]
struct Options {
    patterns: Vec<Pattern>,
    guards: Vec<GuardKind>,
    seeds: u64,
    first_seed: u64,
    seconds: u64,
    jobs: usize,
    svg_directory: Option<PathBuf>,
    /// Nothing is known from earlier.
    cold: bool,
    /// A kill is a failure.
    no_kills: bool,
    /// Of one processor, for each server.
    cpu_percent: Option<u64>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            patterns: Pattern::usual(),
            guards: GuardKind::ALL.to_vec(),
            seeds: 1,
            first_seed: 1,
            seconds: 12,
            jobs: 1,
            svg_directory: None,
            cold: false,
            no_kills: false,
            cpu_percent: None,
        };
        while let Some(name) = arguments.next() {
            // Cargo adds it to what the caller gave.
            if name == "--bench" {
                continue;
            }
            match name.as_str() {
                "--cold" => {
                    options.cold = true;
                    continue;
                }
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
                "--seconds" => options.seconds = number(&name, &value()?, 1, 600)?,
                "--cpu-percent" => options.cpu_percent = Some(number(&name, &value()?, 1, 1000)?),
                "--jobs" => options.jobs = number(&name, &value()?, 1, 64)? as usize,
                "--svg" => options.svg_directory = Some(value()?.into()),
                _ => return Err(format!("{name} is not known; see benches/survival/main.rs")),
            }
        }
        Ok(options)
    }

    /// One run for each guard that learns, before those that count.
    fn lessons(&self) -> impl Iterator<Item = Case> {
        let learning = self
            .cases()
            .filter(|case| !self.cold && case.guard.learns() && case.seed == self.first_seed);
        learning.map(|case| Case {
            seed: case.seed + LESSON_SEED,
            ..case
        })
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        let seeds = self.first_seed..self.first_seed + self.seeds;
        self.patterns.iter().flat_map(move |&pattern| {
            seeds.clone().flat_map(move |seed| {
                self.guards.iter().map(move |&guard| Case {
                    pattern,
                    guard,
                    seed,
                    seconds: self.seconds,
                    cpu_percent: self.cpu_percent,
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
    // Each run at the same time has a file of its own: the kernel charges a page
    // of the cache to the group that read it first.
    let mut files = Vec::new();
    if options.patterns.contains(&Pattern::PageCache) {
        for _ in 0..options.jobs {
            files.push(PageFile::new()?);
        }
    }
    let learned = tempfile::tempdir()?;
    println!("{}", table::RESULT_HEADER);
    let mut records = Vec::new();
    let mut failures = 0;
    let mut stopped = false;
    let stages: [Vec<Case>; 2] = [options.lessons().collect(), options.cases().collect()];
    for (stage, cases) in stages.into_iter().enumerate() {
        let mut free_slots: Vec<usize> = (0..options.jobs).collect();
        let mut cases = cases.into_iter();
        let mut runs = JoinSet::new();
        while !stopped {
            while let Some(slot) = free_slots.pop() {
                let Some(case) = cases.next() else { break };
                let estimates = lesson(learned.path(), &case);
                let files = Files {
                    page: files
                        .get(slot)
                        .map(|file: &PageFile| file.path().to_owned()),
                    estimates: Some(estimates).filter(|path| stage > 0 && path.exists()),
                };
                runs.spawn(async move {
                    let outcome = run::bounded(case, files).await;
                    (slot, case, outcome)
                });
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
            let (slot, case, outcome) = finished?;
            free_slots.push(slot);
            match outcome {
                Ok(record) if stage == 0 => {
                    let estimates = record.report.and_then(|report| report.estimates);
                    let text = serde_json::to_vec(&estimates.unwrap_or_default())?;
                    std::fs::write(lesson(learned.path(), &case), text)?;
                }
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
        }
        // Ends when all of them are dropped, and with them their children and groups.
        runs.shutdown().await;
    }
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

/// Where a guard's estimates of a pattern are kept.
fn lesson(directory: &Path, case: &Case) -> PathBuf {
    directory.join(format!("{}-{}", case.pattern.word(), case.guard.word()))
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
