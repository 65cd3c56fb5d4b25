//! What the guard decided lately, for somebody who asks why.
//!
//! Kept at the rate of the log: at most one rejection a second, with a count of those
//! in between. Requests that are admitted at once leave no trace here. Nothing is kept
//! where nobody can ask.
#![cfg_attr(not(any(test, feature = "dashboard")), allow(dead_code))]

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::pressure::Pressure;

/// The oldest go when there are more.
const KEPT: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(crate) enum EventKind {
    Rejected,
    /// In observe mode: it passed all the same.
    Observed,
    Adjusted,
    Cancelled,
    /// For long.
    Paused,
    Stuck,
    Released,
    LimitChanged,
    SensorFailed,
    SensorRecovered,
    Reloaded,
    Closed,
}

/// One of them, and what memory was like.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub(crate) struct Event {
    /// Rises by one with each.
    pub(crate) seq: u64,
    pub(crate) at_unix_ms: u64,
    pub(crate) kind: EventKind,
    pub(crate) text: String,
    pub(crate) level: Pressure,
    pub(crate) memory_percent: f64,
    /// So many of its kind came since the one before, and are not shown.
    pub(crate) suppressed: u64,
}

/// The last events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentEvents(Mutex<VecDeque<Event>>);

impl RecentEvents {
    pub(crate) fn push(
        &self,
        kind: EventKind,
        text: String,
        level: Pressure,
        memory_percent: f64,
        suppressed: u64,
    ) {
        if !cfg!(any(test, feature = "dashboard")) {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = events.back().map_or(1, |last| last.seq + 1);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(Event {
            seq,
            at_unix_ms: since.map_or(0, |since| since.as_millis() as u64),
            kind,
            text,
            level,
            memory_percent,
            suppressed,
        });
    }

    pub(crate) fn forget(&self) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *events = VecDeque::new();
    }

    #[cfg(any(test, feature = "dashboard"))]
    pub(crate) fn all(&self) -> Vec<Event> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let recent = RecentEvents::default();
        for n in 1..=KEPT + 2 {
            recent.push(EventKind::Adjusted, n.to_string(), Pressure::High, 81.0, 0);
        }
        let all = recent.all();
        assert_eq!((all.len(), all[0].seq, &*all[0].text), (KEPT, 3, "3"));
    }
}
