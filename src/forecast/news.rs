//! When a file is out of date.

use super::state::{AtLeast, Outlines, State};

/// Above all that is known by a quarter and by this, a request is a surprise.
const SURPRISE: f64 = 1.25;
const SURPRISE_BYTES: f64 = (1u64 << 20) as f64;
/// What moved by less is no news.
const MOVED: f64 = 0.125;
const MEAN_MOVED: f64 = 0.0625;
/// In standard deviations.
const MARGIN_MOVED: f64 = 0.25;

/// What a file says, in short.
#[derive(Debug, Default)]
pub(crate) struct Known {
    outlines: Outlines,
    usage: Option<(f64, f64)>,
    margin: Option<f64>,
    running: usize,
}

fn moved(from: f64, to: f64, share: f64) -> bool {
    (to - from).abs() > from * share
}

fn surprises(known_bytes: f64, bytes: f64) -> bool {
    bytes > known_bytes * SURPRISE + SURPRISE_BYTES
}

impl Known {
    pub(crate) fn new(state: &State) -> Self {
        Self {
            outlines: state.outlines(),
            usage: state.estimates.usage_bytes_per_request,
            margin: state.estimates.margin_deviations,
            running: state.running.len(),
        }
    }

    /// A request in flight exceeds all that is known. It may be the one that has the process
    /// killed, so this must not wait; as it grows that comes less and less often.
    pub(crate) fn is_exceeded(&self, running: &[AtLeast], usage_average: Option<f64>) -> bool {
        let largest_bytes = |request: &AtLeast| {
            let kind = (request.class.clone(), request.hinted);
            self.outlines
                .get(&kind)
                .map_or(0.0, |kind| kind.largest_bytes)
        };
        let known_bytes = self.usage.map_or(0.0, |(bytes, _)| bytes);
        let mut running = running.iter();
        running.any(|request| surprises(largest_bytes(request), request.bytes))
            || usage_average.is_some_and(|bytes| surprises(known_bytes, bytes))
    }

    /// What is learned by now differs by more than chance.
    pub(crate) fn is_outdated(&self, state: &State) -> bool {
        let now = Self::new(state);
        let margin = match (self.margin, now.margin) {
            (Some(from), Some(to)) => (to - from).abs() > MARGIN_MOVED,
            _ => false,
        };
        margin || self.usage_is_outdated(now.usage) || self.classes_are_outdated(&now.outlines)
    }

    /// Some that it says to be in flight are no more: they were not cut off.
    pub(crate) fn have_ended(&self, state: &State) -> bool {
        self.running > state.running.len()
    }

    fn usage_is_outdated(&self, now: Option<(f64, f64)>) -> bool {
        let Some((bytes, seen)) = now else {
            return false;
        };
        let Some((known_bytes, known_seen)) = self.usage else {
            return true;
        };
        // While nobody comes, the average is forgotten; the next process need not be told.
        let came = seen > known_seen;
        seen > known_seen * (1.0 + MOVED)
            || (moved(known_bytes, bytes, MOVED) && (came || bytes > known_bytes))
    }

    fn classes_are_outdated(&self, now: &Outlines) -> bool {
        now.iter().any(|(kind, now)| {
            let Some(known) = self.outlines.get(kind) else {
                // Of a class that is only known by its name there is nothing to say.
                return now.largest_bytes > 0.0;
            };
            moved(known.seen, now.seen, MOVED)
                || moved(known.mean_bytes, now.mean_bytes, MEAN_MOVED)
                || moved(known.largest_bytes, now.largest_bytes, MOVED)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1u64 << 20) as f64;

    fn running(mib: f64) -> AtLeast {
        AtLeast {
            class: "render".into(),
            hinted: false,
            bytes: mib * MIB,
        }
    }

    fn usage(mib: f64, seen: f64) -> State {
        let mut state = State::default();
        state.estimates.usage_bytes_per_request = Some((mib * MIB, seen));
        state
    }

    #[test]
    fn only_what_exceeds_all_that_is_known_is_a_surprise() {
        let nothing = Known::default();
        assert!(!nothing.is_exceeded(&[], None));
        assert!(!nothing.is_exceeded(&[running(1.0)], Some(MIB)));
        assert!(nothing.is_exceeded(&[running(20.0)], None));
        assert!(nothing.is_exceeded(&[], Some(20.0 * MIB)));
        let known = Known::new(&State {
            running: vec![running(100.0)],
            ..usage(100.0, 1.0)
        });
        assert!(!known.is_exceeded(&[running(120.0)], Some(120.0 * MIB)));
        assert!(known.is_exceeded(&[running(1.0), running(130.0)], None));
        assert!(known.is_exceeded(&[], Some(130.0 * MIB)));
    }

    #[test]
    fn an_average_that_is_forgotten_while_nobody_comes_is_no_news() {
        let known = Known::new(&usage(100.0, 10.0));
        assert!(!known.is_outdated(&usage(10.0, 10.0)));
        assert!(!known.is_outdated(&usage(95.0, 11.0)));
        assert!(known.is_outdated(&usage(80.0, 11.0)));
        assert!(known.is_outdated(&usage(120.0, 10.0)));
        assert!(known.is_outdated(&usage(100.0, 20.0)));
        assert!(Known::default().is_outdated(&usage(100.0, 1.0)));
        assert!(!Known::default().is_outdated(&State::default()));
    }
}
