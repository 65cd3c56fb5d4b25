//! What is said of decisions, once no lock is held.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LevelWas, Notice, Regulator};
use crate::config::OnSensorFailure;
use crate::limiter::MAX_COUNT;
use crate::pressure::Pressure;
use crate::sync::foreign::{self, Code};
use crate::telemetry::logs::say;
use crate::telemetry::recent::EventKind;
use crate::telemetry::stats::bound;
use crate::units::mib;

impl Regulator {
    pub(super) fn report(&self, notices: Vec<Notice>, publish_metrics: bool, now: Duration) {
        for notice in notices {
            self.say(notice);
        }
        if publish_metrics {
            self.tell(now);
        }
    }

    /// Publishes metrics.
    pub(super) fn tell(&self, now: Duration) {
        // First: what comes in between is published.
        let over = self.is_over();
        let rejected = self.state.counters.all_rejected();
        #[cfg(feature = "metrics")]
        foreign::call(Code::Recorder, || self.publish_metrics(over, now));
        let _ = now;
        let told_end = if over { rejected + 1 } else { 0 };
        self.told_end.store(told_end, Ordering::Relaxed);
    }

    fn say(&self, notice: Notice) {
        let state = &self.state;
        match notice {
            // Wakes whoever listens. The newest: who samples meanwhile may be here before.
            Notice::Level => {
                let newest = |level: &mut Pressure| *level = state.pressure();
                foreign::call(Code::Waker, || self.levels.send_modify(newest));
            }
            Notice::Adjusted { from, suppressed } => self.say_adjusted(from, suppressed),
            Notice::SensorFailed(error) => {
                let consequence = match state.config().on_sensor_failure {
                    OnSensorFailure::Closed => "new work is rejected",
                    _ if state.bounds.caps().count() < MAX_COUNT => {
                        "only the concurrency limit holds"
                    }
                    _ => "nothing is held back; set MAX_CONCURRENT",
                };
                state.note(EventKind::SensorFailed, error.to_string(), 0);
                say!(error, %error, consequence, "the memory guard cannot read memory");
            }
            Notice::SensorRecovered => {
                let text = "memory is read again".into();
                state.note(EventKind::SensorRecovered, text, 0);
                say!(info, "the memory guard reads memory again");
            }
            Notice::LimitChanged { from, to } => {
                let (from, to) = (mib(from), mib(to));
                let text = format!("from {from:.0} to {to:.0} MiB");
                state.note(EventKind::LimitChanged, text, 0);
                say!(info, old_mb = from, new_mb = to, "the memory limit changed");
            }
            Notice::NoLimit => say!(
                warn,
                "the memory guard finds no memory limit and only counts; run in a container or \
                 control group with a limit, or set MEMORY_GUARD_MEMORY_LIMIT (such as 2GiB)"
            ),
        }
    }

    fn say_adjusted(&self, from: LevelWas, suppressed: u32) {
        let stats = self.state.stats();
        let action = match stats.level.cmp(&from.pressure) {
            _ if stats.level == Pressure::Critical => "reject",
            std::cmp::Ordering::Greater => "reduce",
            _ => "restore",
        };
        let (old, new) = (bound(from.concurrency), stats.current_concurrency);
        let number =
            |count: Option<u64>| count.map_or("any number".into(), |count| count.to_string());
        let mut text = format!("{action}: {} to {}", from.pressure, stats.level);
        if old != new {
            text += &format!(", {} to {} at once", number(old), number(new));
        }
        self.state
            .note(EventKind::Adjusted, text, suppressed.into());
        say!(
            info,
            action,
            level = stats.level.as_str(),
            memory_percent = stats.memory_percent,
            old_concurrency = old,
            new_concurrency = new,
            active_tasks = stats.active_tasks,
            suppressed,
            name = self.state.name.as_deref(),
            "memory guard adjusted"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{LevelWas, SaidLevel};
    use crate::pressure::Pressure;

    #[test]
    fn levels_that_flap_are_said_once_a_second_and_in_the_end() {
        use Pressure::{High, Warning};
        let ms = Duration::from_millis;
        let at = |pressure| LevelWas {
            pressure,
            concurrency: 1,
        };
        let mut said = SaidLevel::default();
        let mut changes = |from, to, now| {
            said.changes(at(from));
            said.due(to, ms(now))
                .map(|(from, before)| (from.pressure, before))
        };
        assert_eq!(changes(Warning, High, 0), Some((Warning, 0)));
        for now in (10..900).step_by(20) {
            assert_eq!(changes(High, Warning, now), None);
            assert_eq!(changes(Warning, High, now + 10), None);
        }
        assert_eq!(changes(High, Warning, 950), None);
        assert!(said.due(Warning, ms(999)).is_none());
        let last = said.due(Warning, ms(1000));
        assert_eq!(
            last.map(|(from, before)| (from.pressure, before)),
            Some((High, 90))
        );
        assert!(said.due(Warning, ms(3000)).is_none());
    }
}
