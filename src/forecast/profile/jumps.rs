//! What one poll of a request may add.

use crate::running::{Jump, KnownJumps};

/// Forgotten by this with each request.
const LEFT: f64 = 0.99;
/// And by this what one in hundreds may do.
const ONCE_LEFT: f64 = 0.999;
/// What was learned of polls that follow a large one, and of those at the end, is of
/// requests that had one at least so large, as a share of the largest.
const LIKE: f64 = 0.5;

/// What polls of the requests of a kind were seen to add lately, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::forecast) struct Jumps(KnownJumps);

impl Jumps {
    /// A request that runs has shown so much.
    pub(in crate::forecast) fn saw(&mut self, jump: Jump) {
        let known = &mut self.0;
        if jump.largest * LIKE > known.largest {
            // Of work like that nothing was seen.
            (known.later, known.ending) = (None, None);
        }
        known.largest = known.largest.max(jump.largest);
        known.once = known.once.max(jump.largest);
        if self.is_like(jump) {
            let known = &mut self.0;
            known.later = known.later.map(|later| later.max(jump.later));
            known.ending = known
                .ending
                .map(|ending| ending.max(jump.ending.unwrap_or(0.0)));
        }
    }

    /// A request that showed so much has ended.
    pub(super) fn ended(&mut self, jump: Jump) {
        if jump.largest <= 0.0 {
            return;
        }
        self.0.largest *= LEFT;
        self.0.once *= ONCE_LEFT;
        self.saw(jump);
        if self.is_like(jump) {
            let after =
                |before: Option<f64>, seen: f64| Some(seen.max(before.unwrap_or(0.0) * LEFT));
            let known = &mut self.0;
            known.later = after(known.later, jump.later);
            if let Some(ending) = jump.ending {
                known.ending = after(known.ending, ending);
            }
        }
    }

    fn is_like(&self, jump: Jump) -> bool {
        jump.largest >= self.0.largest * LIKE
    }

    /// `None`: nothing has been seen.
    pub(super) fn known(&self) -> Option<KnownJumps> {
        (self.0.largest > 0.0).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(largest: f64, later: f64) -> Jump {
        Jump {
            largest,
            later,
            ending: None,
        }
    }

    fn ending(largest: f64, bytes: f64) -> Jump {
        Jump {
            ending: Some(bytes),
            ..jump(largest, largest)
        }
    }

    fn known(largest: f64, later: Option<f64>) -> Option<KnownJumps> {
        Some(KnownJumps {
            first: 0.0,
            largest,
            once: largest,
            later,
            ending: None,
        })
    }

    #[test]
    fn what_follows_a_large_one_is_known_once_such_a_request_has_ended() {
        let mut jumps = Jumps::default();
        assert_eq!(jumps.known(), None);
        jumps.saw(jump(250.0, 0.0));
        assert_eq!(jumps.known(), known(250.0, None));
        jumps.ended(jump(250.0, 0.0));
        assert_eq!(jumps.known(), known(250.0, Some(0.0)));
        // One that goes on growing.
        jumps.saw(jump(240.0, 30.0));
        assert_eq!(jumps.known(), known(250.0, Some(30.0)));
        // Small ones tell nothing of large ones.
        jumps.ended(jump(2.0, 2.0));
        assert_eq!(jumps.known().unwrap().later, Some(30.0));
    }

    #[test]
    fn of_larger_ones_than_ever_nothing_is_known() {
        let mut jumps = Jumps::default();
        jumps.ended(ending(2.0, 1.0));
        jumps.saw(jump(12.0, 0.0));
        assert_eq!(jumps.known(), known(12.0, None));
        // The first of an ended request is as good as any.
        jumps.ended(jump(12.0, 12.0));
        assert_eq!(jumps.known().unwrap().later, Some(12.0));
    }

    #[test]
    fn what_is_added_at_the_end_is_known_once_such_a_request_has_ended() {
        let mut jumps = Jumps::default();
        let of_ending = |jumps: &Jumps| jumps.known().unwrap().ending;
        // Nobody saw that it was about to end.
        jumps.ended(jump(10.0, 10.0));
        assert_eq!(of_ending(&jumps), None);
        jumps.ended(ending(10.0, 1.0));
        jumps.ended(ending(4.0, 4.0));
        jumps.ended(jump(10.0, 10.0));
        assert_eq!(of_ending(&jumps), Some(1.0));
        // One that goes on when all thought that it would end.
        jumps.saw(ending(9.0, 8.0));
        assert_eq!(of_ending(&jumps), Some(8.0));
    }

    #[test]
    fn what_is_not_seen_again_is_forgotten() {
        let mut jumps = Jumps::default();
        jumps.ended(jump(250.0, 20.0));
        (0..500).for_each(|_| jumps.ended(jump(2.0, 1.0)));
        let KnownJumps {
            largest,
            once,
            later,
            ..
        } = jumps.known().unwrap();
        assert!(once > 100.0, "{once}");
        assert!(
            largest < 5.0 && later.unwrap() <= 20.0,
            "{largest} {later:?}"
        );
    }
}
