//! What became of the scripts, as a table.

use std::time::Duration;

use crate::storm::{Front, LIMIT_BYTES};

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answered: usize,
    pub(crate) rejected: usize,
    pub(crate) gave_up: usize,
    pub(crate) lost: usize,
    pub(crate) kills: usize,
    /// Of what was answered.
    pub(crate) mib_seconds: f64,
    /// What was in use, each time that it was looked at while anybody waited.
    pub(crate) while_waiting: Vec<u64>,
    pub(crate) peak_bytes: Option<u64>,
    pub(crate) seconds: f64,
    /// That the server took.
    pub(crate) processor: Option<Duration>,
}

impl Tally {
    /// `None` if nobody waited.
    fn percent_while_waiting(&self) -> Option<f64> {
        let samples = self.while_waiting.len();
        let total: u64 = self.while_waiting.iter().sum();
        (samples > 0).then(|| 100.0 * total as f64 / samples as f64 / LIMIT_BYTES as f64)
    }
}

pub(crate) fn print(rows: &[(Front, Tally)]) {
    println!(
        "| in front of the scripts | answered | rejected | gave up | lost | memory × time, MiB·s \
         | memory while any wait | peak MiB | kills | seconds | cores |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (front, tally) in rows {
        let known = |text: Option<String>| text.unwrap_or("-".into());
        let cores = tally
            .processor
            .map(|time| time.as_secs_f64() / tally.seconds);
        println!(
            "| {} | {} | {} | {} | {} | {:.0} | {} | {} | {} | {:.1} | {} |",
            front.title(),
            tally.answered,
            tally.rejected,
            tally.gave_up,
            tally.lost,
            tally.mib_seconds,
            known(
                tally
                    .percent_while_waiting()
                    .map(|percent| format!("{percent:.0} %"))
            ),
            known(tally.peak_bytes.map(|bytes| (bytes >> 20).to_string())),
            tally.kills,
            tally.seconds,
            known(cores.map(|cores| format!("{cores:.2}"))),
        );
    }
}
