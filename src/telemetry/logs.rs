//! Log events, through `tracing`; without that feature, nothing.

use std::time::Duration;

use crate::pressure::Pressure;

/// A request that was paused for long, at its end.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
pub(crate) struct LongPause<'a> {
    pub(crate) paused: Duration,
    pub(crate) class: &'a str,
    pub(crate) outcome: &'static str,
    pub(crate) level: Pressure,
    pub(crate) memory_percent: f64,
    pub(crate) paused_tasks: u32,
    pub(crate) suppressed: u64,
    pub(crate) name: Option<&'a str>,
}

#[cfg(feature = "tracing")]
mod imp {
    use std::time::Duration;

    use super::LongPause;
    use crate::error::Rejected;
    use crate::sync::foreign::{self, Code};
    use crate::telemetry::stats::Stats;

    pub(crate) const TARGET: &str = "tower_memory_guard";
    /// Of request spans.
    const FIELD: &str = "memory_guard";
    const PAUSED_FIELD: &str = "paused_ms";

    /// To whoever listens, and may panic.
    pub(crate) fn said(say: impl FnOnce()) {
        foreign::call(Code::Subscriber, say);
    }

    pub(crate) fn adjusted(
        stats: &Stats,
        action: &str,
        old_concurrency: Option<u64>,
        name: Option<&str>,
    ) {
        said(|| {
            tracing::info!(
                target: TARGET,
                action,
                level = stats.level.as_str(),
                memory_percent = stats.memory_percent,
                old_concurrency = old_concurrency,
                new_concurrency = stats.current_concurrency,
                active_tasks = stats.active_tasks,
                name,
                "memory guard adjusted"
            );
        });
    }

    pub(crate) fn rejected(
        rejected: &Rejected,
        stats: &Stats,
        suppressed: u64,
        name: Option<&str>,
    ) {
        said(|| {
            tracing::warn!(
                target: TARGET,
                reason = rejected.reason().as_str(),
                level = stats.level.as_str(),
                memory_percent = stats.memory_percent,
                active_tasks = stats.active_tasks,
                waiting_requests = stats.waiting_requests,
                current_concurrency = stats.current_concurrency,
                total_requests = stats.total_requests,
                rejected_requests = stats.rejected_requests,
                suppressed,
                name,
                "memory guard rejected a request"
            );
        });
    }

    /// In observe mode: what enforce would have done.
    pub(crate) fn observed(would: &str, stats: &Stats, suppressed: u64, name: Option<&str>) {
        said(|| {
            tracing::warn!(
                target: TARGET,
                would,
                level = stats.level.as_str(),
                memory_percent = stats.memory_percent,
                active_tasks = stats.active_tasks,
                observed_requests = stats.observed_requests,
                suppressed,
                name,
                "memory guard would have held back a request"
            );
        });
    }

    /// The decision, in the request's span if that has a field for it.
    pub(crate) fn decided(decision: &str) {
        said(|| {
            tracing::Span::current().record(FIELD, decision);
        });
    }

    /// [`decided`], on the path where every nanosecond counts.
    #[inline]
    pub(crate) fn admitted() {
        if tracing::dispatcher::has_been_set() {
            admitted_in_span();
        }
    }

    #[cold]
    fn admitted_in_span() {
        decided("admitted");
    }

    pub(crate) fn waited(waited: Duration) {
        if !tracing::dispatcher::has_been_set() {
            return;
        }
        decided(&format!("admitted after {} ms", waited.as_millis()));
    }

    /// A request's span, if that has a field for how long the request was paused. Keeps it
    /// open.
    #[derive(Debug)]
    pub(crate) struct RequestSpan(Option<tracing::Span>);

    impl RequestSpan {
        /// In which a request is polled.
        pub(crate) fn current() -> Self {
            let span = foreign::call(Code::Subscriber, tracing::Span::current);
            Self(span.filter(|span| span.has_field(PAUSED_FIELD)))
        }

        pub(crate) fn listens(&self) -> bool {
            self.0.is_some()
        }

        pub(crate) fn paused(&self, ms: u64) {
            if let Some(span) = &self.0 {
                said(|| {
                    span.record(PAUSED_FIELD, ms);
                });
            }
        }
    }

    impl Drop for RequestSpan {
        fn drop(&mut self) {
            if let Some(span) = self.0.take() {
                said(|| drop(span));
            }
        }
    }

