//! Admission in two steps.

use std::time::Duration;

use super::admission::{Admission, Verdict};
use super::controller::Controller;
use super::cost::Request;
use super::waiting::Waiting;
use crate::class::tag::Tag;
use crate::classify::labels::Entry;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Attempt, Need, Operation, Refused};

/// The rest of a request's estimate: reserved, or waited for.
pub(crate) enum Rest {
    Reserved(u64),
    Waiting(Waiting),
}

impl Request {
    /// What a request asks for at first: all that it needs, or its body alone.
    #[inline]
    pub(crate) fn first(entry: Entry) -> Self {
        match entry.body_kib {
            0 => entry.into(),
            kib => Self {
                need: Need::Known(Ask {
                    kib,
                    low_kib: kib,
                    tag: entry.tag,
                }),
                deadline: entry.deadline,
            },
        }
    }
}

impl Controller {
    /// Reserves what is estimated for a request beyond the `held_kib` that it has for its
    /// body, or joins the queue for that.
    pub(crate) fn admit_rest(
        &'static self,
        entry: Entry,
        held_kib: u64,
        callers: Option<Duration>,
    ) -> Result<Rest, Rejected> {
        let tag = entry.tag;
        if self.sheds(tag) {
            return Err(self.reject(Reason::LowPriority, tag));
        }
        let need = Need::More { tag, held_kib };
        let attempt = |attempt| {
            let ask = need.ask(&self.bounds);
            let reserved = self.reserve(ask, need.operation(), attempt);
            reserved.map(|_| ask.kib)
        };
        let refused = match self.resampling(attempt) {
            Ok(kib) => return Ok(Rest::Reserved(kib)),
            Err(refused) => refused,
        };
        let ask = need.ask(&self.bounds);
        match self.judge(ask, held_kib, refused) {
            Verdict::Force => return Ok(Rest::Reserved(self.force_more(ask.kib, tag))),
            Verdict::Reject(reason) => return Err(self.reject(reason, tag)),
            Verdict::Wait => {}
        }
        let request = Request {
            need,
            deadline: entry.deadline,
        };
        match self.wait(request, &|| callers) {
            Admission::Waiting(waiting) => Ok(Rest::Waiting(waiting)),
            Admission::Rejected(refusal) => Err(self.tell(refusal, tag)),
            Admission::Admitted(_) => unreachable!("it waits, or it does not"),
        }
    }

    /// Reserves what is estimated beyond `held_kib`, past the bounds.
    pub(crate) fn force_rest(&self, tag: Tag, held_kib: u64) -> u64 {
        let need = Need::More { tag, held_kib };
        self.force_more(need.ask(&self.bounds).kib, tag)
    }

    /// Reserves more for a request that goes on in any case; how much.
    pub(crate) fn force_more(&self, kib: u64, tag: Tag) -> u64 {
        match self.reserve_more(kib, tag, Operation::Growth, Attempt::PastBounds) {
            Ok(()) => kib,
            // More than the ledger's word can count.
            Err(_) => 0,
        }
    }

    /// Reserves so many KiB more, all of which are needed, for a request that has some.
    pub(super) fn reserve_more(
        &self,
        kib: u64,
        tag: Tag,
        operation: Operation,
        attempt: Attempt,
    ) -> Result<(), Refused> {
        let ask = Ask {
            kib,
            low_kib: kib,
            tag,
        };
        self.reserve(ask, operation, attempt).map(drop)
    }

    /// More of a staged request's body is there than was reserved for it.
    pub(crate) fn grow_body(&self, kib: u64, tag: Tag) -> bool {
        let attempt = match self.only_observes() {
            true => Attempt::PastBounds,
            false => Attempt::First,
        };
        let limit_kib = self.limit_bytes().div_ceil(1024);
        self.reserve_more(kib, tag, Operation::Body { limit_kib }, attempt)
            .is_ok()
    }
}
