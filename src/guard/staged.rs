//! Admission in two steps.

use std::time::Duration;

use super::admission::{Admission, Verdict};
use super::controller::Controller;
use super::cost::Request;
use super::waiting::Waiting;
use crate::class::tag::Tag;
use crate::classify::labels::Entry;
use crate::error::{Reason, Rejected};
use crate::limiter::{Ask, Mode, Need, Refused};

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
        let attempt = |mode| {
            let ask = need.ask(&self.bounds);
            let reserved = self.limiter.try_more(&self.bounds, ask, held_kib, mode);
            reserved.map(|()| ask.kib).map_err(|refused| (refused, ask))
        };
        let mut reserved = attempt(Mode::Newcomer);
        if let Err((Refused::Stale, _)) = reserved {
            self.sampler.refresh();
            reserved = attempt(Mode::Refreshed);
        }
        let (refused, ask) = match reserved {
            Ok(kib) => return Ok(Rest::Reserved(kib)),
            Err(refused) => refused,
        };
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
        match self.limiter.grow(&self.bounds, kib, tag, true) {
            true => kib,
            // More than the ledger's word can count.
            false => 0,
        }
    }
}
