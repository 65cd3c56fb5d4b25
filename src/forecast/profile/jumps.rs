//! What one poll of a request may add.

use crate::running::Jump;

/// Forgotten by this with each request.
const LEFT: f64 = 0.99;
/// What was learned of polls that follow a large one is of requests that had one at least
/// so large, as a share of the largest.
const LIKE: f64 = 0.5;

/// What polls of the requests of a kind were seen to add lately, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jumps {
    /// At most.
    largest: f64,
    /// After the first one, of those with large ones; `None`: none of those has ended.
    later: Option<f64>,
}

impl Jumps {
    /// A request that runs has shown so much.
    pub(super) fn saw(&mut self, jump: Jump) {
        if jump.largest * LIKE > self.largest {
            // Of work like that nothing was seen.
            self.later = None;
        }
        self.largest = self.largest.max(jump.largest);
        if self.is_like(jump) {
            self.later = self.later.map(|later| later.max(jump.later));
        }
    }

    /// A request that showed so much has ended.
    pub(super) fn ended(&mut self, jump: Jump) {
        if jump.largest <= 0.0 {
            return;
        }
        self.largest *= LEFT;
        self.saw(jump);
        if self.is_like(jump) {
            let before = self.later.map_or(0.0, |later| later * LEFT);
            self.later = Some(jump.later.max(before));
        }
    }

    fn is_like(&self, jump: Jump) -> bool {
        jump.largest >= self.largest * LIKE
    }

    /// What one poll adds at most, and what one does after such a one; `None`: it has not
    /// been seen.
    pub(super) fn known(&self) -> Option<(f64, Option<f64>)> {
        (self.largest > 0.0).then_some((self.largest, self.later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(largest: f64, later: f64) -> Jump {
        Jump { largest, later }
    }

    #[test]
    fn what_follows_a_large_one_is_known_once_such_a_request_has_ended() {
        let mut jumps = Jumps::default();
        assert_eq!(jumps.known(), None);
        jumps.saw(jump(250.0, 0.0));
        assert_eq!(jumps.known(), Some((250.0, None)));
        jumps.ended(jump(250.0, 0.0));
        assert_eq!(jumps.known(), Some((250.0, Some(0.0))));
        // One that goes on growing.
        jumps.saw(jump(240.0, 30.0));
        assert_eq!(jumps.known(), Some((250.0, Some(30.0))));
        // Small ones tell nothing of large ones.
        jumps.ended(jump(2.0, 2.0));
        assert_eq!(jumps.known().unwrap().1, Some(30.0));
    }

    #[test]
    fn of_larger_ones_than_ever_nothing_is_known() {
        let mut jumps = Jumps::default();
        jumps.ended(jump(2.0, 1.0));
        jumps.saw(jump(12.0, 0.0));
        assert_eq!(jumps.known(), Some((12.0, None)));
        // The first of an ended request is as good as any.
        jumps.ended(jump(12.0, 12.0));
        assert_eq!(jumps.known().unwrap().1, Some(12.0));
    }

    #[test]
    fn what_is_not_seen_again_is_forgotten() {
        let mut jumps = Jumps::default();
        jumps.ended(jump(250.0, 20.0));
        (0..500).for_each(|_| jumps.ended(jump(2.0, 1.0)));
        let (largest, later) = jumps.known().unwrap();
        assert!(
            largest < 5.0 && later.unwrap() <= 20.0,
            "{largest} {later:?}"
        );
    }
}
