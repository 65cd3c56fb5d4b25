//! What was learned survives the process, also a kill.

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use support::events::Events;
use support::{MIB, eventually, with};
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{Class, Guard, MemoryGuardLayer};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// Of every guard here, until requests have been seen.
const GUESS: u64 = 20;

fn guard(path: &Path) -> Guard {
    let estimate = GUESS * MIB;
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(estimate).state(path));
    layer.guard().clone()
}

/// A guard that starts from the file, and what was logged of it above the level of
/// information.
fn restarted(path: &Path) -> (Guard, Vec<String>) {
    let mut restarted = None;
    let events = Events::record(|| restarted = Some(guard(path)));
    let above = events.iter().filter(|event| event["at"] != "INFO");
    let above = above.map(|event| event["message"].clone());
    (restarted.unwrap(), above.collect())
}

fn estimate_mib(guard: &Guard) -> f64 {
    guard.stats().estimated_mem_per_req_mib
}

/// Requests of a class that has a line of its own in the file only if that is written right.
fn class() -> Class {
    Class::new("grand rapport\n100 % 尺寸")
}

async fn work(guard: &Guard, mib: u64) {
    let permit = guard.acquire_for(&class()).await.unwrap();
    let held = permit.follow(async move { vec![1_u8; (mib * MIB) as usize] });
    drop(held.await);
    guard.sample_now();
}

/// A directory of its own, and a file's path in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.state");
    (directory, path)
}

/// A file with what requests of 7 MiB teach, and what they are estimated to need.
async fn learned() -> (tempfile::TempDir, PathBuf, f64) {
    let (directory, path) = place();
    let first = guard(&path);
    for _ in 0..40 {
        work(&first, 7).await;
    }
    let estimate = estimate_mib(&first);
    first.close();
    (directory, path, estimate)
}

/// This program again, as another process: the test of that name.
fn another_process(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("MEMORY_GUARD_STATE", path)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn the_next_process_estimates_as_the_one_before_did() {
    let (directory, path, estimate) = learned().await;
    assert!((6.5..9.0).contains(&estimate), "{estimate}");
    let (next, warnings) = restarted(&path);
    let again = estimate_mib(&next);
    assert!((again / estimate - 1.0).abs() < 0.05, "{again} {estimate}");
    assert_eq!(warnings, [""; 0]);
    next.close();
    // Nothing lies around once nobody writes.
    let files = std::fs::read_dir(directory.path()).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["guard.state"]);
}

