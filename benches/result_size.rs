//! What refusing an oversized result costs, against building it to measure it,
//! and what accepting one costs, against `serde_json::to_vec`.
//!
//! Times are medians of interleaved runs; peaks are counted by the allocator.
//!
//! `cargo bench --bench result_size`

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tower_memory_guard::result_size::{to_json, to_json_in_one_pass};

struct Peak;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Peak = Peak;

#[allow(unsafe_code)]
// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Peak {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let held = HELD.fetch_add(size, Ordering::Relaxed) + size;
        PEAK.fetch_max(held, Ordering::Relaxed);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes allocated at most while `work` runs, beyond what was held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed) - before
}

/// Medians of the times of `works`, run in turn.
fn medians<const N: usize>(works: [&dyn Fn(); N]) -> [Duration; N] {
    let mut times = [const { Vec::new() }; N];
    for round in 0..60 {
        for (work, times) in works.iter().zip(&mut times) {
            let started = Instant::now();
            work();
            // The first rounds warm up.
            if round >= 10 {
                times.push(started.elapsed());
            }
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

#[derive(Serialize)]
struct Record {
    id: u64,
    name: String,
    email: String,
    score: f64,
    active: bool,
    tags: [u16; 4],
}

fn records(count: u64) -> Vec<Record> {
    let record = |id| Record {
        id,
        name: format!("customer {id}"),
        email: format!("customer.{id}@example.com"),
        score: id as f64 / 7.0,
        active: id % 3 == 0,
        tags: [1, 22, 333, (id % 60_000) as u16],
    };
    (0..count).map(record).collect()
}

/// As many entries as make about `bytes` of JSON.
fn sized<T: Serialize>(bytes: usize, make: impl Fn(u64) -> T) -> T {
    let mut count = 1000;
    // Numbers grow longer with their count, so the first guess is too long.
    for _ in 0..3 {
        let length = serde_json::to_vec(&make(count)).expect("JSON").len();
        count = (count as f64 * bytes as f64 / length as f64) as u64;
    }
    make(count)
}

fn accept<T: Serialize>(corpus: &str, make: impl Fn(u64) -> T) {
    let value = sized(4 << 20, make);
    const LIMIT: u64 = 5 << 20;
    let [plain, two, one] = medians([
        &|| drop(black_box(serde_json::to_vec(&value))),
        &|| drop(black_box(to_json(&value, LIMIT).expect("it fits"))),
        &|| {
            drop(black_box(
                to_json_in_one_pass(&value, LIMIT).expect("it fits"),
            ))
        },
    ]);
    let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
    println!(
        "| {corpus} | {:.2} ms | {:.2} | {:.2} |",
        plain.as_secs_f64() * 1e3,
        ratio(two),
        ratio(one)
    );
}

fn reject<T: Serialize>(corpus: &str, make: impl Fn(u64) -> T) {
    const LIMIT: u64 = 5 << 20;
    let value = sized(50 << 20, make);
    let naive = || {
        let built = serde_json::to_vec(&value).expect("JSON");
        assert!(black_box(built.len()) as u64 > LIMIT);
    };
    let two = || assert!(to_json(&value, LIMIT).is_err());
    let one = || assert!(to_json_in_one_pass(&value, LIMIT).is_err());
    let [naive_time, two_time, one_time] = medians([&naive, &two, &one]);
    let share = |time: Duration| 100.0 * time.as_secs_f64() / naive_time.as_secs_f64();
    println!(
        "| {corpus} | {:.1} ms, {:.0} MiB | {:.1} %, {} bytes | {:.1} %, {:.1} MiB |",
        naive_time.as_secs_f64() * 1e3,
        peak(naive) as f64 / f64::from(1 << 20),
        share(two_time),
        peak(two),
        share(one_time),
        peak(one) as f64 / f64::from(1 << 20),
    );
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let integers = |count: u64| (0..count).map(|n| n * 7919).collect::<Vec<u64>>();
    let floats = |count: u64| (0..count).map(|n| n as f64 / 7.0).collect::<Vec<f64>>();
    let strings = |count: u64| {
        vec!["An export with a few \"quotes\" and long texts. ".repeat(40); count as usize]
    };
    let tree = |count: u64| {
        let row =
            |n: u64| json!({ "id": n, "name": format!("row {n}"), "at": [n, -1.5, null, true] });
        (0..count).map(row).collect::<Vec<_>>()
    };

    println!("accepting about 4 MiB under a limit of 5 MiB, as a multiple of serde_json::to_vec\n");
    println!("| corpus | to_vec | two passes | one pass |");
    println!("|---|---|---|---|");
    accept("records", records);
    accept("integers", integers);
    accept("floats", floats);
    accept("tree of values", tree);
    accept("long strings", strings);

    println!(
        "\nrefusing about 50 MiB at a limit of 5 MiB, in percent of building it; peak allocation\n"
    );
    println!("| corpus | build and measure | two passes | one pass |");
    println!("|---|---|---|---|");
    reject("records", records);
    reject("integers", integers);
    reject("long strings", strings);
}
