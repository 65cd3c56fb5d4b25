use super::*;

const MIB: u64 = 1 << 20;

fn class(peaks: impl IntoIterator<Item = u64>) -> ClassEstimate {
    let mut class = ClassEstimate::new(200 * MIB);
    for mib in peaks {
        class.ended(
            &Marks::default(),
            mib * MIB,
            Duration::from_millis(500),
            class.learned().map(|need| need.bytes),
        );
    }
    class
}

fn mib(bytes: f64) -> f64 {
    bytes / MIB as f64
}

#[test]
fn the_configured_estimate_fades_into_a_doubt() {
    assert_eq!(mib(class([]).next().bytes), 200.0);
    let after = |n| class(std::iter::repeat_n(20, n)).next();
    assert!(mib(after(4).bytes) > 100.0);
    assert!(mib(after(8).bytes) < 40.0 && mib(after(8).variance.sqrt()) > 35.0);
    assert!(mib(after(1000).bytes) < 20.5 && mib(after(1000).variance.sqrt()) < 8.0);
}

#[test]
fn predictions_follow_a_drift() {
    let mut class = class(std::iter::repeat_n(20, 100));
    let mut in_flight = std::collections::VecDeque::new();
    for step in 0..300 {
        let size = 20.0 + 40.0 * f64::from(step) / 300.0;
        in_flight.push_back((size, class.learned().unwrap().bytes));
        if in_flight.len() > 12 {
            let (size, predicted) = in_flight.pop_front().unwrap();
            class.ended(
                &Marks::default(),
                (size * MIB as f64) as u64,
                Duration::from_millis(500),
                Some(predicted),
            );
        }
    }
    let learned = mib(class.learned().unwrap().bytes);
    assert!((54.0..66.0).contains(&learned), "{learned}");
}

#[test]
fn chance_is_no_drift() {
    let mut random = fastrand::Rng::with_seed(1);
    let mixed: Vec<u64> = (0..2000)
        .map(|_| if random.u32(0..10) == 0 { 120 } else { 2 })
        .collect();
    let class = class(mixed);
    let learned = mib(class.learned().unwrap().bytes);
    assert!((9.0..19.0).contains(&learned), "{learned}");
}

#[test]
fn a_surprise_counts_at_once_and_makes_the_past_count_less() {
    let mut class = class(std::iter::repeat_n(20, 1000));
    let before = class.learned().unwrap().bytes;
    assert!(!class.surprise(21 * MIB));
    assert!(class.surprise(300 * MIB));
    assert!(class.surprise(300 * MIB) && class.surprise(300 * MIB));
    let after = class.learned().unwrap();
    assert!(after.bytes > before * 1.2 && mib(after.variance.sqrt()) > 30.0);
    // Now it is known.
    assert!(!class.surprise(300 * MIB));
}

#[test]
fn memory_that_stays_flat_is_all_that_is_needed() {
    let class = class([]);
    let seen = |flat| Seen {
        age: Duration::from_secs(flat),
        peak_bytes: 65_536,
        held_bytes: 65_536,
        flat: Duration::from_secs(flat),
    };
    assert!(mib(class.predict(&seen(0)).bytes) > 150.0);
    assert!(mib(class.predict(&seen(12)).bytes) < 0.5);
}

#[test]
fn what_was_cut_off_is_no_record() {
    let mut class = ClassEstimate::new(MIB);
    for _ in 0..60 {
        class.add(10.0 * MIB as f64, 1.0);
    }
    let before_bytes = class.worst_bytes();
    // It might have come to 18 MiB, and nobody has seen any that did.
    class.cut_off(9.0 * MIB as f64);
    assert!(class.worst_bytes() <= before_bytes);
    class.add(18.0 * MIB as f64, 1.0);
    assert!(class.worst_bytes() > 2.0 * before_bytes);
}