#[tokio::test]
async fn it_is_written_while_requests_run_and_only_when_there_is_news() {
    let (_directory, path) = place();
    let guard = guard(&path);
    for _ in 0..9 {
        work(&guard, 7).await;
    }
    eventually("the file is there", || {
        guard.sample_now();
        path.exists()
    })
    .await;
    // What is learned meanwhile follows, and then it is known.
    for _ in 0..60 {
        guard.sample_now();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let written = || std::fs::metadata(&path).unwrap().modified().unwrap();
    let before = written();
    for _ in 0..60 {
        guard.sample_now();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(written(), before);
    guard.close();
}

#[test]
#[ignore = "another test runs it, as a process that it kills"]
fn holds_more_than_was_ever_known() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let layer = MemoryGuardLayer::builder().read_env();
        let memory = tower_memory_guard::ManualSource::new(1000 * MIB);
        let layer = layer.memory_source(memory).build().unwrap();
        let guard = layer.guard().clone();
        let permit = guard.acquire_for(&class()).await.unwrap();
        let held = permit.follow(async { vec![1_u8; (150 * MIB) as usize] });
        let _held = held.await;
        for _ in 0..3000 {
            guard.sample_now();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[tokio::test]
async fn a_request_that_has_its_process_killed_is_known_to_the_next() {
    let (_directory, path) = place();
    let mut child = another_process("holds_more_than_was_ever_known", &path);
    eventually("it is written", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.contains("running ")
    })
    .await;
    // Meanwhile nobody else writes the file.
    let (reader, warnings) = restarted(&path);
    assert!(estimate_mib(&reader) >= 150.0);
    let [warning] = &*warnings else {
        panic!("{warnings:?}");
    };
    let number = child.id().to_string();
    assert!(warning.contains(&number), "{warning}");
    let before = std::fs::read_to_string(&path).unwrap();
    reader.close();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);

    child.kill().unwrap();
    child.wait().unwrap();
    let (next, warnings) = restarted(&path);
    assert_eq!(warnings, [""; 0]);
    let estimate = estimate_mib(&next);
    assert!((150.0..300.0).contains(&estimate), "{estimate}");
    next.close();
}

#[tokio::test]
async fn requests_that_run_as_their_guard_is_closed_are_cut_off_by_nothing() {
    let (_directory, path) = place();
    let closing = guard(&path);
    let permit = closing.acquire_for(&class()).await.unwrap();
    let of_permit = permit.clone();
    let held = of_permit.follow(async { vec![1_u8; (7 * MIB) as usize] });
    let held = held.await;
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    // As long as nothing is known, it is a surprise.
    eventually("it is written", || {
        closing.sample_now();
        text().contains("running ")
    })
    .await;
    for _ in 0..9 {
        work(&closing, 7).await;
    }
    closing.close();
    // The process may end with its last request.
    assert!(text().contains("class "), "{}", text());
    assert!(!text().contains("running "), "{}", text());
    drop((held, permit));
}

#[tokio::test]
async fn requests_that_end_after_their_guard_is_closed_do_not_run_for_the_next_process() {
    for before in [0, 9] {
        let (_directory, path) = place();
        let closing = guard(&path);
        for _ in 0..before {
            work(&closing, 7).await;
        }
        let permit = closing.acquire_for(&class()).await.unwrap();
        let of_permit = permit.clone();
        let held = of_permit.follow(async { vec![1_u8; (150 * MIB) as usize] });
        let held = held.await;
        closing.sample_now();
        closing.close();
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text().contains(" 157286400"), "it might be killed");
        drop((held, permit));
        // Nobody samples any more.
        let lock = path.with_extension("state.lock");
        eventually("it is let go", || !lock.exists()).await;
        assert!(!text().contains("running "), "{}", text());
        assert_eq!(text().contains("class "), before > 0);
    }
}

#[tokio::test]
async fn a_file_that_makes_no_sense_is_one_warning_and_the_guard_works() {
    let (_directory, path, _) = learned().await;
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[40] ^= 4;
    let newer = b"tower-memory-guard state 2\n{}\n".to_vec();
    let huge = good.repeat((1 << 20) / good.len() + 1);
    let files = [
        ("damaged", damaged),
        ("missing", good[..good.len() / 2].to_vec()),
        ("missing", good[..good.len() - 1].to_vec()),
        ("not what a memory guard writes", b"export A=1\n".to_vec()),
        ("not what a memory guard writes", Vec::new()),
        ("no text", vec![0xfe; 100]),
        ("version", newer),
        ("larger", huge),
    ];
    for (problem, file) in files {
        std::fs::write(&path, file).unwrap();
        let (guard, warnings) = restarted(&path);
        let [warning] = &*warnings else {
            panic!("{problem}: {warnings:?}");
        };
        assert!(warning.contains(problem), "{warning}");
        assert!(warning.contains(&*path.to_string_lossy()), "{warning}");
        assert_eq!(estimate_mib(&guard), GUESS as f64);
        // What is learned from now on replaces it.
        work(&guard, 7).await;
        guard.close();
        assert_eq!(restarted_warnings(&path), [""; 0]);
    }
}

fn restarted_warnings(path: &Path) -> Vec<String> {
    let (guard, warnings) = restarted(path);
    guard.close();
    warnings
}

