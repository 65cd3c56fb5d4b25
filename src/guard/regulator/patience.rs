//! Whether callers give up before they are answered.
//!
//! In a queue of ten seconds those that are served in turn have nearly run out of their
//! callers' patience: the work is done, and nobody is there to take the answer. Where that
//! is seen, the newest are served first until the queue is short again.

/// Served in turn, so large a share of the work is given up on.
const GIVEN_UP: f64 = 0.25;
/// The share is that of about so many requests.
const AVERAGED: f64 = 16.0;

/// How much of the work that was begun is given up on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    given_up: u64,
    completed: u64,
    share: f64,
    newest_first: bool,
}

impl Patience {
    /// So many requests were given up on, and have ended, so far; and the oldest waiter has
    /// used up so much of its time. Says whether the newest are to be served first.
    pub(super) fn observe(&mut self, given_up: u64, completed: u64, waited: f64) -> bool {
        let more = given_up.saturating_sub(self.given_up) as f64;
        let all = (completed.saturating_sub(self.completed) as f64).max(more);
        self.given_up = given_up;
        self.completed = completed;
        if all > 0.0 {
            self.share += (more / all - self.share) * (all / (all + AVERAGED));
        }
        // Once it helps, few give up: it is over when the queue is.
        self.newest_first = match self.newest_first {
            true => waited > 0.25,
            false => waited > 0.5 && self.share > GIVEN_UP,
        };
        self.newest_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_go_first_where_callers_give_up_and_until_the_queue_is_short() {
        let mut patience = Patience::default();
        assert!(!patience.observe(0, 20, 0.9));
        assert!(!patience.observe(0, 40, 0.9));
        assert!(patience.observe(20, 60, 0.9));
        // Nobody gives up any more, since the newest are served.
        assert!(patience.observe(20, 200, 0.9));
        assert!(!patience.observe(20, 220, 0.1));
        assert!(!patience.observe(20, 240, 0.9));
    }
}
