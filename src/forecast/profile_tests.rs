use super::*;
use crate::forecast::course::Course;
use crate::running::Jump;

const MIB: u64 = 1 << 20;

fn profile(peaks: impl IntoIterator<Item = u64>) -> Profile {
    let mut profile = Profile::new(200 * MIB);
    for mib in peaks {
        profile.ended(
            &Marks::default(),
            mib * MIB,
            Duration::from_millis(500),
            profile.learned().map(|need| need.bytes),
            false,
        );
    }
    profile
}

fn mib(bytes: f64) -> f64 {
    bytes / MIB as f64
}

#[test]
fn the_configured_estimate_fades_into_a_doubt() {
    assert_eq!(mib(profile([]).next().bytes), 200.0);
    let after = |n| profile(std::iter::repeat_n(20, n)).next();
    assert!(mib(after(4).bytes) > 100.0);
    assert!(mib(after(8).bytes) < 40.0 && mib(after(8).variance.sqrt()) > 35.0);
    assert!(mib(after(1000).bytes) < 20.5 && mib(after(1000).variance.sqrt()) < 8.0);
}

#[test]
fn predictions_follow_a_drift() {
    let mut profile = profile(std::iter::repeat_n(20, 100));
    let mut in_flight = std::collections::VecDeque::new();
    for step in 0..300 {
        let size = 20.0 + 40.0 * f64::from(step) / 300.0;
        in_flight.push_back((size, profile.learned().unwrap().bytes));
        if in_flight.len() > 12 {
            let (size, predicted) = in_flight.pop_front().unwrap();
            profile.ended(
                &Marks::default(),
                (size * MIB as f64) as u64,
                Duration::from_millis(500),
                Some(predicted),
                false,
            );
        }
    }
    let learned = mib(profile.learned().unwrap().bytes);
    assert!((54.0..66.0).contains(&learned), "{learned}");
}

#[test]
fn many_small_ones_do_not_hide_how_slowly_large_ones_grow() {
    let mut profile = profile([120]);
    let jump = |largest| Jump {
        largest,
        ..Jump::default()
    };
    profile.went(Course::default(), jump(12e6), Some(25));
    (0..100).for_each(|_| profile.went(Course::default(), jump(2e5), Some(2)));
    assert!(profile.gap_ms() > Some(20), "{:?}", profile.gap_ms());
    // Nor do those whose polls nobody saw.
    (0..100).for_each(|_| profile.went(Course::default(), jump(12e6), None));
    assert!(profile.gap_ms() > Some(20), "{:?}", profile.gap_ms());
    // Such ones as large do.
    (0..100).for_each(|_| profile.went(Course::default(), jump(12e6), Some(2)));
    assert_eq!(profile.gap_ms(), Some(2));
}

#[test]
fn chance_is_no_drift() {
    let mut random = fastrand::Rng::with_seed(1);
    let mixed: Vec<u64> = (0..2000)
        .map(|_| if random.u32(0..10) == 0 { 120 } else { 2 })
        .collect();
    let profile = profile(mixed);
    let learned = mib(profile.learned().unwrap().bytes);
    assert!((9.0..19.0).contains(&learned), "{learned}");
}

#[test]
fn a_surprise_counts_at_once_and_makes_the_past_count_less() {
    let mut profile = profile(std::iter::repeat_n(20, 1000));
    let before = profile.learned().unwrap().bytes;
    assert!(!profile.surprise(21 * MIB));
    assert!(profile.surprise(300 * MIB));
    assert!(profile.surprise(300 * MIB) && profile.surprise(300 * MIB));
    let after = profile.learned().unwrap();
    assert!(after.bytes > before * 1.2 && mib(after.variance.sqrt()) > 30.0);
    // Now it is known.
    assert!(!profile.surprise(300 * MIB));
}

#[test]
fn memory_that_stays_flat_is_all_that_is_needed() {
    let profile = profile([]);
    let seen = |flat| Seen {
        age: Duration::from_secs(flat),
        peak_bytes: 65_536,
        held_bytes: 65_536,
        flat: Duration::from_secs(flat),
    };
    assert!(mib(profile.predict(&seen(0)).bytes) > 150.0);
    assert!(mib(profile.predict(&seen(12)).bytes) < 0.5);
}

#[test]
fn what_was_cut_off_is_no_record() {
    let mut profile = Profile::new(MIB);
    for _ in 0..60 {
        profile.add(10.0 * MIB as f64);
    }
    let before_bytes = profile.worst_bytes();
    // It might have come to 18 MiB, and nobody has seen any that did.
    profile.cut_off(9.0 * MIB as f64);
    assert!(profile.worst_bytes() <= before_bytes);
    profile.add(18.0 * MIB as f64);
    assert!(profile.worst_bytes() > 2.0 * before_bytes);
}

#[test]
fn one_poll_may_add_what_was_configured_until_some_were_seen() {
    let known = |seen: usize| {
        let mut profile = profile(std::iter::repeat_n(4, seen));
        profile.jumps.saw(Jump {
            largest: MIB as f64,
            ..Jump::default()
        });
        let first = profile.jumps().unwrap().first;
        (mib(first).round(), profile.known_worst_bytes().map(mib))
    };
    assert_eq!(known(10), (200.0, None));
    let (first_mib, worst_mib) = known(60);
    assert_eq!(first_mib, 1.0);
    assert!((4.0..6.0).contains(&worst_mib.unwrap()), "{worst_mib:?}");
}

#[test]
fn what_another_process_has_seen_is_feared_and_no_poll_is_known_by_it() {
    let mut profile = Profile::new(4 * MIB);
    profile.load(&crate::forecast::record::ClassRecord {
        seen: 500.0,
        peaks: vec![((2 * MIB) as f64, 450.0), ((256 * MIB) as f64, 50.0)],
    });
    let worst = mib(profile.worst_bytes());
    assert!((256.0..300.0).contains(&worst), "{worst}");
    profile.jumps.saw(crate::running::Jump {
        largest: (2 * MIB) as f64,
        ..Default::default()
    });
    let first = mib(profile.jumps().unwrap().first);
    assert!(first >= 4.0, "{first}");
}
