//! Whose turn it is.

use std::sync::Arc;
use std::time::Duration;

use super::bounds::{Ask, Bounds, Need};
use super::lanes::{CRITICAL, Candidate, LANES};
use super::queue::{Counted, Flow, Queue, State, Waiter};
use crate::units::MAX_KIB;

/// Half of what can be counted: what tenants were served is counted anew from there on.
const MOST_SERVED: i64 = i64::MAX / 2;

impl Queue {
    /// Brings a flow's place in its lane in line with what it was served and who waits.
    pub(super) fn place(&mut self, at: usize) {
        let backlog_kib = self.backlog_kib(at);
        let flow = &mut self.flows[at];
        let lane = &mut self.lanes[flow.lane];
        // Who waits for its own tenant is before nobody else.
        let counted = match flow.is_parked || flow.waiting.len() == 0 {
            true => Counted::default(),
            false => Counted {
                kib: backlog_kib,
                weight: flow.account().weight(),
            },
        };
        let before = std::mem::replace(&mut flow.counted, counted);
        lane.kib = lane.kib - before.kib + counted.kib;
        lane.weights = lane.weights - before.weight + counted.weight;
        let shown = !flow.is_parked && !flow.is_aside;
        let first = flow.waiting.first().filter(|_| shown);
        let place = first.map(|first| (flow.account().served(), self.waiters[first].number));
        if place == flow.place {
            return;
        }
        if let Some((served, number)) = std::mem::replace(&mut flow.place, place) {
            lane.order.remove(&(served, number, at));
            self.by_age.remove(&(flow.lane, number, at));
        }
        if let Some((served, number)) = place {
            lane.order.insert((served, number, at));
            self.by_age.insert((flow.lane, number, at));
        }
    }

    /// What those in a flow wait for: what they were expected to need when they joined, or as
    /// much less as its first one is by now. More it is not, since they may be of other kinds.
    pub(super) fn backlog_kib(&self, flow: usize) -> u64 {
        let flow = &self.flows[flow];
        let first = flow.waiting.first().map(|first| &self.waiters[first]);
        let estimated = first.filter(|first| matches!(first.need, Need::Estimated(_) | Need::Any));
        estimated.map_or(flow.kib, |first| {
            let by_now = u128::from(flow.kib) * u128::from(first.ask().kib);
            flow.kib.min((by_now / u128::from(first.kib.max(1))) as u64)
        })
    }

    pub(super) fn place_all(&mut self, bounds: &Bounds, tenant: u16) {
        for lane in 0..LANES {
            if let Some(flow) = self.flow_of(bounds, lane, tenant) {
                self.place(flow);
            }
        }
    }

    /// A lane's virtual time is that of the flow that is served now, and never goes back: one
    /// that was held back is behind the others, and who begins is not to be.
    pub(super) fn advance(&mut self, flow: usize) {
        let flow = &self.flows[flow];
        let lane = &mut self.lanes[flow.lane];
        lane.served = lane.served.max(flow.account().served());
        let served = lane.served;
        if served < MOST_SERVED {
            return;
        }
        // Years of it, or days of much memory: where counts end all would be alike.
        for flow in &self.flows {
            let is_theirs = |lane| self.flow_of(&flow.bounds, lane, flow.tenant).is_some();
            // An account has several flows, and goes back once.
            if !(0..flow.lane).any(is_theirs) {
                flow.account().go_back(served);
            }
        }
        for lane in &mut self.lanes {
            lane.served = lane.served.saturating_sub(served);
        }
        (0..self.flows.len()).for_each(|at| self.place(at));
    }

    /// A request of a tenant's has ended: what it took more or less than was expected
    /// counts from now on.
    pub(super) fn account(&mut self, bounds: &Bounds, tenant: u16) {
        if bounds.tenants.get(tenant).fold() {
            self.place_all(bounds, tenant);
        }
    }

