use std::time::Duration;

use super::super::{Evidence, Forecast};
use super::*;
use crate::classify::labels::Labels;
use crate::classify::tenants::Tenants;

const MIB: f64 = (1u64 << 20) as f64;

fn at_least(class: &str, mib: f64) -> AtLeast {
    AtLeast {
        class: class.into(),
        hinted: false,
        bytes: mib * MIB,
    }
}

fn some() -> State {
    let class = |mib: f64| ClassRecord {
        seen: 40.0,
        peaks: vec![(mib * MIB, 39.0), (mib * 2.0 * MIB, 0.997)],
    };
    let names = [
        "",
        "=",
        "render",
        "two words",
        "a%20b",
        "line\nbreak\r\t",
        "größe 尺寸\u{2028}\u{a0}",
    ];
    State {
        estimates: Estimates {
            classes: names.map(|name| (name.into(), class(2.0))).into(),
            hinted_classes: [("render".into(), class(8.0))].into(),
            margin_deviations: Some(2.125),
            usage_bytes_per_request: Some((3.0 * MIB, 12.0)),
        },
        running: vec![at_least("two words", 150.0), at_least("", 1.0)],
    }
}

/// The records with a checksum that is right.
fn signed(records: &str) -> Vec<u8> {
    let text = format!("{KIND}{VERSION}\n{records}");
    format!("{text}check {:016x}\n", checksum(text.as_bytes())).into_bytes()
}

fn refused(text: &[u8]) -> String {
    State::parse(text).expect_err(&String::from_utf8_lossy(text))
}

#[test]
fn what_is_written_is_read_whatever_classes_are_called() {
    let text = some().to_text();
    assert_eq!(State::parse(text.as_bytes()).unwrap(), some());
    assert!(text.lines().all(|line| !line.contains(['\t', '\r'])));
    let nothing = State::default().to_text();
    assert!(State::parse(nothing.as_bytes()).unwrap().is_empty());
}

#[test]
fn a_file_of_which_any_part_is_missing_or_changed_is_refused() {
    let text = some().to_text().into_bytes();
    for length in 0..text.len() {
        refused(&text[..length]);
    }
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1;
        refused(&changed);
    }
    refused(&[&*text, b"\n"].concat());
    refused(&[&*text, &*text].concat());
}

#[test]
fn what_is_wrong_is_said() {
    let newer = refused(b"tower-memory-guard state 2\nwhatever\n");
    assert!(newer.contains("version \"2\""), "{newer}");
    assert!(refused(b"[settings]\n").contains("not what a memory guard writes"));
    assert!(refused(&[0xff; 16]).contains("no text"));
    assert!(refused(&signed("unheard =of 1\n")).contains("line 2"));
}

#[test]
fn nonsense_is_refused_as_a_whole() {
    let good = "class plain =good 3 1048576:3\n";
    assert!(State::parse(&signed(good)).is_ok());
    for bad in [
        "class plain =bad 3 NaN:3",
        "class plain =bad 3 inf:3",
        "class plain =bad 3 -1048576:3",
        "class plain =bad 3 0:3",
        "class plain =bad 3 1e300:3",
        "class plain =bad 3 1125899906842625:3",
        "class plain =bad 3 1048576:inf",
        "class plain =bad 3 1048576:2e9",
        "class plain =bad 3 1048576:-1",
        "class plain =bad 2e9 1048576:1",
        "class plain =bad 3 1048576",
        "class plain =bad",
        "class plain =bad%2 3 1048576:3",
        "class plain =bad%ff 3 1048576:3",
        "class odd =bad 3 1048576:3",
        "class plain =good 3 1048576:3",
        "running plain =bad 0",
        "running plain =bad inf",
        "running plain =bad 1e16",
        "running plain =bad 1 2",
        "usage 0 3",
        "usage inf 3",
        "usage 1048576 NaN",
        "margin NaN",
        "margin -1",
        "margin 1000",
        "",
    ] {
        refused(&signed(&format!("{good}{bad}\n")));
    }
}

#[test]
fn what_would_be_too_long_to_be_read_is_left_out() {
    let mut state = some();
    for number in 0..8 {
        let name = format!("{number}{}", "x".repeat(MOST_BYTES / 4));
        let class = state.estimates.classes["render"].clone();
        state.estimates.classes.insert(name, class);
    }
    let text = state.to_text();
    assert!(text.len() <= MOST_BYTES, "{}", text.len());
    let read = State::parse(text.as_bytes()).unwrap();
    assert_eq!(read.running, state.running);
    assert!(read.estimates.classes.contains_key("render"));
}

