//! Those who wait, oldest first.
//!
//! A waiter is known by its ticket number. It is either waiting, or settled
//! (granted or refused) and not yet told. Numbers rise, so the order of the
//! map is the order of arrival, and a waiter that is put back keeps its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::bounds::{Bounds, Need};
use crate::error::Reason;

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) bounds: Arc<Bounds>,
    pub(super) need: Need,
    pub(super) waker: Waker,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Settled {
    /// So many KiB are reserved for it. `unclaimed_since`: when a sweep first
    /// saw it so.
    Granted {
        kib: u64,
        unclaimed_since: Option<Duration>,
    },
    Refused(Reason),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) settled: HashMap<u64, (Arc<Bounds>, Settled)>,
    next_ticket: u64,
}

impl Queue {
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Moves a waiter to the settled ones and hands out its waker.
    pub(super) fn settle(&mut self, ticket: u64, outcome: Settled) -> Option<Waker> {
        let waiter = self.waiting.remove(&ticket)?;
        self.settled.insert(ticket, (waiter.bounds, outcome));
        Some(waiter.waker)
    }

    /// [`settle`](Self::settle)s a waiter for whom `kib` were reserved.
    pub(super) fn grant(&mut self, ticket: u64, kib: u64) -> Option<Waker> {
        let unclaimed_since = None;
        self.settle(
            ticket,
            Settled::Granted {
                kib,
                unclaimed_since,
            },
        )
    }

    /// What was decided on a ticket, once.
    pub(super) fn take_settled(&mut self, ticket: u64) -> Option<Settled> {
        self.settled.remove(&ticket).map(|(_, outcome)| outcome)
    }

    /// How many wait for the guard with these bounds.
    pub(super) fn waiting_for(&self, bounds: &Arc<Bounds>) -> usize {
        self.waiting
            .values()
            .filter(|waiter| Arc::ptr_eq(&waiter.bounds, bounds))
            .count()
    }
}
