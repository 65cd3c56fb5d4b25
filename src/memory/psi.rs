//! Pressure stall information: how long tasks waited for memory.

/// `full avg10` of a `memory.pressure` file, in percent.
pub(super) fn full_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("full "))?;
    let mut fields = line.split(' ');
    let percent = fields.find_map(|field| field.strip_prefix("avg10="))?;
    let percent = percent.parse().ok();
    percent.filter(|percent: &f64| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use super::full_avg10;

    #[test]
    fn reads_the_share_of_time_in_which_every_task_stalled() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n\
                    full avg10=0.75 avg60=0.00 avg300=0.00 total=4\n";
        assert_eq!(full_avg10(text), Some(0.75));
        assert_eq!(full_avg10("some avg10=1.50"), None);
        assert_eq!(full_avg10("full avg10=x"), None);
        assert_eq!(full_avg10(""), None);
    }
}
