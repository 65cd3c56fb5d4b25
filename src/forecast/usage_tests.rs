use super::*;

const MIB: u64 = 1 << 20;

struct Run {
    estimate: UsageEstimate,
    now: Duration,
    completed: u64,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            estimate: UsageEstimate::new(200 * MIB),
            now: Duration::ZERO,
            completed: 0,
        };
        run.sample(20 * MIB, 0);
        run
    }

    fn sample(&mut self, usage_bytes: u64, in_flight: u32) {
        self.now += Duration::from_millis(100);
        self.estimate.observe(Evidence {
            now: self.now,
            usage_bytes,
            process_bytes: usage_bytes,
            own_in_flight: in_flight,
            all_in_flight: in_flight,
            completed: self.completed,
            ..Evidence::default()
        });
    }

    fn requests(&mut self, count: u32, each_bytes: u64) {
        self.sample(20 * MIB + each_bytes * u64::from(count), count);
        self.completed += u64::from(count);
        self.sample(20 * MIB, 0);
    }
}

#[test]
fn the_configured_estimate_holds_until_requests_have_been_seen() {
    let mut run = Run::new();
    assert_eq!(run.estimate.request_bytes(), 200 * MIB);
    assert_eq!(run.estimate.low_bytes(), 0);
    run.requests(4, 10 * MIB);
    assert_eq!(run.estimate.request_bytes() / MIB, (200 + 15) / 2);
    run.requests(4, 10 * MIB);
    assert!(run.estimate.request_bytes().abs_diff(15 * MIB) <= MIB);
}

#[test]
fn larger_requests_count_at_once_and_smaller_ones_after_a_while() {
    let mut run = Run::new();
    run.requests(8, 10 * MIB);
    run.sample(20 * MIB + 80 * MIB, 2);
    assert!(run.estimate.request_bytes() >= 58 * MIB);
    run.sample(20 * MIB, 0);
    for _ in 0..2_000 {
        run.requests(1, 10 * MIB);
    }
    assert!(run.estimate.request_bytes() < 16 * MIB);
}

#[test]
fn what_may_be_the_allocators_is_not_what_requests_need() {
    let mut run = Run::new();
    run.requests(8, 10 * MIB);
    let before_bytes = run.estimate.request_bytes();
    // 190 MiB more than two requests hold, all of it freed lately.
    run.estimate.see_usage(0, (190 * MIB) as f64);
    run.sample(20 * MIB + 210 * MIB, 2);
    assert!(run.estimate.request_bytes() <= before_bytes);
    // Long ago by now; and the baseline has not moved.
    run.estimate.see_usage(0, 0.0);
    run.sample(20 * MIB + 20 * MIB, 2);
    assert_eq!(run.estimate.realised_bytes(100 * MIB), 20 * MIB);
}

#[test]
fn memory_that_is_kept_and_reused_does_not_make_requests_look_small() {
    let mut run = Run::new();
    run.requests(8, 40 * MIB);
    let before = run.estimate.request_bytes();
    // The allocator keeps 320 MiB, and later requests live in them.
    for _ in 0..200 {
        run.sample(340 * MIB, 0);
        run.sample(340 * MIB, 8);
        run.completed += 8;
    }
    assert!(run.estimate.request_bytes() > before * 9 / 10);
}

#[test]
fn what_stays_when_requests_finish_is_not_of_those_that_are_left() {
    let mut run = Run::new();
    run.sample(20 * MIB + 8 * 170 * MIB, 8);
    let before = run.estimate.request_bytes();
    // Seven finish; the allocator keeps all of it.
    run.completed += 7;
    for _ in 0..100 {
        run.sample(20 * MIB + 8 * 170 * MIB, 1);
    }
    assert!(run.estimate.request_bytes() <= before);
    // What the last one adds is its own.
    run.sample(20 * MIB + 8 * 170 * MIB + 400 * MIB, 1);
    assert!(run.estimate.average_bytes as u64 > 500 * MIB);
}

