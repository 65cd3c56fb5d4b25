//! Every interleaving of a few threads, under loom.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::thread::{self, JoinHandle};

use super::wait_tests::{IN_TIME, Ticket};
use super::*;
use crate::class::Quota;
use crate::units::MAX_KIB;

const ASK: Ask = Ask::exactly(10, Tag::NONE);

/// A guard, and its ledger.
#[derive(Clone)]
struct Bed {
    limiter: Arc<Limiter>,
    bounds: Arc<Bounds>,
}

impl Bed {
    fn new(count: u32, kib: u64) -> Self {
        Self::on(Arc::<Limiter>::default(), count, kib)
    }

    fn on(limiter: Arc<Limiter>, count: u32, kib: u64) -> Self {
        let bounds = limiter.join(Arc::default());
        let bed = Self { limiter, bounds };
        bed.publish(count, kib);
        bed
    }

    /// What a regulator does after a sample.
    fn publish(&self, count: u32, kib: u64) {
        let caps = Caps::new(false, count, kib);
        self.bounds.publish(caps, MAX_KIB, 0);
        self.limiter.pump();
    }

    fn reserve(&self, ask: Ask) -> Result<bool, Refused> {
        self.limiter
            .try_reserve(&self.bounds, ask, Operation::Newcomer, Attempt::First)
    }

    fn cancel(&self, ask: Ask) {
        self.limiter.cancel(&self.bounds, ask.kib, ask.tag);
    }

    fn join(&self, ask: Ask) -> Ticket {
        Ticket::join(&self.limiter, &self.bounds, Need::Known(ask), IN_TIME).unwrap()
    }

    fn spawn<T>(&self, work: impl FnOnce(&Self) -> T + 'static) -> JoinHandle<T>
    where
        T: 'static,
    {
        let bed = self.clone();
        thread::spawn(move || work(&bed))
    }

    /// Who waits is let in, and ends; then nothing is left.
    fn serve_last(&self, mut ticket: Ticket, ask: Ask) {
        let granted = ticket.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(granted, Poll::Ready(Ok(10)));
        self.cancel(ask);
        drop(ticket);
        self.assert_empty();
    }

    fn assert_empty(&self) {
        let reserved = self.limiter.reserved();
        assert_eq!(
            (reserved.count(), reserved.kib(), reserved.has_waiters()),
            (0, 0, false)
        );
        assert_eq!(self.limiter.waiting(), 0);
    }
}

/// Somebody begins to wait meanwhile, who is let in whatever is seen first.
fn is_never_lost(bed: &Bed, ask: Ask, meanwhile: fn(&Bed, Ask)) {
    let other = bed.spawn(move |bed| meanwhile(bed, ask));
    let ticket = bed.join(ask);
    other.join().unwrap();
    bed.serve_last(ticket, ask);
}

fn try_too_much(bed: &Bed, ask: Ask) {
    assert!(bed.reserve(Ask { kib: 11, ..ask }).is_err());
}

#[test]
fn a_release_is_never_lost_to_somebody_who_begins_to_wait() {
    loom::model(|| {
        let bed = Bed::new(1, 10);
        bed.reserve(ASK).unwrap();
        is_never_lost(&bed, ASK, Bed::cancel);
    });
}

#[test]
fn two_newcomers_never_both_get_the_last_place() {
    loom::model(|| {
        let bed = Bed::new(1, 10);
        let other = bed.spawn(|bed| bed.reserve(ASK).is_ok());
        let here = bed.reserve(ASK).is_ok();
        let there = other.join().unwrap();
        assert!(here ^ there, "exactly one gets it");
        bed.cancel(ASK);
        bed.assert_empty();
    });
}

#[test]
fn a_grant_that_races_with_giving_up_goes_to_the_next() {
    loom::model(|| {
        let bed = Bed::new(1, 10);
        bed.reserve(ASK).unwrap();
        let (first, second) = (bed.join(ASK), bed.join(ASK));
        let other = bed.spawn(|bed| bed.cancel(ASK));
        drop(first);
        other.join().unwrap();
        bed.serve_last(second, ASK);
    });
}

#[test]
fn bounds_that_widen_reach_somebody_who_begins_to_wait() {
    loom::model(|| {
        let bed = Bed::new(1, 0);
        is_never_lost(&bed, ASK, |bed, _| bed.publish(1, 10));
    });
}

#[test]
fn a_count_that_was_raised_for_a_moment_keeps_nobody_waiting() {
    loom::model(|| {
        let first = Bed::new(1, 10);
        // Its count is its own.
        let bed = Bed::on(Arc::clone(&first.limiter), 1, 10);
        is_never_lost(&bed, ASK, try_too_much);
    });
}

#[test]
fn a_quota_that_was_used_for_a_moment_keeps_nobody_waiting() {
    loom::model(|| {
        let bed = Bed::new(9, 10);
        bed.bounds
            .tenants
            .make(1)
            .entitle(Quota::default().at_most(1));
        let tag = Tag::of_tenant(1);
        is_never_lost(&bed, Ask { tag, ..ASK }, try_too_much);
    });
}

#[test]
fn of_two_guards_whose_work_begins_at_once_one_gets_the_sampler_up() {
    loom::model(|| {
        let first = Bed::new(1, 100);
        let second = Bed::on(Arc::clone(&first.limiter), 1, 100);
        let other = second.spawn(|bed| bed.reserve(ASK));
        let here = first.reserve(ASK).unwrap();
        let there = other.join().unwrap().unwrap();
        assert!(here || there);
    });
}
