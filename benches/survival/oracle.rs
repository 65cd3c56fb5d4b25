//! What could have been answered: a scheduler that knows every size and duration.

use std::time::Duration;

use super::pattern::Arrival;

/// Which requests are answered when each, in the order of arrival, starts as soon as all
/// of its bytes fit beside those that run.
///
/// Nobody overtakes. A request that could not start within `longest_wait` is skipped and
/// holds up nobody.
pub(crate) fn answers(
    arrivals: &[Arrival],
    capacity_bytes: u64,
    longest_wait: Duration,
) -> Vec<bool> {
    let mut running: Vec<Running> = Vec::new();
    let mut last_start = Duration::ZERO;
    let mut answered = vec![false; arrivals.len()];
    for (arrival, answered) in arrivals.iter().zip(&mut answered) {
        if arrival.bytes > capacity_bytes {
            continue;
        }
        let earliest = arrival.at.max(last_start);
        running.retain(|other| other.end > earliest);
        let start = first_fit(&running, earliest, capacity_bytes - arrival.bytes);
        if start > arrival.at + longest_wait {
            continue;
        }
        let end = start + arrival.work;
        last_start = start;
        let place = running.partition_point(|other| other.end <= end);
        let bytes = arrival.bytes;
        running.insert(place, Running { end, bytes });
        *answered = true;
    }
    answered
}

/// Bytes × seconds of what is answered.
pub(crate) fn goodput_byte_seconds(arrivals: &[Arrival], answered: &[bool]) -> f64 {
    let both = arrivals.iter().zip(answered);
    both.filter(|&(_, &answered)| answered)
        .map(|(arrival, _)| work_byte_seconds(arrival))
        .sum()
}

/// What answering a request is worth.
pub(crate) fn work_byte_seconds(arrival: &Arrival) -> f64 {
    arrival.bytes as f64 * arrival.work.as_secs_f64()
}

struct Running {
    end: Duration,
    bytes: u64,
}

/// When those running, in the order of their ends, hold at most `most_bytes`.
fn first_fit(running: &[Running], earliest: Duration, most_bytes: u64) -> Duration {
    let mut held: u64 = running.iter().map(|other| other.bytes).sum();
    let mut start = earliest;
    for other in running {
        if held <= most_bytes {
            break;
        }
        held -= other.bytes;
        start = other.end;
    }
    start
}