#[test]
fn a_cache_that_grows_beside_a_quiet_stream_is_forgotten_again() {
    let mut run = Run::new();
    run.requests(8, 10 * MIB);
    run.sample(500 * MIB, 1);
    assert!(run.estimate.request_bytes() > 400 * MIB);
    run.completed += 1;
    for _ in 0..6 * 3_000 {
        run.sample(500 * MIB, 0);
    }
    // And that requests need no more than that is not trusted any more, either.
    let forgotten_bytes = run.estimate.request_bytes();
    assert!(
        forgotten_bytes.abs_diff(200 * MIB) < 5 * MIB,
        "{forgotten_bytes}"
    );
    assert!(run.estimate.average_bytes < 20.0 * MIB as f64);
}

#[test]
fn while_nothing_is_in_flight_nothing_is_forgotten() {
    let mut run = Run::new();
    run.requests(8, 100 * MIB);
    let before = run.estimate.request_bytes();
    let quiet = |run: &mut Run| (0..6_000).for_each(|_| run.sample(20 * MIB, 0));
    quiet(&mut run);
    assert_eq!(run.estimate.request_bytes(), before);
    // Nor what another process has learned.
    let mut run = Run::new();
    run.estimate.load((100 * MIB) as f64, 300.0);
    quiet(&mut run);
    assert_eq!(run.estimate.request_bytes(), 150 * MIB);
}

#[test]
fn what_is_forgotten_of_another_process_is_trusted_no_more() {
    let mut run = Run::new();
    run.estimate.load((100 * MIB) as f64, 300.0);
    // One stream that shows nothing.
    for _ in 0..6_000 {
        run.sample(20 * MIB, 1);
    }
    // By itself it is one of eight.
    assert!(run.estimate.request_bytes() > 150 * MIB);
}

#[test]
fn what_usage_shows_is_not_counted_twice() {
    let mut run = Run::new();
    run.sample(120 * MIB, 4);
    assert_eq!(run.estimate.realised_bytes(800 * MIB), 100 * MIB);
    // More growth than reservations: the rest is not theirs.
    assert_eq!(run.estimate.realised_bytes(60 * MIB), 60 * MIB);
}

#[test]
fn requests_that_no_sample_saw_teach_nothing() {
    let mut run = Run::new();
    run.completed += 1_000;
    run.sample(20 * MIB, 0);
    assert_eq!(run.estimate.request_bytes(), 200 * MIB);
}

#[test]
fn beside_accounts_what_lasts_for_a_moment_is_no_requests() {
    let expected_mib = |samples: u32| {
        let mut run = Run::new();
        run.estimate = UsageEstimate::beside_accounts();
        run.sample(20 * MIB, 0);
        for step in 0..40 {
            // Some that have ended have not freed yet what they held.
            let more_bytes = if step >= 30 - samples && step < 30 {
                150 * MIB
            } else {
                0
            };
            run.now -= Duration::from_millis(90);
            run.sample(30 * MIB + more_bytes, 5);
        }
        run.estimate.request_bytes() / MIB
    };
    assert!(expected_mib(4) < 3, "{}", expected_mib(4));
    assert!(expected_mib(20) > 40, "{}", expected_mib(20));
}

#[test]
fn beside_accounts_what_does_not_vanish_with_requests_is_not_theirs() {
    let mut run = Run::new();
    run.estimate = UsageEstimate::beside_accounts();
    run.sample(20 * MIB, 0);
    // A stream stays open, and a cache grows by 300 MiB.
    for step in 0..30 {
        run.sample(20 * MIB + step * 10 * MIB, 1);
    }
    assert!(run.estimate.request_bytes() > 200 * MIB);
    for _ in 0..100 {
        run.sample(320 * MIB, 2);
        run.sample(320 * MIB, 2);
        run.completed += 1;
        for _ in 0..4 {
            run.sample(320 * MIB, 1);
        }
    }
    let each_mib = run.estimate.request_bytes() / MIB;
    assert!(each_mib < 10, "{each_mib}");
}

#[test]
fn beside_accounts_what_vanishes_with_requests_was_theirs() {
    let mut run = Run::new();
    run.estimate = UsageEstimate::beside_accounts();
    run.sample(20 * MIB, 0);
    for _ in 0..6 {
        for _ in 0..4 {
            run.sample(20 * MIB + 8 * 40 * MIB, 8);
        }
        run.completed += 7;
        for _ in 0..4 {
            run.sample(20 * MIB + 40 * MIB, 1);
        }
    }
    let each_mib = run.estimate.request_bytes() / MIB;
    assert!((55..=60).contains(&each_mib), "{each_mib}");
}
