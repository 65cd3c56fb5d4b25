//! A wait as tests have it, which is left when it is dropped.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Bounds, Limiter, Need, Refusal};
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
        let key = limiter.wait(bounds, need, Some(deadline))?;
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