    pub(crate) fn closed(name: Option<&str>) {
        said(|| {
            tracing::info!(target: TARGET, name, "memory guard closed");
        });
    }

    pub(crate) fn paused(request: &LongPause<'_>) {
        said(|| {
            tracing::warn!(
                target: TARGET,
                paused_ms = request.paused.as_millis() as u64,
                class = request.class,
                outcome = request.outcome,
                level = request.level.as_str(),
                memory_percent = request.memory_percent,
                paused_tasks = request.paused_tasks,
                suppressed = request.suppressed,
                name = request.name,
                "memory guard paused a request for long"
            );
        });
    }

    pub(crate) fn stuck(name: Option<&str>, paused: u32, goes_on: bool) {
        let then = if goes_on {
            "one goes on all the same"
        } else {
            "and none can go on"
        };
        said(|| {
            tracing::error!(
                target: TARGET,
                name,
                paused,
                "no request in flight fits into memory any more, {then}"
            );
        });
    }

    pub(crate) fn warnings(warnings: &[String]) {
        for warning in warnings {
            said(|| tracing::warn!(target: TARGET, "{warning}"));
        }
    }

    pub(crate) fn no_limit() {
        said(|| {
            tracing::warn!(
                target: TARGET,
                "the memory guard finds no memory limit and only counts; run in a container or \
                 control group with a limit, or set MEMORY_GUARD_MEMORY_LIMIT (such as 2GiB)"
            );
        });
    }

    pub(crate) fn not_staged() {
        said(|| {
            tracing::warn!(
                target: TARGET,
                "the memory guard stages bodies, and a request was answered that no \
                 StagedBodyLayer had seen; it has to be inside of the guard"
            );
        });
    }

    pub(crate) fn sensor_failed(error: &std::io::Error, closed: bool, counts: bool) {
        let consequence = match (closed, counts) {
            (true, _) => "new work is rejected",
            (false, true) => "only the concurrency limit holds",
            (false, false) => "nothing is held back; set MAX_CONCURRENT",
        };
        said(|| {
            tracing::error!(target: TARGET, %error, consequence, "the memory guard cannot read memory");
        });
    }

    pub(crate) fn sensor_recovered() {
        said(|| {
            tracing::info!(target: TARGET, "the memory guard reads memory again");
        });
    }

    pub(crate) fn limit_changed(old_mb: f64, new_mb: f64) {
        said(|| {
            tracing::info!(target: TARGET, old_mb, new_mb, "the memory limit changed");
        });
    }

    pub(crate) fn no_thread(error: &std::io::Error) {
        said(|| {
            tracing::error!(target: TARGET, %error, "the memory guard has no thread to sample memory with");
        });
    }
}

#[cfg(not(feature = "tracing"))]
mod imp {
    use std::time::Duration;

    use super::LongPause;
    use crate::error::Rejected;
    use crate::telemetry::stats::Stats;

    pub(crate) fn adjusted(_: &Stats, _: &str, _: Option<u64>, _: Option<&str>) {}
    pub(crate) fn rejected(_: &Rejected, _: &Stats, _: u64, _: Option<&str>) {}
    pub(crate) fn observed(_: &str, _: &Stats, _: u64, _: Option<&str>) {}
    pub(crate) fn decided(_: &str) {}
    #[inline]
    pub(crate) fn admitted() {}
    pub(crate) fn waited(_: Duration) {}
    #[derive(Debug)]
    pub(crate) struct RequestSpan;
    impl RequestSpan {
        pub(crate) fn current() -> Self {
            Self
        }
        pub(crate) fn listens(&self) -> bool {
            false
        }
        pub(crate) fn paused(&self, _: u64) {}
    }
    pub(crate) fn closed(_: Option<&str>) {}
    pub(crate) fn paused(_: &LongPause<'_>) {}
    pub(crate) fn stuck(_: Option<&str>, _: u32, _: bool) {}
    pub(crate) fn warnings(_: &[String]) {}
    pub(crate) fn no_limit() {}
    pub(crate) fn not_staged() {}
    pub(crate) fn sensor_failed(_: &std::io::Error, _: bool, _: bool) {}
    pub(crate) fn sensor_recovered() {}
    pub(crate) fn limit_changed(_: f64, _: f64) {}
    pub(crate) fn no_thread(_: &std::io::Error) {}
}

pub(crate) use imp::*;
