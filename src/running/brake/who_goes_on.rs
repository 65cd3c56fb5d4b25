//! Who goes on and who is paused, and in which order: pure functions.
//!
//! A future that is not polled does not grow. While what the requests in flight are
//! expected to grow by is more than there is room for, they are let grow in one order,
//! as many as fit: each may take what those before it are not expected to need.
//!
//! A *keep* is what must stay free of the room when a request takes some of it:
//!
//! - what those before it that run are expected to have grown by, at whichever time in
//!   the next seconds that is most, less what they are expected to give back by then;
//! - and what makes the order a safe one (Dijkstra's banker, 1965): the need of each of
//!   those before it, at the very worst, less what those before that one give back at
//!   their ends. So the first can always end, then the second, and so on.

use super::turn::Turn;

/// A need below this share of what is held is none: who needs nothing more is not held.
const NOTHING: f32 = 1.0 / 20.0;
const NOTHING_BYTES: f32 = (256u32 << 10) as f32;

/// How often the requests are gone through for those that can end now.
const MOST_PASSES: usize = 8;

/// A request in flight, as far as it matters who may grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runner {
    pub(crate) held_bytes: f32,
    /// What it is expected to have grown by.
    pub(crate) growth: Growth,
    /// What it may still need: a high quantile.
    pub(crate) need_bytes: f32,
    /// What it may need at the very worst.
    pub(crate) worst_bytes: f32,
    /// What one poll of it may add.
    pub(crate) jump_bytes: f32,
    /// It has not grown for longer than it takes between two of its polls.
    pub(crate) settled: bool,
    /// It gets on, or would if it were not paused. Who waits for something else than
    /// memory lends its place.
    pub(crate) moves: bool,
    pub(crate) paused: bool,
    /// Nobody has polled it for long, or its polls have added nothing for as long: it may be a
    /// stream that lasts for hours.
    pub(crate) idle: bool,
    /// The poll it is in the midst of has added so much, if that is more than it was expected
    /// to, and goes on.
    pub(crate) outgrown_bytes: f32,
}

/// What there is for those that run to grow into.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) bytes: f32,
    /// And beyond that for those that are about to end.
    pub(crate) for_ending_bytes: f32,
}

/// Who may grow, of all that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// In the order of the requests.
    pub(crate) turns: Vec<Turn>,
    /// Whom all others leave what it needs to end.
    pub(crate) front: Option<usize>,
    /// Of whoever comes next, of whom nothing is known.
    pub(crate) newcomer: Turn,
    /// What must stay free of it, beside all that it needs itself, for it to end before them.
    pub(crate) newcomer_least_bytes: f32,
    /// What must stay free so that all can end, one after the other.
    pub(crate) safe_bytes: f32,
    pub(crate) stuck: Stuck,
    /// Of so many only one is not idle, and that is paused: they give nothing back.
    pub(crate) alone_of: Option<u32>,
}

/// Whether anybody gets on who is not paused.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Stuck {
    #[default]
    No,
    /// Others were polled not long ago, and may be about to end; or no plan has them.
    ForNow,
    /// All that are not paused are idle.
    Yes,
}

impl Stuck {
    fn of(runners: &[Runner]) -> Self {
        let all = |not: fn(&Runner) -> bool| runners.iter().all(|one| one.paused || not(one));
        match () {
            () if all(|one| one.idle) => Self::Yes,
            () if all(|one| !one.moves) => Self::ForNow,
            () => Self::No,
        }
    }
}

impl Runner {
    fn needs_nothing(&self) -> bool {
        self.settled && self.need_bytes <= (self.held_bytes * NOTHING).max(NOTHING_BYTES)
    }

    /// What it is expected to add, at whichever time that is most.
    fn expected_bytes(&self) -> f32 {
        self.growth.iter().copied().fold(0.0, f32::max)
    }

