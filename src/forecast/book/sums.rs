//! [`Sums`]: what the requests in flight have and will need.

use crate::forecast::need::Sum;
use crate::running::brake::STEPS;

/// What the requests in flight have and will need, together.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::forecast) struct Sums {
    /// What they hold.
    pub(crate) held_bytes: f64,
    /// What those may hold beside that of which some polls told only what they touched.
    pub(crate) untold_bytes: f64,
    /// Those in the midst of a poll, and those that wait for something and hold nothing.
    pub(crate) in_polls: u32,
    pub(crate) quiet: u32,
    /// What is reserved for the latter.
    pub(crate) quiet_kib: u64,
    /// The most that a poll under way has added, if that is more than it was expected to.
    pub(crate) outgrown_bytes: f64,
    /// One gets on of whose growth nothing is known.
    pub(crate) unknown_get_on: bool,
    /// Few of the kind of one of them have been seen.
    pub(crate) new: bool,
    /// What they will add to that: Σ max(0, rᵢ − mᵢ).
    pub(crate) growth_bytes: f64,
    /// What they need at their peaks: Σ max(rᵢ, mᵢ).
    pub(crate) need_bytes: f64,
    /// Of those whose needs are predicted: how far either may be exceeded.
    pub(in crate::forecast) needs: Sum,
    /// What is reserved for them.
    pub(crate) reserved_kib: u64,
    /// And for those among them whose memory no account shows: usage does.
    pub(crate) invisible_bytes: f64,
    /// What is reserved for those that can be paused, and what they hold.
    pub(crate) pausable_kib: u64,
    pub(crate) pausable_held_bytes: f64,
    /// What they are expected to have grown by at each step.
    pub(crate) growth: [f64; STEPS],
    /// The rest of [`growth_bytes`](Self::growth_bytes).
    pub(crate) other_growth_bytes: f64,
    /// What they may still need at most, as far as is known.
    pub(crate) most_growth_bytes: f64,
}

impl Sums {
    /// Of so large a share of them, whichever these are. The margin stays as it is: others come in
    /// the place of those gone.
    pub(super) fn of_share(self, share: f64) -> Self {
        let kib = |kib: u64| (kib as f64 * share) as u64;
        Self {
            held_bytes: self.held_bytes * share,
            quiet_kib: kib(self.quiet_kib),
            growth_bytes: self.growth_bytes * share,
            need_bytes: self.need_bytes * share,
            reserved_kib: kib(self.reserved_kib),
            invisible_bytes: self.invisible_bytes * share,
            pausable_kib: kib(self.pausable_kib),
            pausable_held_bytes: self.pausable_held_bytes * share,
            growth: self.growth.map(|bytes| bytes * share),
            other_growth_bytes: self.other_growth_bytes * share,
            most_growth_bytes: self.most_growth_bytes * share,
            ..self
        }
    }
}
