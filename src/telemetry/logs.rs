//! Log events, through `tracing`; without that feature, nothing.
#![cfg_attr(not(feature = "tracing"), allow(dead_code, unused_variables))]

use std::time::Duration;

use super::stats::Stats;
use crate::error::Rejected;
use crate::pressure::Pressure;
#[cfg(feature = "tracing")]
use crate::sync::foreign::{self, Code};

#[cfg(feature = "tracing")]
pub(crate) const TARGET: &str = "tower_memory_guard";

/// An event's level, fields and message.
macro_rules! say {
    ($level:ident, $($event:tt)+) => {
        #[cfg(feature = "tracing")]
        said(|| tracing::$level!(target: TARGET, $($event)+));
    };
}

/// To whoever listens, and may panic.
#[cfg(feature = "tracing")]
pub(crate) fn said(say: impl FnOnce()) {
    foreign::call(Code::Subscriber, say);
}

/// A request that was paused for long, at its end.
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

/// A file that another process kept what it learned in is this one's from now on.
pub(crate) fn takes_over(path: &std::path::Path) {
    say!(
        info,
        path = %path.display(),
        "what is learned is kept from now on: nobody else writes the file any more"
    );
}

pub(crate) fn adjusted(
    stats: &Stats,
    action: &str,
    old_concurrency: Option<u64>,
    suppressed: u32,
    name: Option<&str>,
) {
    say!(
        info,
        action,
        level = stats.level.as_str(),
        memory_percent = stats.memory_percent,
        old_concurrency = old_concurrency,
        new_concurrency = stats.current_concurrency,
        active_tasks = stats.active_tasks,
        suppressed,
        name,
        "memory guard adjusted"
    );
}

pub(crate) fn rejected(rejected: &Rejected, stats: &Stats, suppressed: u64, name: Option<&str>) {
    say!(
        warn,
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
}

/// In observe mode: what enforce would have done.
pub(crate) fn observed(would: &str, stats: &Stats, suppressed: u64, name: Option<&str>) {
    say!(
        warn,
        would,
        level = stats.level.as_str(),
        memory_percent = stats.memory_percent,
        active_tasks = stats.active_tasks,
        observed_requests = stats.observed_requests,
        suppressed,
        name,
        "memory guard would have held back a request"
    );
}

/// The decision, in the request's span if that has a field for it.
pub(crate) fn decided(decision: &str) {
    #[cfg(feature = "tracing")]
    said(|| {
        tracing::Span::current().record("memory_guard", decision);
    });
}

/// [`decided`], on the path where every nanosecond counts.
#[inline]
pub(crate) fn admitted() {
    #[cfg(feature = "tracing")]
    if tracing::dispatcher::has_been_set() {
        admitted_in_span();
    }
}

#[cold]
fn admitted_in_span() {
    decided("admitted");
}

pub(crate) fn waited(waited: Duration) {
    #[cfg(feature = "tracing")]
    if tracing::dispatcher::has_been_set() {
        decided(&format!("admitted after {} ms", waited.as_millis()));
    }
}

/// A request's span, if that has a field for how long the request was paused. Keeps it
/// open.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    #[cfg(feature = "tracing")]
    span: Option<tracing::Span>,
}

impl RequestSpan {
    /// In which a request is polled.
    pub(crate) fn current() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: foreign::call(Code::Subscriber, tracing::Span::current)
                .filter(|span| span.has_field("paused_ms")),
        }
    }

    pub(crate) fn listens(&self) -> bool {
        #[cfg(feature = "tracing")]
        return self.span.is_some();
        #[cfg(not(feature = "tracing"))]
        false
    }

    pub(crate) fn paused(&self, ms: u64) {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            said(|| {
                span.record("paused_ms", ms);
            });
        }
    }
}

#[cfg(feature = "tracing")]
impl Drop for RequestSpan {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            said(|| drop(span));
        }
    }
}

pub(crate) fn closed(name: Option<&str>) {
    say!(info, name, "memory guard closed");
}

pub(crate) fn paused(request: &LongPause<'_>) {
    say!(
        warn,
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
}

pub(crate) fn stuck(name: Option<&str>, paused: u32, goes_on: bool) {
    let then = if goes_on {
        "one goes on all the same"
    } else {
        "and none can go on"
    };
    say!(
        error,
        name,
        paused,
        "no request in flight fits into memory any more, {then}"
    );
}

pub(crate) fn warnings(warnings: &[String]) {
    for warning in warnings {
        say!(warn, "{warning}");
    }
}

pub(crate) fn no_limit() {
    say!(
        warn,
        "the memory guard finds no memory limit and only counts; run in a container or \
         control group with a limit, or set MEMORY_GUARD_MEMORY_LIMIT (such as 2GiB)"
    );
}

pub(crate) fn not_staged() {
    say!(
        warn,
        "the memory guard stages bodies, and a request was answered that no \
         StagedBodyLayer had seen; it has to be inside of the guard"
    );
}

pub(crate) fn inside_an_observer(name: Option<&str>) {
    say!(
        warn,
        name,
        "a memory guard stands inside of one that only observes: it goes by the gate and by \
         counts alone, and pauses nobody; have the outer one skip what it guards"
    );
}

pub(crate) fn sensor_failed(error: &std::io::Error, closed: bool, counts: bool) {
    let consequence = match (closed, counts) {
        (true, _) => "new work is rejected",
        (false, true) => "only the concurrency limit holds",
        (false, false) => "nothing is held back; set MAX_CONCURRENT",
    };
    say!(error, %error, consequence, "the memory guard cannot read memory");
}

pub(crate) fn sensor_recovered() {
    say!(info, "the memory guard reads memory again");
}

pub(crate) fn limit_changed(old_mb: f64, new_mb: f64) {
    say!(info, old_mb, new_mb, "the memory limit changed");
}

pub(crate) fn no_thread(error: &std::io::Error) {
    say!(error, %error, "the memory guard has no thread to sample memory with");
}