    /// It holds, and needs, so many times as much as was seen. What one may need at worst
    /// is that of one of which all was seen.
    pub(crate) fn scale(&mut self, by: f32) {
        let worst_bytes = self.held_bytes + self.worst_bytes;
        self.held_bytes *= by;
        self.need_bytes *= by;
        self.worst_bytes = (worst_bytes - self.held_bytes).max(self.need_bytes);
        self.growth.iter_mut().for_each(|bytes| *bytes *= by);
    }

    /// Who would need more than there is in all could not end anyway.
    pub(crate) fn end_within(&mut self, limit_bytes: f32) {
        let most_bytes = (limit_bytes - self.held_bytes).max(0.0);
        self.need_bytes = self.need_bytes.min(most_bytes);
        self.worst_bytes = self.worst_bytes.min(most_bytes);
    }

    /// While it grows it is expected to come to so much.
    pub(crate) fn need_at_least(&mut self, bytes: f32) {
        if self.settled {
            return;
        }
        let rest = (bytes - self.held_bytes).max(0.0);
        self.need_bytes = self.need_bytes.max(rest);
        self.worst_bytes = self.worst_bytes.max(rest);
        let ended = -self.held_bytes / 2.0;
        for growth in self.growth.iter_mut().filter(|growth| **growth > ended) {
            *growth = growth.max(rest);
        }
    }

    /// It need not be held: it adds nothing, as far as can be told.
    fn ending(&self) -> Option<Turn> {
        match self.settled {
            true if self.needs_nothing() => Some(Turn::Free),
            true => Some(Turn::Ends),
            false => None,
        }
    }

    /// The same where no order is a safe one: what is left is for the first, and not for those
    /// that may be about to end and may as well take more than is kept for such.
    fn ending_within(&self, for_ending_bytes: f32) -> Turn {
        let ending = self.ending().unwrap_or(Turn::Hold);
        match ending == Turn::Ends && self.jump_bytes > for_ending_bytes {
            true => Turn::EndsLater,
            false => ending,
        }
    }

    /// What it gives back: at its end if it gets on, or else what is expected of it.
    fn gives_back(&self) -> f32 {
        match self.moves && !self.idle {
            true => self.held_bytes,
            false => (-self.growth[STEPS - 1]).clamp(0.0, self.held_bytes),
        }
    }

    /// What must be there for it to end for sure.
    fn claim_bytes(&self) -> f32 {
        match self.ending() {
            Some(Turn::Free) => self.need_bytes,
            Some(_) => self
                .worst_bytes
                .min(self.expected_bytes() + self.jump_bytes),
            None => self.worst_bytes,
        }
    }
}

/// Says who may grow where there is so much room. `runners`: in their order.
/// `front`: whoever was first in the plan before stays first until it has ended or does
/// not get on; otherwise each in its turn would take a part of what one needs to end.
pub(crate) fn plan(room: Room, runners: &[Runner], front: Option<usize>) -> Plan {
    let room_bytes = room.bytes;
    let front = front.filter(|&index| runners[index].moves);
    let (sequence, safe) = sequence(room_bytes, runners, front);
    let front = front.or_else(|| {
        let mut growing = sequence.iter().copied();
        growing.find(|&index| !runners[index].settled)
    });
    let mut order = Order {
        room_bytes,
        ..Order::default()
    };
    let mut turns = vec![Turn::Hold; runners.len()];
    for (position, &index) in sequence.iter().enumerate() {
        let is_front = front == Some(index);
        turns[index] = match position < safe || is_front {
            true => order.next(&runners[index], is_front),
            // Let go on, it might take what the others need to end.
            false => runners[index].ending_within(room.for_ending_bytes),
        };
    }
    // Behind those that are held, too: what does not fit is passed over.
    let holds = safe < runners.len();
    Plan {
        turns,
        front,
        newcomer: match holds {
            true => Turn::Hold,
            false => Turn::Keep(order.keep_bytes()),
        },
        newcomer_least_bytes: order.least_bytes(),
        safe_bytes: order.safe_bytes,
        stuck: Stuck::of(runners),
        alone_of: alone_of(runners),
    }
}