    /// The first waiter of the flow that is next in a lane.
    pub(super) fn next_in(&mut self, at: usize) -> Option<Candidate> {
        let aged = match self.ageing_kib {
            0 => None,
            _ => self.aged_behind(at),
        };
        let has_saved = |aged: &Candidate| self.ageing_kib >= self.waiters[aged.key].ask().kib;
        if let Some(aged) = aged.filter(has_saved) {
            return Some(aged);
        }
        let &(_, _, flow) = self.lanes[at].order.first()?;
        let (key, aged) = (self.next_of(flow)?, false);
        Some(Candidate { key, aged })
    }

    /// Who is next in a flow: the oldest, or the newest if the oldest has waited too long
    /// for that.
    pub(super) fn next_of(&self, flow: usize) -> Option<usize> {
        let waiting = &self.flows[flow].waiting;
        match self.goes_newest_first(flow) {
            true => waiting.last(),
            false => waiting.first(),
        }
    }

    /// The one behind it in its flow: the next older one, where the newest goes first.
    pub(super) fn behind(&self, candidate: Candidate) -> Option<Candidate> {
        let Candidate { key, aged } = candidate;
        let Waiter { in_flow, flow, .. } = self.waiters[key];
        let key = match !aged && self.goes_newest_first(flow) {
            true => in_flow.previous()?,
            false => in_flow.next()?,
        };
        Some(Candidate { key, aged })
    }

    /// The oldest waiter of the lanes behind whose turn may come, if it has waited for long.
    pub(super) fn aged_behind(&self, at: usize) -> Option<Candidate> {
        if at <= CRITICAL {
            return None;
        }
        // Those that wait for their tenants are not among them.
        let firsts = (at + 1..LANES).filter_map(|lane| {
            let mut of_lane = self.by_age.range((lane, 0, 0)..(lane + 1, 0, 0));
            of_lane.next()
        });
        let &(_, _, flow) = firsts.min_by_key(|&&(_, number, _)| number)?;
        let key = self.flows[flow].waiting.first()?;
        let aged = self.waited_ms(key) >= self.flows[flow].bounds.ages_after_ms();
        aged.then_some(Candidate { key, aged })
    }

    /// The flow waits until its tenant gives something back.
    pub(super) fn park(&mut self, candidate: Candidate) {
        let flow = self.waiters[candidate.key].flow;
        self.flows[flow].is_parked = true;
        self.passed_over(candidate, flow);
    }

    /// Not in this round: its guard holds it back.
    pub(super) fn set_aside(&mut self, candidate: Candidate) {
        let flow = self.waiters[candidate.key].flow;
        self.flows[flow].is_aside = true;
        self.passed_over(candidate, flow);
        self.aside.push(flow);
    }

    pub(super) fn put_back(&mut self) {
        for flow in std::mem::take(&mut self.aside) {
            self.flows[flow].is_aside = false;
            self.place(flow);
        }
    }

    fn passed_over(&mut self, candidate: Candidate, flow: usize) {
        if candidate.aged {
            self.ageing_kib = 0;
        }
        self.place(flow);
    }

    /// A tenant gave something back: its flows are looked at again.
    pub(super) fn unpark(&mut self, bounds: &Bounds, tenant: u16) {
        for lane in 0..LANES {
            if let Some(flow) = self.flow_of(bounds, lane, tenant) {
                self.unpark_flow(flow);
            }
        }
        bounds.tenants.get(tenant).clear_parked();
    }

    fn unpark_flow(&mut self, flow: usize) {
        if std::mem::take(&mut self.flows[flow].is_parked) {
            self.place(flow);
        }
    }

    /// Quotas may have changed: all are looked at again.
    pub(super) fn unpark_all(&mut self) {
        (0..self.flows.len()).for_each(|flow| self.unpark_flow(flow));
    }

