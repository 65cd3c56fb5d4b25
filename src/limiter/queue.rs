//! Those who wait.
//!
//! Waiters stand in *flows*, first come first served: one for each guard, lane and
//! tenant. A *lane* is a priority, and in it the flow whose tenant was served least
//! (by its weight) is next. Everything is a list through the waiters or a tree of
//! flows, so joining, leaving and being served take the time of a tree's depth in the
//! number of flows, however many wait; those that no end could help are passed one by one.
//!
//! Tenants take turns by start-time fair queueing (Goyal, Vin and Cheng, 1996): a flow
//! that begins to wait starts at its lane's virtual time, that of the flows that were served
//! there, and is moved on by what it is served, divided by its weight. Those that name no
//! tenant are one of their guard's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::bounds::{Ask, Bounds, Need};
use super::lanes::{AGEING_ONE_IN, CRITICAL, Candidate, LANES, NEED_MORE, NESTED};
use super::list::{List, Node};
use super::tenants::TenantAccount;
use super::wait::WaitForecast;
use crate::class::Priority;
use crate::error::Reason;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) bounds: Arc<Bounds>,
    pub(super) need: Need,
    pub(super) waker: Waker,
    pub(super) state: State,
    pub(super) flow: usize,
    /// Rises with the order of arrival.
    pub(super) number: u64,
    pub(super) since_ms: u64,
    /// What it was expected to need when it joined.
    pub(super) kib: u64,
    expected_ms: Option<u64>,
    /// In its flow, or among those that were granted and not told yet.
    pub(super) in_flow: Node,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Waiting,
    /// So many KiB are reserved for it. `unclaimed_since`: when a sweep first
    /// saw it so.
    Granted {
        kib: u64,
        unclaimed_since: Option<Duration>,
    },
    Refused(Reason),
    /// It was granted, nobody came for it, and it passed on.
    PassedOn,
}

/// The waiters of one guard, lane and tenant.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) bounds: Arc<Bounds>,
    pub(super) lane: usize,
    pub(super) tenant: u16,
    pub(super) waiting: List,
    pub(super) kib: u64,
    /// What of that counts in its lane, and its weight there.
    pub(super) counted: Counted,
    /// Where it stands in its lane: what its tenant was served, and the number of its
    /// first waiter. `None`: nobody waits, or it is not to be looked at.
    pub(super) place: Option<(i64, u64)>,
    /// It waits until its tenant gives something back.
    pub(super) is_parked: bool,
    /// Not to be looked at in this round.
    pub(super) is_aside: bool,
}

/// A flow's part of its lane: of one that waits for its tenant, nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) kib: u64,
    pub(super) weight: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The places of its flows, and the flows.
    pub(super) order: BTreeSet<(i64, u64, usize)>,
    pub(super) waiting: usize,
    /// The most that a flow had been served when it was granted something here.
    pub(super) served: i64,
    /// What those wait for that do not wait for their tenants, and the weights of their flows.
    pub(super) kib: u64,
    pub(super) weights: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiters: Slab<Waiter>,
    /// Never removed: there are as many as guards, lanes and tenants.
    pub(super) flows: Vec<Flow>,
    pub(super) lanes: [Lane; LANES],
    /// The lanes' flows that may be next, by lane and when their first waiters came.
    pub(super) by_age: BTreeSet<(usize, u64, usize)>,
    pub(super) granted: List,
    /// The flows that are not to be looked at in this round.
    pub(super) aside: Vec<usize>,
    /// Of those that were granted or refused: to be woken once nothing is locked.
    pub(super) wakers: Vec<Waker>,
    waiting: usize,
    next_number: u64,
    /// KiB that the oldest waiter of a lane behind may have.
    pub(super) ageing_kib: u64,
    /// The time of the last sample, or when somebody began to wait since.
    pub(super) now_ms: u64,
    pub(super) forecast: WaitForecast,
}

impl Waiter {
    pub(super) fn ask(&self) -> Ask {
        self.need.ask(&self.bounds)
    }

    fn take_waker(&mut self) -> Waker {
        std::mem::replace(&mut self.waker, Waker::noop().clone())
    }
}

impl Flow {
    pub(super) fn account(&self) -> &TenantAccount {
        self.bounds.tenants.get(self.tenant)
    }
}

