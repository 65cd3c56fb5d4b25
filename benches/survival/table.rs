//! Results as text: a line for each run, a table for each pattern.

use std::fmt::Write;

use super::guard::GuardKind;
use super::pattern::Pattern;
use super::run::Record;

/// Names the words of [`result_line`].
pub(crate) const RESULT_HEADER: &str = "# RESULT pattern guard seed kills goodput_percent answered \
     rejected given_up lost light_in_time_percent door_p99_ms peak_mib misjudged_percent \
     rejections_by_reason";

/// One run for machines to read; `-` is what is not known.
pub(crate) fn result_line(record: &Record) -> String {
    let tally = &record.tally;
    format!(
        "RESULT {} {} {} {} {:.1} {} {} {} {} {:.1} {} {:.0} {:.2} {}",
        record.case.pattern.word(),
        record.case.guard.word(),
        record.case.seed,
        record.kills,
        record.score_percent(),
        tally.answered,
        tally.rejected,
        tally.given_up,
        tally.lost,
        light_percent([record].into_iter()),
        door_p99_ms([record].into_iter()),
        record.peak_mib(),
        record.misjudged_percent(),
        reasons(record)
    )
}

/// Counts and kills are totals over the seeds; times and peaks are their worst.
pub(crate) fn of_pattern<'a>(
    pattern: Pattern,
    guards: &[GuardKind],
    records: impl Iterator<Item = &'a Record> + Clone,
) -> String {
    let mut table = format!(
        "{}\n\n| guard | kills | goodput % of oracle: median | least | answered | rejected | given up \
         | lost | light in 250 ms % | p99 ms at the door | peak MiB | misjudged % |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
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
        let _ = writeln!(
            table,
            "| {} | {} | {:.0} | {least:.0} | {} | {} | {} | {} | {:.1} | {} | {:.0} | {:.1} |",
            guard.word(),
            total(|record| record.kills),
            median(&scores),
            total(|record| record.tally.answered),
            total(|record| record.tally.rejected),
            total(|record| record.tally.given_up),
            total(|record| record.tally.lost),
            light_percent(of_guard.clone()),
            door_p99_ms(of_guard.clone()),
            of_guard.clone().map(Record::peak_mib).fold(0.0, f64::max),
            of_guard
                .clone()
                .map(Record::misjudged_percent)
                .fold(0.0, f64::max),
        );
    }
    table
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
    records
        .filter_map(|record| record.report.as_ref()?.door.p99_ms)
        .reduce(f64::max)
        .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"))
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