#[tokio::test]
async fn where_nothing_can_be_written_there_is_one_warning_and_the_guard_works() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/guard.state");
    let mut paths = vec![missing, directory.path().to_owned()];
    if cfg!(target_os = "linux") {
        paths.extend(["/proc/guard.state", "/dev/null"].map(PathBuf::from));
    }
    for path in paths {
        let mut made = None;
        let events = Events::record(|| made = Some(guard(&path)));
        let guard = made.unwrap();
        work(&guard, 7).await;
        guard.close();
        let warnings: Vec<_> = events
            .iter()
            .filter(|event| event["at"] == "WARN")
            .collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let text = path.to_string_lossy();
        assert!(warnings[0]["message"].contains(&*text), "{warnings:?}");
        // And it is said where the settings are.
        let start = &events[0];
        assert_eq!(start["message"], "memory guard initialised");
        assert!(start["state"].contains(&*text) && start.contains_key("state_problem"));
    }
    assert!(!Path::new("/dev/null").is_file());
}

#[tokio::test]
async fn two_guards_of_a_process_do_not_write_one_file() {
    let (directory, path, estimate) = learned().await;
    let first = guard(&path);
    // By another name, too.
    let other = directory.path().join(".").join("guard.state");
    let (second, warnings) = restarted(&other);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("another guard"), "{warnings:?}");
    assert!((estimate_mib(&second) / estimate - 1.0).abs() < 0.05);
    let before = std::fs::read_to_string(&path).unwrap();
    for _ in 0..20 {
        work(&second, 60).await;
    }
    second.close();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    for _ in 0..20 {
        work(&first, 60).await;
    }
    first.close();
    assert_ne!(std::fs::read_to_string(&path).unwrap(), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_lock_of_a_process_that_is_gone_is_none() {
    let (_directory, path, _) = learned().await;
    let lock = path.with_extension("state.lock");
    let own = std::process::id().to_string();
    let start = format!("{own} 1\n");
    for stale in ["4294967294 7\n", "", "nonsense", &own, &start] {
        std::fs::write(&lock, stale).unwrap();
        assert_eq!(restarted_warnings(&path), [""; 0], "{stale:?}");
        assert!(!lock.exists());
    }
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(&lock, other.id().to_string()).unwrap();
    assert_eq!(restarted_warnings(&path).len(), 1);
    assert!(lock.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(restarted_warnings(&path), [""; 0]);
}

#[tokio::test]
async fn estimates_that_make_no_sense_are_one_warning() {
    for nonsense in [
        r#"{"classes":{"":{"seen":40,"peaks":[[1e300,40]]}}}"#,
        r#"{"classes":{"":{"seen":40,"peaks":[[7340032,40],[-1,40]]}}}"#,
        r#"{"classes":{"":{"seen":40,"peaks":[[7340032,1e12]]}}}"#,
        r#"{"classes":{"":{"seen":-1,"peaks":[[7340032,40]]}}}"#,
        r#"{"usage_bytes_per_request":[0,1]}"#,
        r#"{"margin_deviations":1e9}"#,
    ] {
        let mut made = None;
        let events = Events::record(|| {
            let estimates = serde_json::from_str(nonsense).unwrap();
            let built = with(|builder| {
                let builder = builder.estimated_bytes_per_request(GUESS * MIB);
                builder.estimates(estimates)
            });
            made = Some(built.0.guard().clone());
        });
        let warnings = events.iter().filter(|event| event["at"] == "WARN").count();
        assert_eq!(warnings, 1, "{nonsense}");
        assert_eq!(estimate_mib(&made.unwrap()), GUESS as f64, "{nonsense}");
    }
}

#[tokio::test]
async fn what_was_read_counts_more_than_estimates_that_were_given() {
    let (_directory, path, estimate) = learned().await;
    let given = r#"{"classes":{"":{"seen":40,"peaks":[[94371840,40]]}}}"#;
    let (layer, _) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(GUESS * MIB);
        let builder = builder.estimates(serde_json::from_str(given).unwrap());
        builder.state(&path)
    });
    let again = estimate_mib(layer.guard());
    assert!((again / estimate - 1.0).abs() < 0.05, "{again} {estimate}");
    layer.guard().close();
}

