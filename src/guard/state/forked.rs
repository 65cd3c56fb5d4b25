//! A guard in a process that was forked after it was built.

use std::sync::atomic::Ordering;

use super::State;
use crate::config::OnSensorFailure;
use crate::limiter::Caps;
use crate::policy::Strategy;
use crate::pressure::Pressure;
use crate::units::MAX_KIB;

impl State {
    /// Says whether the bounds are others because it turned out that the process was forked.
    #[cold]
    pub(in crate::guard) fn look_for_fork(&self) -> bool {
        if !self.sampler.in_background() || !self.sampler.is_old() {
            return false;
        }
        let forked = self.sampler.check_process();
        if self.sampler.is_lost() && !self.is_lost.swap(true, Ordering::Relaxed) {
            self.go_by_failure_policy();
            return true;
        }
        forked
    }

    /// Nothing will ever be known of memory here. Takes no lock that the parent may have
    /// held while it sampled.
    fn go_by_failure_policy(&self) {
        let config = self.config();
        let closed = config.on_sensor_failure == OnSensorFailure::Closed;
        let most = Strategy::new(&config, self.accounted).base_concurrency();
        self.shown.set_pressure(match closed {
            true => Pressure::Critical,
            false => Pressure::Normal,
        });
        self.bounds.set_probes(0);
        let caps = Caps::new(closed || self.is_closed(), most, MAX_KIB);
        self.bounds.publish(caps, MAX_KIB, MAX_KIB);
        self.limiter.pump();
        let rule = match closed {
            true => "rejects all",
            false => "counts requests",
        };
        crate::telemetry::logs::warnings(&[format!(
            "this process was forked in the midst of a sample: the guard cannot see memory here, \
             and {rule}; build guards after forking"
        )]);
    }
}
