//! What several of the tests have: a wait that is left when it is dropped, and quotas.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Bounds, Limiter, Need, Refusal};
use crate::class::Quota;
use crate::error::Reason;

pub(super) const IN_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Ticket {
    limiter: Arc<Limiter>,
    key: Option<usize>,
}

impl Ticket {
    pub(super) fn join(
        limiter: &Arc<Limiter>,
        bounds: &Arc<Bounds>,
        need: Need,
        deadline: Duration,
    ) -> Result<Self, Refusal> {
        let key = limiter.wait(bounds, need, Duration::ZERO, Some(deadline))?;
        Ok(Self {
            limiter: Arc::clone(limiter),
            key: Some(key),
        })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        let polled = self.limiter.poll_wait(self.key.unwrap(), cx);
        self.key = self.key.filter(|_| polled.is_pending());
        polled
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.limiter.stop_waiting(key);
        }
    }
}

#[cfg_attr(memory_guard_loom, allow(dead_code))]
impl Quota {
    pub(super) fn weighing(weight: u32) -> Self {
        let all = Self::default();
        Self { weight, ..all }
    }

    pub(super) fn up_to(max_share: f64) -> Self {
        let all = Self::default();
        Self { max_share, ..all }
    }

    pub(super) fn at_most(self, max_in_flight: u32) -> Self {
        Self {
            max_in_flight,
            ..self
        }
    }
}
