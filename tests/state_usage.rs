//! What was learned survives without accounting, too.

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
    let estimate = next.stats().estimated_mem_per_req_mb;
    let average = (LIMIT * 6 / 10 / 3 / MIB) as f64;
    assert!(estimate >= average, "{estimate} {average}");
    drop(permits);
}
