//! What follows from a sample once what it decided is in force.

use std::time::Duration;

use super::report::REPORT_INTERVAL;
use super::{Control, Controller, Notice};
use crate::error::Reason;
use crate::sync::foreign::{self, Code};

/// What is to be said and done once no lock is held.
pub(super) struct News {
    notices: Vec<Notice>,
    publish_metrics: bool,
    new_limit: Option<Option<u64>>,
    /// Requests that may be let in past the bounds, and what is free for each.
    probes: u32,
    free_kib: u64,
    /// Until the next full sample.
    interval: Duration,
}

impl Controller {
    pub(super) fn take_news(&self, control: &mut Control, full: bool, now: Duration) -> News {
        let notices = std::mem::take(&mut control.notices);
        let due = (control.last.published).is_none_or(|at| now >= at + REPORT_INTERVAL);
        let publish_metrics = full && (due || !notices.is_empty() || !self.sampler.in_background());
        if publish_metrics {
            control.last.published = Some(now);
        }
        News {
            notices,
            publish_metrics,
            new_limit: control.new_limit.take(),
            probes: match full {
                true => std::mem::take(&mut control.probes),
                false => 0,
            },
            free_kib: control.decision.free_bytes / 1024,
            interval: match full {
                true => self.next_interval(control, now),
                false => Duration::MAX,
            },
        }
    }

    /// Says when to sample next.
    pub(super) fn pass_on(&'static self, news: News, full: bool, now: Duration) -> Duration {
        if let Some(limit_bytes) = news.new_limit {
            // Wakes whoever listens, who may ask for anything.
            foreign::call(Code::Waker, || self.limits.send_replace(limit_bytes));
        }
        if full {
            self.sweep(now);
            self.may_have_learned();
            self.relieve(now);
        }
        // A full sample always pumps, under the queue's lock: that is what makes
        // new bounds known to those who joined while they were published.
        if full || self.limiter.waiting() > 0 {
            self.limiter.pump();
        }
        if full {
            self.tidy_up(now);
        }
        self.let_probes_in(news.probes, news.free_kib);
        self.report(news.notices, news.publish_metrics, now);
        news.interval
    }

    fn tidy_up(&self, now: Duration) {
        // Somebody may have joined the queue while it was closed and emptied.
        if self.is_closed() {
            self.limiter.refuse_all(&self.bounds, Reason::Closed);
        } else if self.only_observes() {
            self.let_all_in();
        }
        self.forgive(now);
        self.limiter.pass_on_unclaimed(now);
        for kib in self.ready.take_back(now) {
            self.release(kib);
        }
        if let Some(timeout) = self.config().body_timeout {
            self.counters
                .stalled(self.deliveries.end_stalled(timeout, now));
        }
    }

    fn let_probes_in(&self, probes: u32, free_kib: u64) {
        if probes > 0 {
            let used = (0..probes)
                .take_while(|_| self.limiter.probe_oldest(&self.bounds, free_kib))
                .count();
            self.bounds.set_probes(probes - used as u32);
        }
    }
}
