//! What accounting costs: JSON parsed and serialised with jemalloc, in two
//! programs that take turns, one with the tracking allocator around jemalloc.
//!
//! `cargo build --profile bench -p account-bench && target/release/account`. Counts
//! instructions too, if valgrind is installed.

mod work;

use std::error::Error;
use std::path::Path;
use std::process::Command;

use tower_memory_guard::account::{TrackingAllocator, is_installed};

#[global_allocator]
static ALLOCATOR: TrackingAllocator<tikv_jemallocator::Jemalloc> =
    TrackingAllocator::new(tikv_jemallocator::Jemalloc);

const ROUNDS: usize = 60;
const TIMES: &str = "250";
const TIMES_COUNTED: &str = "20";

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(times) = std::env::args().find_map(|text| text.parse().ok()) {
        assert!(is_installed());
        println!("{}", work::run(times).as_nanos());
        return Ok(());
    }
    let tracked = std::env::current_exe()?;
    let plain = tracked.with_file_name("account-plain");
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        // Each goes first as often as the other.
        let (a, b) = if round % 2 == 0 {
            let plain = nanoseconds(&plain)?;
            (nanoseconds(&tracked)?, plain)
        } else {
            (nanoseconds(&tracked)?, nanoseconds(&plain)?)
        };
        ratios.push(a / b);
    }
    let (low, high) = confidence(&ratios);
    println!(
        "wall time with accounting: {:.4} of that without (median of {ROUNDS}; 95 % confidence \
         {low:.4} to {high:.4})",
        median(&mut ratios)
    );
    match (instructions(&tracked), instructions(&plain)) {
        (Some(tracked), Some(plain)) => {
            println!("instructions: {:.4} of those without", tracked / plain);
        }
        _ => println!("instructions: not counted (no valgrind)"),
    }
    Ok(())
}

fn nanoseconds(program: &Path) -> Result<f64, Box<dyn Error>> {
    let output = Command::new(program).arg(TIMES).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// As valgrind counts them, less those of starting.
fn instructions(program: &Path) -> Option<f64> {
    let count = |times: &str| {
        let output = Command::new("valgrind")
            .args([
                "--tool=cachegrind",
                "--cache-sim=no",
                "--cachegrind-out-file=/dev/null",
            ])
            .arg(program)
            .arg(times)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains("refs:"))?;
        let digits: String = line
            .rsplit(':')
            .next()?
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        digits.parse::<f64>().ok()
    };
    Some(count(TIMES_COUNTED)? - count("1")?)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of the median, by resampling.
fn confidence(values: &[f64]) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut medians: Vec<f64> = (0..2_000)
        .map(|_| {
            let mut sample: Vec<f64> = values
                .iter()
                .map(|_| values[random.usize(0..values.len())])
                .collect();
            median(&mut sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[50], medians[1950])
}