/// Those who need no bytes have a lane of their own.
pub(super) fn lane(need: Need) -> usize {
    match need {
        Need::Nested(_) => NESTED,
        Need::More { tag, .. } => CRITICAL + tag.priority.place(),
        Need::Known(_) | Need::Estimated(_) | Need::Any => match need.tag().priority {
            Priority::Critical => CRITICAL,
            other => CRITICAL + NEED_MORE + other.place(),
        },
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Never back: two threads may sample, and the later one may have looked earlier.
    pub(super) fn pass_time(&mut self, now: Duration) {
        self.now_ms = self.now_ms.max(now.as_millis() as u64);
    }

    pub(super) fn waited_ms(&self, key: usize) -> u64 {
        self.now_ms.saturating_sub(self.waiters[key].since_ms)
    }

    /// What one more waiter may expect to wait: `None` as long as nobody knows.
    pub(super) fn expected_ms(&self, bounds: &Arc<Bounds>, need: Need) -> Option<u64> {
        let own_kib = need.ask(bounds).kib;
        let own_lane = lane(need);
        let before: u64 = self.lanes[..own_lane].iter().map(|lane| lane.kib).sum();
        let lane = &self.lanes[own_lane];
        // Its tenant's own backlog, at its tenant's part of the rate; or everybody's.
        let weight = bounds.tenants.get(need.tag().tenant).weight();
        let flow = self.flow_of(bounds, own_lane, need.tag().tenant);
        let backlog_kib = flow.map_or(0, |flow| self.backlog_kib(flow));
        let own_weight = flow.map_or(0, |flow| self.flows[flow].counted.weight);
        let weights = lane.weights - own_weight + weight;
        let at_its_rate = (backlog_kib + own_kib).saturating_mul(weights) / weight.max(1);
        let ahead_kib = before + at_its_rate.min(lane.kib.max(backlog_kib) + own_kib);
        self.forecast.expected_ms(ahead_kib)
    }

    pub(super) fn flow_of(&self, bounds: &Bounds, lane: usize, tenant: u16) -> Option<usize> {
        let at = bounds.tenants.get(tenant).flows[lane].load(Ordering::Relaxed);
        at.checked_sub(1).map(|at| at as usize)
    }

    /// What a waiter will wait at least, but for one in a hundred. `None`: not known.
    pub(super) fn least_wait_ms(&self, key: usize) -> Option<u64> {
        let expected_ms = self.waiters[key].expected_ms?;
        Some(self.forecast.at_least_ms(expected_ms))
    }

    pub(super) fn join(
        &mut self,
        bounds: &Arc<Bounds>,
        need: Need,
        expected_ms: Option<u64>,
    ) -> usize {
        self.next_number += 1;
        let key = self.waiters.insert(Waiter {
            bounds: Arc::clone(bounds),
            need,
            waker: Waker::noop().clone(),
            state: State::Waiting,
            flow: 0,
            number: self.next_number,
            since_ms: self.now_ms,
            kib: 0,
            expected_ms,
            in_flow: Node::default(),
        });
        bounds.tenants.joined(need.tag().tenant);
        self.enqueue(key);
        key
    }

    /// A grant was passed on because nobody claimed it: wait again, in the same place.
    pub(super) fn rejoin(&mut self, key: usize) {
        self.waiters[key].state = State::Waiting;
        self.enqueue(key);
    }

    fn enqueue(&mut self, key: usize) {
        let waiter = &self.waiters[key];
        let (need, number, kib) = (waiter.need, waiter.number, waiter.ask().kib);
        let bounds = Arc::clone(&waiter.bounds);
        let (at, tenant) = (lane(need), need.tag().tenant);
        let flow = self.flow_of(&bounds, at, tenant).unwrap_or_else(|| {
            self.flows.push(Flow {
                bounds: Arc::clone(&bounds),
                lane: at,
                tenant,
                waiting: List::default(),
                kib: 0,
                counted: Counted::default(),
                place: None,
                is_parked: false,
                is_aside: false,
            });
            let place = &bounds.tenants.get(tenant).flows[at];
            place.store(self.flows.len() as u32, Ordering::Relaxed);
            self.flows.len() - 1
        });
        let waiter = &mut self.waiters[key];
        waiter.flow = flow;
        waiter.kib = kib;
        let older = |waiters: &Slab<Waiter>, other: usize| waiters[other].number > number;
        self.lanes[at].waiting += 1;
        let flow = &mut self.flows[flow];
        flow.waiting
            .insert(&mut self.waiters, key, |w| &mut w.in_flow, older);
        flow.kib += kib;
        if flow.waiting.len() == 1 {
            // What others were served in its lane is not owed to it. No later than those that
            // wait there: they may have got back what they were charged too much.
            let lane = &self.lanes[at];
            let last = lane.order.last().map_or(lane.served, |&(last, ..)| last);
            flow.account().catch_up(lane.served.min(last));
            self.place_all(&bounds, tenant);
        }
        self.waiting += 1;
        bounds.waiting.fetch_add(1, Ordering::Relaxed);
        let at = self.waiters[key].flow;
        // It may be within the quota where the one behind it is not.
        self.flows[at].is_parked &= !self.is_next(key);
        self.place(at);
    }

    fn take_out(&mut self, key: usize) {
        let waiter = &self.waiters[key];
        let (at, kib) = (waiter.flow, waiter.kib);
        let was_next = self.is_next(key);
        let flow = &mut self.flows[at];
        self.lanes[flow.lane].waiting -= 1;
        // The next one may be within the quota.
        flow.is_parked &= !was_next;
        flow.waiting
            .remove(&mut self.waiters, key, |w| &mut w.in_flow);
        flow.kib -= kib;
        self.waiting -= 1;
        flow.bounds.waiting.fetch_sub(1, Ordering::Relaxed);
        self.place(at);
    }

    /// Others wait for this one: it is the next of its flow. So is the oldest, which says
    /// who is.
    pub(super) fn is_next(&self, key: usize) -> bool {
        let Waiter { flow, state, .. } = self.waiters[key];
        let oldest = self.flows[flow].waiting.first();
        matches!(state, State::Waiting) && [oldest, self.next_of(flow)].contains(&Some(key))
    }

    /// Takes a waiter, or what was decided on it, out of the queue.
    pub(super) fn leave(&mut self, key: usize) -> Waiter {
        let waiter = &self.waiters[key];
        match waiter.state {
            State::Waiting => {
                let waited_ms = self.waited_ms(key);
                self.forecast.gave_up(waiter.expected_ms, waited_ms);
                self.take_out(key);
            }
            State::Granted { .. } => self.forget_grant(key),
            State::Refused(_) | State::PassedOn => {}
        }
        let left = self.waiters.remove(key);
        left.bounds.tenants.left(left.need.tag().tenant);
        left
    }

    pub(super) fn refuse(&mut self, key: usize, reason: Reason) {
        self.take_out(key);
        let waiter = &mut self.waiters[key];
        waiter.state = State::Refused(reason);
        self.wakers.push(waiter.take_waker());
    }

    pub(super) fn grant(&mut self, candidate: Candidate, kib: u64) {
        let Candidate { key, aged } = candidate;
        let waiter = &self.waiters[key];
        let at = waiter.flow;
        let waited_ms = self.waited_ms(key);
        self.forecast.granted(waiter.expected_ms, waited_ms);
        self.take_out(key);
        let lane = self.flows[at].lane;
        if lane != NESTED {
            self.advance(at);
            let flow = &self.flows[at];
            flow.account().charge(kib);
            let (bounds, tenant) = (Arc::clone(&flow.bounds), flow.tenant);
            self.place_all(&bounds, tenant);
            if aged {
                self.ageing_kib = self.ageing_kib.saturating_sub(kib);
            } else if self.aged_behind(lane.max(CRITICAL + 1)).is_none() {
                self.ageing_kib = 0;
            } else if lane > CRITICAL {
                self.ageing_kib += kib.div_ceil(AGEING_ONE_IN);
            }
        }
        let waiter = &mut self.waiters[key];
        waiter.state = State::Granted {
            kib,
            unclaimed_since: None,
        };
        self.wakers.push(waiter.take_waker());
        self.granted
            .insert(&mut self.waiters, key, |w| &mut w.in_flow, |_, _| false);
    }

    /// Nobody will come for a grant, or somebody did.
    pub(super) fn forget_grant(&mut self, key: usize) {
        self.granted
            .remove(&mut self.waiters, key, |w| &mut w.in_flow);
    }

    pub(super) fn flows_of(&self, bounds: &Arc<Bounds>) -> impl Iterator<Item = &Flow> {
        let is_theirs = |flow: &&Flow| Arc::ptr_eq(&flow.bounds, bounds);
        self.flows.iter().filter(is_theirs)
    }

    /// How long the one of a guard's waiters has waited that has waited longest.
    pub(super) fn oldest_wait_ms(&self, bounds: &Arc<Bounds>) -> u64 {
        let theirs = self.flows_of(bounds);
        let oldest = theirs.filter_map(|flow| flow.waiting.first());
        oldest.map(|key| self.waited_ms(key)).max().unwrap_or(0)
    }

    /// The waiters of one guard, oldest first in each flow.
    pub(super) fn of_guard(&self, bounds: &Arc<Bounds>) -> Vec<usize> {
        let theirs = self.flows_of(bounds);
        let mut keys: Vec<usize> = theirs
            .flat_map(|flow| flow.waiting.keys(&self.waiters, |w| &w.in_flow))
            .collect();
        keys.sort_by_key(|&key| self.waiters[key].number);
        keys
    }
}
