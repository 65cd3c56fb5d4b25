//! What is said of decisions, once no lock is held.

use std::time::Duration;

use super::{Notice, Regulator};
use crate::config::OnSensorFailure;
use crate::limiter::MAX_COUNT;
use crate::pressure::Pressure;
use crate::sync::foreign::{self, Code};
use crate::telemetry::logs;
use crate::telemetry::recent::EventKind;
use crate::telemetry::stats::bound;
use crate::units::mib;

impl Regulator {
    pub(super) fn report(&self, notices: Vec<Notice>, publish_metrics: bool, now: Duration) {
        for notice in notices {
            self.say(notice);
        }
        #[cfg(feature = "metrics")]
        if publish_metrics {
            foreign::call(Code::Recorder, || self.publish_metrics(now));
        }
        let _ = (publish_metrics, now);
    }

    fn say(&self, notice: Notice) {
        let state = &self.state;
        let name = state.name.as_deref();
        match notice {
            Notice::Adjusted { from } => {
                let stats = state.stats();
                let action = match stats.level.cmp(&from.pressure) {
                    _ if stats.level == Pressure::Critical => "reject",
                    std::cmp::Ordering::Greater => "reduce",
                    _ => "restore",
                };
                let (old, new) = (bound(from.concurrency), stats.current_concurrency);
                let number = |count: Option<u64>| match count {
                    Some(count) => count.to_string(),
                    None => "any number".into(),
                };
                let text = match old == new {
                    true => format!("{action}: {} to {}", from.pressure, stats.level),
                    false => format!(
                        "{action}: {} to {}, {} to {} at once",
                        from.pressure,
                        stats.level,
                        number(old),
                        number(new)
                    ),
                };
                state.note(EventKind::Adjusted, text, 0);
                logs::adjusted(&stats, action, old, name);
                // Wakes whoever listens.
                foreign::call(Code::Waker, || self.levels.send_replace(stats.level));
            }
            Notice::SensorFailed(error) => {
                let closed = state.config().on_sensor_failure == OnSensorFailure::Closed;
                let counts = state.bounds.caps().count() < MAX_COUNT;
                state.note(EventKind::SensorFailed, error.to_string(), 0);
                logs::sensor_failed(&error, closed, counts);
            }
            Notice::SensorRecovered => {
                let text = "memory is read again".into();
                state.note(EventKind::SensorRecovered, text, 0);
                logs::sensor_recovered();
            }
            Notice::LimitChanged { from, to } => {
                let (from, to) = (mib(from), mib(to));
                let text = format!("from {from:.0} to {to:.0} MiB");
                state.note(EventKind::LimitChanged, text, 0);
                logs::limit_changed(from, to);
            }
            Notice::NoLimit => logs::no_limit(),
        }
    }
}