/// A file with these records, as a guard writes it.
fn signed(records: &str) -> String {
    let text = format!("tower-memory-guard state 1\n{records}\n");
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{text}check {sum:016x}\n")
}

#[tokio::test]
async fn figures_that_no_guard_writes_are_refused_with_what_is_wrong_where_and_what_would_be_right()
{
    let (_directory, path) = place();
    let good = "class plain =good 3 1048576:3\n";
    for (bad, said) in [
        ("class plain =a%20b 40 1e300:40", "1e300 bytes as a peak"),
        ("class plain =a%20b 40 1e14:40", "1e14 bytes as a peak"),
        ("class plain =a%20b 40 -7:40", "-7 bytes as a peak"),
        ("class plain =a%20b 40 NaN:40", "NaN bytes as a peak"),
        (
            "class plain =a%20b 40 7340032:inf",
            "inf requests with one peak",
        ),
        (
            "class plain =a%20b 40 7340032:1e6",
            "1000000 requests with one peak",
        ),
        (
            "class plain =a%20b 1e300 7340032:40",
            "1e300 requests seen make no sense, 0 to 100000 would",
        ),
        (
            "running plain =a%20b inf",
            "inf bytes held by one of class \"a b\" make no sense, 1 byte to 64 TiB would",
        ),
        ("usage 1e15 40", "1e15 bytes in use for each request"),
        ("usage 7340032 -1", "-1 requests seen"),
        ("margin 9", "a margin of 9 standard deviations"),
    ] {
        std::fs::write(&path, signed(&format!("{good}{bad}"))).unwrap();
        let (guard, warnings) = restarted(&path);
        let [warning] = &*warnings else {
            panic!("{bad}: {warnings:?}");
        };
        let file = &*path.to_string_lossy();
        let named = if bad.contains('=') { "a b" } else { "" };
        for part in [file, "line 3", named, said, " would"] {
            assert!(warning.contains(part), "{bad}: {warning}: no {part}");
        }
        assert_eq!(estimate_mib(&guard), GUESS as f64, "{bad}");
        work(&guard, 7).await;
        guard.close();
    }
}

/// What a guard needs of its memory for a request of 7 MiB, after so many of them.
async fn learned_again(guard: &Guard, requests: usize) -> f64 {
    for _ in 0..requests {
        // A request that is refused fails here.
        work(guard, 7).await;
    }
    estimate_mib(guard)
}

#[tokio::test]
async fn figures_that_are_plausible_and_out_of_date_are_outweighed_by_some_tens_of_requests() {
    let (_directory, path) = place();
    let name = "=grand%20rapport%0A100%20%25%20尺寸";
    // Far beyond the limit of 1,000 MiB, just below it, and a tenth of them so large.
    for records in [
        format!("class plain {name} 100000 30000000000:369"),
        format!("class plain {name} 9 30000000000:9"),
        format!("class plain {name} 100000 990000000:369"),
        format!("class plain {name} 100000 2000000:320 30000000000:37"),
        format!("class plain {name} 100000 4096:369"),
        format!("running plain {name} 70000000000000"),
        format!("running plain {name} 990000000"),
        format!("margin 8\nclass plain {name} 100000 70000000000000:100000"),
    ] {
        std::fs::write(&path, signed(&records)).unwrap();
        let (guard, warnings) = restarted(&path);
        assert_eq!(warnings, [""; 0], "{records}");
        let estimate = learned_again(&guard, 64).await;
        assert!((6.5..16.0).contains(&estimate), "{records}: {estimate}");
        guard.close();
    }
}
