use super::*;

const MIB: u64 = 1 << 20;

/// 300 MiB in use, 250 of them by another guard's requests, which reserved 256.
fn beside_another_guard(others: Portion) -> i64 {
    let mut forecast = Forecast::new(MIB, 0.001, true);
    forecast.look(Box::leak(Box::new(Running::new())), Duration::ZERO);
    forecast.set_others(others);
    forecast.observe(Evidence {
        usage_bytes: 300 * MIB,
        ..Evidence::default()
    });
    forecast.outstanding_bytes(256 * MIB)
}

#[test]
fn another_guards_requests_are_counted_once() {
    let known = Portion {
        reserved_kib: 256 * 1024,
        held_bytes: (250 * MIB) as f64,
        outstanding_bytes: 6 * MIB as i64,
    };
    assert_eq!(beside_another_guard(known), 6 * MIB as i64);
    // Of what nobody has looked at yet, everything is still to come.
    assert_eq!(beside_another_guard(Portion::default()), 256 * MIB as i64);
}

#[test]
fn bodies_of_work_that_has_not_begun_are_not_what_requests_need() {
    let mut forecast = Forecast::new(MIB, 0.001, false);
    let at = |seconds, working: u32, bodies_mib: u64| Evidence {
        now: Duration::from_secs(seconds),
        usage_bytes: (100 + 40 * u64::from(working) + bodies_mib) * MIB,
        own_in_flight: working,
        all_in_flight: working,
        body_bytes: bodies_mib * MIB,
        ..Evidence::default()
    };
    for evidence in [at(0, 0, 0), at(1, 0, 200), at(2, 1, 200), at(3, 1, 200)] {
        forecast.observe(evidence);
    }
    let (request_bytes, _) = forecast.unseen();
    // One and a half times 40, less 2 of noise.
    assert_eq!(request_bytes, 57 * MIB);
    // Reserved for both, and in use: nothing of it is still to come.
    assert_eq!(forecast.outstanding_bytes(240 * MIB), 0);
}