fn labels() -> Labels {
    Labels::new(Tenants::new(Vec::new()))
}

/// What the next request of the class without a name needs, in MiB, for a process that
/// starts from this.
fn next_mib(state: &State) -> u64 {
    let (labels, mut forecast) = (labels(), Forecast::new(20 << 20, 0.001, true));
    forecast.load(&state.estimates, &labels);
    forecast.learn_cut_off(&state.running, &labels);
    let (_, bytes, _) = forecast.by_kind().next().unwrap();
    bytes >> 20
}

#[test]
fn a_request_that_was_killed_needs_at_least_what_it_held() {
    let killed = |running| State {
        running,
        ..State::default()
    };
    // More than was configured, by far: and nothing else is known.
    assert!(next_mib(&killed(vec![at_least("", 300.0)])) >= 300);
    let many = (0..64).map(|_| at_least("", 300.0)).collect();
    assert!(next_mib(&killed(many)) >= 300);
    // Less: they had only begun.
    let many = (0..64).map(|_| at_least("", 2.0)).collect();
    assert_eq!(next_mib(&killed(many)), 20);
}

#[test]
fn a_surprise_that_kills_counts_beside_all_that_was_known() {
    let peaks = vec![(2.0 * MIB, 300.0)];
    let class = ClassRecord {
        seen: 1000.0,
        peaks,
    };
    let mut state = State::default();
    state.estimates.classes.insert(String::new(), class);
    let before = next_mib(&state);
    state.running = vec![at_least("", 400.0), at_least("", 1.0)];
    let after = next_mib(&state);
    assert!(before < 4 && after > before + 10, "{before} {after}");
    // Killed again and again, it is believed in the end.
    for _ in 0..6 {
        let (labels, mut forecast) = (labels(), Forecast::new(20 << 20, 0.001, true));
        forecast.load(&state.estimates, &labels);
        forecast.learn_cut_off(&state.running, &labels);
        state.estimates = forecast.save(&labels);
        let text = state.to_text();
        state = State::parse(text.as_bytes()).unwrap();
    }
    assert!(next_mib(&state) > after + 20, "{}", next_mib(&state));
}

#[test]
fn few_requests_that_were_seen_are_not_averaged_with_a_smaller_guess() {
    let class = ClassRecord {
        seen: 1.0,
        peaks: vec![(300.0 * MIB, 1.0)],
    };
    let mut state = State::default();
    state.estimates.classes.insert(String::new(), class);
    assert!(next_mib(&state) >= 300);
}

#[test]
fn without_accounting_the_greatest_average_is_kept() {
    let labels = labels();
    let mut forecast = Forecast::new(20 << 20, 0.001, false);
    let at = |seconds, working: u32| Evidence {
        now: Duration::from_secs(seconds),
        usage_bytes: (100 + 200 * u64::from(working)) << 20,
        own_in_flight: working,
        all_in_flight: working,
        ..Evidence::default()
    };
    forecast.observe(at(0, 0));
    forecast.observe(at(1, 3));
    // Nobody has come to an end: the process is killed.
    let state = State {
        estimates: forecast.save(&labels),
        running: Vec::new(),
    };
    let state = State::parse(state.to_text().as_bytes()).unwrap();
    let mut next = Forecast::new(20 << 20, 0.001, false);
    next.load(&state.estimates, &labels);
    let (bytes, _) = next.of_unknown_kind();
    assert!(bytes.abs_diff(forecast.of_unknown_kind().0) <= 2, "{bytes}");
    assert!(bytes >> 20 >= 290);
}

#[test]
fn names_of_long_ago_leave_room_for_those_of_today() {
    let mut state = State::default();
    for number in 0..200 {
        let class = ClassRecord {
            seen: f64::from(number),
            peaks: vec![(MIB, 1.0)],
        };
        state.estimates.classes.insert(number.to_string(), class);
    }
    let (labels, mut forecast) = (labels(), Forecast::new(20 << 20, 0.001, true));
    forecast.load(&state.estimates, &labels);
    let saved = forecast.save(&labels);
    assert!(saved.classes.len() <= 32 && saved.classes.contains_key("199"));
    assert_eq!(labels.name(labels.key("new", false)), "new");
}
