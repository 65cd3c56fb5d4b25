//! What was learned survives without accounting, too.

#[path = "../support/mod.rs"]
mod support;

use support::{LIMIT, MIB, eventually, fill, with};

#[tokio::test]
async fn the_greatest_average_is_kept_while_requests_are_in_flight() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.state");
    let start = || {
        let (layer, memory) = with(|builder| {
            let builder = builder.estimated_bytes_per_request(20 * MIB);
            builder.state(&path)
        });
        (layer.guard().clone(), memory)
    };
    let (guard, memory) = start();
    fill(&guard, &memory, 10);
    let permits: Vec<_> = (0..3).map(|_| guard.acquire(20 * MIB)).collect();
    let permits = futures_util::future::join_all(permits).await;
    fill(&guard, &memory, 70);
    eventually("it is written", || {
        guard.sample_now();
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\nusage "))
    })
    .await;
    // As if it had been killed: nothing is closed, and nobody has come to an end.
    let text = std::fs::read_to_string(&path).unwrap();
    guard.close();
    std::fs::write(&path, text).unwrap();
    let (next, memory) = start();
    fill(&next, &memory, 10);
    let estimate = next.stats().estimated_mem_per_req_mib;
    let average = (LIMIT * 6 / 10 / 3 / MIB) as f64;
    assert!(estimate >= average, "{estimate} {average}");
    drop(permits);
}

/// A file with one record, as a guard writes it.
fn signed(record: &str) -> String {
    let text = format!("tower-memory-guard state 1\n{record}\n");
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{text}check {sum:016x}\n")
}

#[tokio::test]
async fn an_average_that_is_out_of_date_is_outweighed_by_some_tens_of_requests() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.state");
    for record in [
        "usage 30000000000 100000",
        "usage 990000000 9",
        "usage 30000000000 0",
    ] {
        std::fs::write(&path, signed(record)).unwrap();
        let (layer, memory) = with(|builder| {
            let builder = builder.estimated_bytes_per_request(20 * MIB);
            builder.state(&path)
        });
        let guard = layer.guard();
        for _ in 0..48 {
            fill(guard, &memory, 10);
            let permit = guard.try_acquire(tower_memory_guard::Cost::Estimated);
            let permit = permit.expect("it may run alone");
            memory.set_usage_bytes(LIMIT / 10 + 9 * MIB);
            guard.sample_now();
            drop(permit);
            guard.sample_now();
        }
        fill(guard, &memory, 10);
        let estimate = guard.stats().estimated_mem_per_req_mib;
        assert!((7.0..20.0).contains(&estimate), "{record}: {estimate}");
        guard.close();
    }
}
