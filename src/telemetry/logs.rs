//! Log events, through `tracing`; without that feature, nothing.

use std::time::Duration;

#[cfg(feature = "tracing")]
use crate::sync::foreign::{self, Code};

#[cfg(feature = "tracing")]
pub(crate) const TARGET: &str = "tower_memory_guard";

/// An event's level, fields and message.
macro_rules! say {
    ($level:ident, $($event:tt)+) => {{
        #[cfg(feature = "tracing")]
        $crate::telemetry::logs::said(|| {
            tracing::$level!(target: $crate::telemetry::logs::TARGET, $($event)+)
        });
    }};
}
pub(crate) use say;

/// To whoever listens, and may panic.
#[cfg(feature = "tracing")]
pub(crate) fn said(say: impl FnOnce()) {
    foreign::call(Code::Subscriber, say);
}

/// The decision, in the request's span if that has a field for it.
#[cold]
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
        decided("admitted");
    }
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

pub(crate) fn warnings(warnings: &[String]) {
    for warning in warnings {
        say!(warn, "{warning}");
    }
}
