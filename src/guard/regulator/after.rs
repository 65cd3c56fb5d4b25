//! What follows from a sample once what it decided is in force.

use std::time::Duration;

use super::{Control, Notice, Regulator};
use crate::guard::state::REPORT_INTERVAL;
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

impl Regulator {
    pub(super) fn take_news(&self, control: &mut Control, full: bool, now: Duration) -> News {
        let notices = std::mem::take(&mut control.notices);
        let due = (control.last.published).is_none_or(|at| now >= at + REPORT_INTERVAL);
        let publish_metrics =
            full && (due || !notices.is_empty() || !self.state.sampler.in_background());
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
        if full || self.state.limiter.waiting() > 0 {
            self.state.limiter.pump();
        }
        if full {
            self.state.tidy_up(now);
        }
        self.state.let_probes_in(news.probes, news.free_kib);
        self.report(news.notices, news.publish_metrics, now);
        news.interval
    }
}
