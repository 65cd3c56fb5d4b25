//! [`Outlook`]: what is expected at each time in the next seconds.

use crate::running::brake::STEPS;

/// What a request is taken to hold at least while others are planned with it.
const LEAST_SHARE: f64 = 0.02;

/// What is expected at each time in the next seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// By how much usage will have risen without another request.
    pub(super) growth_bytes: [f64; STEPS],
    /// What the next request will hold then, as a share of what it reserves.
    pub(super) next_share: [f64; STEPS],
}

impl Outlook {
    /// All of it may come at once, and stay.
    pub(crate) fn constant(growth_bytes: i64) -> Self {
        Self {
            growth_bytes: [growth_bytes as f64; STEPS],
            next_share: [1.0; STEPS],
        }
    }

    /// How much may be reserved for more requests where so many bytes are free.
    pub(crate) fn reservable_bytes(&self, free_bytes: f64) -> f64 {
        let steps = self.growth_bytes.iter().zip(&self.next_share);
        let room = steps.map(|(growth, share)| (free_bytes - growth) / share.max(LEAST_SHARE));
        room.fold(f64::INFINITY, f64::min)
    }
}
