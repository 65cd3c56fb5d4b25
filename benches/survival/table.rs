//! Results as text: a line for each run, a table for each pattern.

use std::fmt::Write;

use super::guard::GuardKind;
use super::pattern::Pattern;
use super::run::Record;

/// Names the words of [`result_line`].
pub(crate) const RESULT_HEADER: &str = "# RESULT pattern guard seed kills lost oracle_percent p99_ms \
     answered late rejected given_up paused_seconds cancelled peak_mib mean_mib_while_waiting \
     light_in_time_percent door_p99_ms misjudged_percent rejections_by_reason";

/// One run for machines to read; `-` is what is not known.
pub(crate) fn result_line(record: &Record) -> String {
    let tally = &record.tally;
    format!(
        "RESULT {} {} {} {} {} {:.1} {} {} {} {} {} {} {} {:.0} {} {:.1} {} {:.2} {}",
        record.case.pattern.word(),
        record.case.guard.word(),
        record.case.seed,
        record.kills,
        tally.lost,
        record.score_percent(),
        known(record.p99_ms(), 0),
        tally.answered,
        tally.late,
        tally.rejected,
        tally.given_up,
        known(record.paused_seconds(), 3),
        known(record.cancelled(), 0),
        record.peak_mib(),
        known(record.mean_mib_while_waiting(), 0),
        light_percent([record].into_iter()),
        door_p99_ms([record].into_iter()),
        record.misjudged_percent(),
        reasons(record)
    )
}

/// Counts, kills and pauses are totals over the seeds; times and peaks are their worst.
pub(crate) fn of_pattern<'a>(
    pattern: Pattern,
    guards: &[GuardKind],
    records: impl Iterator<Item = &'a Record> + Clone,
) -> String {
    let mut table = format!(
        "{}\n\n| guard | kills | lost | % of oracle: median | least | p99 ms | answered | late \
         | rejected | given up | paused s | cancelled | peak MiB | MiB while some wait \
         | light in 250 ms % | p99 ms at the door | misjudged % |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        pattern.word()
    );
    for &guard in guards {
        let of_guard = records.clone().filter(|record| record.case.guard == guard);
        let mut scores: Vec<f64> = of_guard.clone().map(Record::score_percent).collect();
        scores.sort_by(f64::total_cmp);
        let Some(least) = scores.first() else {
            continue;
        };
        let total = |count: fn(&Record) -> u64| of_guard.clone().map(count).sum::<u64>();
        let sum =
            |of: fn(&Record) -> Option<f64>| of_guard.clone().filter_map(of).reduce(|a, b| a + b);
        let worst =
            |of: fn(&Record) -> Option<f64>| of_guard.clone().filter_map(of).reduce(f64::max);
        let mean_mib = sum(Record::mean_mib_while_waiting).map(|sum| {
            let known = of_guard.clone().filter_map(Record::mean_mib_while_waiting);
            sum / known.count() as f64
        });
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.0} | {least:.0} | {} | {} | {} | {} | {} | {} | {} | {:.0} | {} \
             | {:.1} | {} | {:.1} |",
            guard.word(),
            total(|record| record.kills),
            total(|record| record.tally.lost),
            median(&scores),
            known(worst(Record::p99_ms), 0),
            total(|record| record.tally.answered),
            total(|record| record.tally.late),
            total(|record| record.tally.rejected),
            total(|record| record.tally.given_up),
            known(sum(Record::paused_seconds), 1),
            known(sum(Record::cancelled), 0),
            of_guard.clone().map(Record::peak_mib).fold(0.0, f64::max),
            known(mean_mib, 0),
            light_percent(of_guard.clone()),
            door_p99_ms(of_guard.clone()),
            of_guard
                .clone()
                .map(Record::misjudged_percent)
                .fold(0.0, f64::max),
        );
    }
    table
}

fn known(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 0 {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

fn light_percent<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> f64 {
    let sent: u64 = records.clone().map(|record| record.tally.light_sent).sum();
    let in_time: u64 = records.map(|record| record.tally.light_in_time).sum();
    100.0 * in_time as f64 / sent.max(1) as f64
}

fn door_p99_ms<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let times = records.filter_map(|record| record.report.as_ref()?.door.p99_ms);
    known(times.reduce(f64::max), 3)
}

fn reasons(record: &Record) -> String {
    let Some(report) = &record.report else {
        return "-".to_owned();
    };
    let by_reason = report.door.by_reason.iter();
    let words: Vec<String> = by_reason
        .map(|(reason, count)| format!("{reason}={count}"))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(",")
    }
}