fn alone_of(runners: &[Runner]) -> Option<u32> {
    let mut others = runners.iter().filter(|one| one.paused || !one.idle);
    let alone = others.next().is_some_and(|one| one.paused) && others.next().is_none();
    alone.then_some(runners.len() as u32)
}

/// An order in which all can end, and how many of them for sure: the first whose claim
/// fits into what is free and what those before it give back, and so on. Who does not get
/// on comes after the others. Behind them those that no order lets end for sure: the one
/// that needs least first.
fn sequence(room_bytes: f32, runners: &[Runner], front: Option<usize>) -> (Vec<usize>, usize) {
    let mut left: Vec<usize> = (0..runners.len()).collect();
    // Stable: otherwise they stay in their order.
    left.sort_by_key(|&index| {
        let runner = &runners[index];
        match () {
            () if runner.settled => 0,
            () if front == Some(index) => 1,
            () if runner.moves => 2,
            () => 3,
        }
    });
    let mut sequence = Vec::with_capacity(runners.len());
    let mut free_bytes = room_bytes;
    for _ in 0..MOST_PASSES {
        let before = left.len();
        left.retain(|&index| {
            let fits = runners[index].claim_bytes() <= free_bytes;
            if fits {
                sequence.push(index);
                free_bytes += runners[index].gives_back();
            }
            !fits
        });
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    let safe = sequence.len();
    left.sort_by(|&a, &b| {
        let key = |index: usize| (front != Some(index), !runners[index].moves);
        let by_need = || runners[a].need_bytes.total_cmp(&runners[b].need_bytes);
        key(a).cmp(&key(b)).then_with(by_need)
    });
    sequence.extend(left);
    (sequence, safe)
}

/// Goes through the requests in their order.
#[derive(Default)]
struct Order {
    room_bytes: f32,
    /// Of those before.
    growth: Growth,
    most_growth: f32,
    /// What the safe order needs.
    safe_bytes: f32,
    /// What those before give back at their ends.
    given_back: f32,
    /// What those before that are paused take when they go on.
    queued_bytes: f32,
}

impl Order {
    /// The turn of the next in the order.
    fn next(&mut self, runner: &Runner, is_front: bool) -> Turn {
        let keep = self.keep_bytes();
        let mut growth = self.growth;
        for (sum, own) in growth.iter_mut().zip(&runner.growth) {
            // Who does not get on lends its place, and gives back what it holds in time.
            *sum += if runner.moves { *own } else { own.min(0.0) };
        }
        let most_growth = growth.iter().copied().fold(0.0, f32::max);
        let fits = most_growth + self.queued_bytes <= self.room_bytes;
        self.safe_bytes = (self.safe_bytes).max(runner.claim_bytes() - self.given_back);
        self.given_back += runner.gives_back();
        if runner.moves && !(is_front || runner.settled || fits) {
            return Turn::Hold;
        }
        self.growth = growth;
        self.most_growth = most_growth;
        if runner.paused {
            self.queued_bytes += runner.jump_bytes;
        }
        if let Some(ending) = runner.ending() {
            if ending == Turn::Free {
                // It takes that whatever the others do.
                self.queued_bytes += runner.need_bytes;
            }
            return ending;
        }
        // Somebody always goes on.
        Turn::Keep(if is_front { 0.0 } else { keep })
    }

    /// What the next must leave free.
    fn keep_bytes(&self) -> f32 {
        self.most_growth.max(self.safe_bytes) + self.queued_bytes
    }

    /// The same if it can end before them.
    fn least_bytes(&self) -> f32 {
        self.most_growth + self.queued_bytes
    }
}

/// Points in the future at which growth is forecast.
pub(crate) const STEPS: usize = 20;
/// What a request is expected to have grown by at each of them, in bytes.
pub(crate) type Growth = [f32; STEPS];

#[cfg(test)]
mod tests;