    /// What the oldest of a guard's waiters in its foremost lane asks for.
    pub(super) fn next_ask(&self, bounds: &Arc<Bounds>) -> Option<Ask> {
        // Nobody whose tenant holds it back, nor who needs no bytes.
        let &(_, _, flow) = self.by_age.range((CRITICAL, 0, 0)..).next()?;
        let first = &self.waiters[self.flows[flow].waiting.first()?];
        match Arc::ptr_eq(&first.bounds, bounds) {
            true => Some(first.ask()),
            // Another guard's stands before it.
            false => self.oldest_of(bounds, Some(MAX_KIB)).map(|(_, ask)| ask),
        }
    }

    /// The oldest of a guard's waiters in its foremost lane, of those that need bytes, surely
    /// no more than `most_kib`, and do not wait for their tenant. `None`: of all.
    pub(super) fn oldest_of(
        &self,
        bounds: &Arc<Bounds>,
        most_kib: Option<u64>,
    ) -> Option<(usize, Ask)> {
        let flows = self.flows_of(bounds);
        let needs_bytes = |flow: &&Flow| flow.lane >= CRITICAL && !flow.is_parked;
        let may_go = flows.filter(|flow| most_kib.is_none() || needs_bytes(flow));
        let firsts = may_go.filter_map(|flow| {
            let waiters = flow.waiting.keys(&self.waiters, |w| &w.in_flow);
            let mut asks = waiters.map(|key| (key, self.waiters[key].ask()));
            let (key, ask) =
                asks.find(|(_, ask)| most_kib.is_none_or(|most| ask.low_kib <= most))?;
            Some((flow.lane, self.waiters[key].number, key, ask))
        });
        let (_, _, key, ask) = firsts.min_by_key(|&(lane, number, ..)| (lane, number))?;
        Some((key, ask))
    }

    /// Whose place a waiter may take that comes to a full queue: the newest of the
    /// flow that is longest for its weight, if it is behind it or in its lane. `None`:
    /// the one that comes is it.
    pub(super) fn displaced_by(&self, key: usize) -> Option<usize> {
        let comes = &self.flows[self.waiters[key].flow];
        // The products order as the quotients do.
        let by_length = |a: &Flow, b: &Flow| {
            let length =
                |flow: &Flow, other: &Flow| flow.waiting.len() as u64 * other.account().weight();
            length(a, b).cmp(&length(b, a))
        };
        // Its own is among them, so it is in no lane before that.
        let theirs = self.flows_of(&comes.bounds);
        let longest = theirs
            .filter(|flow| flow.waiting.len() > 0)
            .max_by(|a, b| a.lane.cmp(&b.lane).then(by_length(a, b)))?;
        // One in its lane that is no longer, such as its own, does not give way.
        let gives_way = longest.lane > comes.lane || by_length(longest, comes).is_gt();
        longest.waiting.last().filter(|_| gives_way)
    }

    /// The oldest of a flow has waited so long that the newest goes first.
    pub(super) fn goes_newest_first(&self, flow: usize) -> bool {
        let flow = &self.flows[flow];
        let after_ms = flow.bounds.newest_after_ms.get();
        let first = flow.waiting.first();
        (first.zip(after_ms)).is_some_and(|(first, after_ms)| self.waited_ms(first) > after_ms)
    }

    /// Grants that nobody came for since an earlier sweep, which now pass on.
    pub(super) fn unclaimed(
        &mut self,
        now: Duration,
        within: Duration,
    ) -> Vec<(Arc<Bounds>, u64, Need)> {
        let mut late = Vec::new();
        let mut next = self.granted.first();
        while let Some(key) = next {
            let waiter = &mut self.waiters[key];
            next = waiter.in_flow.next();
            if let State::Granted {
                kib,
                unclaimed_since,
            } = &mut waiter.state
            {
                let since = *unclaimed_since.get_or_insert(now);
                if now.saturating_sub(since) >= within {
                    late.push((Arc::clone(&waiter.bounds), *kib, waiter.need));
                    waiter.state = State::PassedOn;
                    self.forget_grant(key);
                }
            }
        }
        late
    }
}
