use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};
use std::task::{Context, Poll, Wake, Waker};

use super::wait_tests::{IN_TIME, Ticket};
use super::word::InUse;
use super::*;
use crate::class::tag::ClassKey;
use crate::class::{Priority, Quota};
use crate::units::MAX_KIB;

fn ask(kib: u64) -> Ask {
    Ask::exactly(kib, Tag::NONE)
}

pub(super) fn limiter(count: u32, kib: u64) -> (Arc<Limiter>, Arc<Bounds>) {
    let limiter = Arc::<Limiter>::default();
    let bounds = limiter.join(Arc::default());
    publish(&limiter, &bounds, Caps::new(false, count, kib), MAX_KIB, 0);
    (limiter, bounds)
}

/// What a regulator does after a sample.
pub(super) fn publish(
    limiter: &Limiter,
    bounds: &Bounds,
    caps: Caps,
    refresh_kib: u64,
    free_kib: u64,
) {
    bounds.publish(caps, refresh_kib, free_kib);
    limiter.pump();
}

/// Another guard has its bytes.
fn nest(limiter: &Limiter, bounds: &Bounds) -> Result<bool, Refused> {
    limiter.try_reserve(bounds, ask(0), Operation::Nested, Attempt::First)
}

pub(super) fn admit(limiter: &Limiter, bounds: &Bounds, kib: u64) -> Result<bool, Refused> {
    limiter.try_reserve(bounds, ask(kib), Operation::Newcomer, Attempt::First)
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, StdOrdering::Relaxed);
    }
}

pub(super) struct Waiter {
    ticket: Ticket,
    woken: Arc<Woken>,
    /// What the first look said.
    first: Option<Poll<Result<u64, Reason>>>,
}

impl Waiter {
    pub(super) fn join(limiter: &Arc<Limiter>, bounds: &Arc<Bounds>, kib: u64) -> Self {
        Self::with(limiter, bounds, Need::Known(ask(kib)))
    }

    fn with(limiter: &Arc<Limiter>, bounds: &Arc<Bounds>, need: Need) -> Self {
        let ticket = Ticket::join(limiter, bounds, need, IN_TIME).unwrap();
        let woken = Arc::default();
        let mut waiter = Self {
            ticket,
            woken,
            first: None,
        };
        waiter.first = Some(waiter.poll());
        waiter
    }

    pub(super) fn poll(&mut self) -> Poll<Result<u64, Reason>> {
        if let Some(Poll::Ready(outcome)) = self.first.take() {
            return Poll::Ready(outcome);
        }
        self.ticket
            .poll(&mut Context::from_waker(&Waker::from(Arc::clone(
                &self.woken,
            ))))
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(StdOrdering::Relaxed) > 0
    }
}

#[test]
fn the_word_holds_its_greatest_values_side_by_side() {
    let parts = |word: Caps| (word.is_shut(), word.count(), word.kib());
    let greatest = Caps::new(true, MAX_COUNT, MAX_KIB);
    assert_eq!(parts(greatest), (true, MAX_COUNT, MAX_KIB));
    let clamped = Caps::new(false, u32::MAX, u64::MAX);
    assert_eq!(parts(clamped), (false, MAX_COUNT, MAX_KIB));
}

#[test]
fn count_and_bytes_each_bind() {
    let (limiter, bounds) = limiter(2, 100);
    assert_eq!(admit(&limiter, &bounds, 40), Ok(true));
    assert_eq!(admit(&limiter, &bounds, 61), Err(Refused::Bytes));
    assert_eq!(admit(&limiter, &bounds, 60), Ok(false));
    assert_eq!(admit(&limiter, &bounds, 1), Err(Refused::Count));
    limiter.cancel(&bounds, 60, Tag::NONE);
    limiter.cancel(&bounds, 40, Tag::NONE);
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
}

#[test]
fn what_the_word_cannot_count_is_refused_where_nothing_is_bounded() {
    let (limiter, bounds) = limiter(MAX_COUNT, MAX_KIB);
    bounds.tenants.make(1);
    let of_tenant = |kib| Ask {
        tag: Tag::of_tenant(1),
        ..ask(kib)
    };
    let force = |kib| {
        let (newcomer, force) = (Operation::Newcomer, Attempt::PastBounds);
        limiter.try_reserve(&bounds, of_tenant(kib), newcomer, force)
    };
    assert_eq!(force(MAX_KIB), Ok(true));
    assert_eq!(force(1), Err(Refused::Quota), "nor can its tenant's");
    assert_eq!(admit(&limiter, &bounds, 1), Err(Refused::Bytes));
    let grown = limiter.try_reserve(&bounds, ask(1), Operation::Growth, Attempt::PastBounds);
    assert_eq!(grown, Err(Refused::Bytes));
}

#[test]
fn with_nothing_in_flight_the_least_need_is_enough() {
    let (limiter, bounds) = limiter(10, 100);
    publish(&limiter, &bounds, Caps::new(false, 10, 100), MAX_KIB, 50);
    let admit = |low_kib| {
        let ask = Ask {
            low_kib,
            ..ask(300)
        };
        limiter.try_reserve(&bounds, ask, Operation::Newcomer, Attempt::First)
    };
    assert_eq!(admit(50), Ok(true));
    assert_eq!(admit(50), Err(Refused::Bytes));
    limiter.cancel(&bounds, 300, Tag::NONE);
    assert_eq!(admit(51), Err(Refused::Bytes));
}

#[test]
fn a_stale_sample_must_be_refreshed_first() {
    let (limiter, bounds) = limiter(10, 100);
    publish(&limiter, &bounds, Caps::new(false, 10, 100), 50, 0);
    assert_eq!(admit(&limiter, &bounds, 50), Ok(true));
    assert_eq!(admit(&limiter, &bounds, 10), Err(Refused::Stale));
    assert_eq!(
        limiter.try_reserve(&bounds, ask(10), Operation::Newcomer, Attempt::Resampled),
        Ok(false)
    );
}

#[test]
fn nobody_overtakes_and_the_oldest_goes_first() {
    let (limiter, bounds) = limiter(10, 100);
    admit(&limiter, &bounds, 80).unwrap();
    let mut large = Waiter::join(&limiter, &bounds, 90);
    let mut small = Waiter::join(&limiter, &bounds, 10);
    // It would fit, but somebody was here first.
    assert_eq!(admit(&limiter, &bounds, 10), Err(Refused::Waiters));
    assert_eq!(small.poll(), Poll::Pending);
    limiter.cancel(&bounds, 80, Tag::NONE);
    assert!(large.is_woken() && small.is_woken());
    assert_eq!(large.poll(), Poll::Ready(Ok(90)));
    assert_eq!(small.poll(), Poll::Ready(Ok(10)));
    assert_eq!(limiter.reserved(), InUse::new(false, 2, 100));
}

#[test]
fn a_waiter_that_gives_up_lets_those_behind_it_in() {
    let (limiter, bounds) = limiter(10, 100);
    admit(&limiter, &bounds, 80).unwrap();
    let large = Waiter::join(&limiter, &bounds, 90);
    let mut small = Waiter::join(&limiter, &bounds, 10);
    drop(large);
    assert_eq!(small.poll(), Poll::Ready(Ok(10)));
    assert_eq!(limiter.waiting(), 0);
}

#[test]
fn a_dropped_grant_goes_to_the_next() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let first = Waiter::join(&limiter, &bounds, 10);
    let mut second = Waiter::join(&limiter, &bounds, 10);
    limiter.cancel(&bounds, 10, Tag::NONE);
    assert_eq!(second.poll(), Poll::Pending);
    drop(first);
    assert_eq!(second.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn an_unclaimed_grant_passes_on_and_its_owner_keeps_its_place() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let mut parked = Waiter::join(&limiter, &bounds, 10);
    let mut next = Waiter::join(&limiter, &bounds, 10);
    limiter.cancel(&bounds, 10, Tag::NONE);
    limiter.pass_on_unclaimed(Duration::from_secs(1));
    limiter.pass_on_unclaimed(Duration::from_millis(1400));
    assert_eq!(next.poll(), Poll::Pending);
    limiter.pass_on_unclaimed(Duration::from_millis(1500));
    assert_eq!(next.poll(), Poll::Ready(Ok(10)));

    let mut last = Waiter::join(&limiter, &bounds, 10);
    assert_eq!(parked.poll(), Poll::Pending);
    limiter.cancel(&bounds, 10, Tag::NONE);
    assert_eq!(last.poll(), Poll::Pending);
    assert_eq!(parked.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn a_parked_waiter_finds_free_memory_at_its_first_look() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let mut parked = Waiter::join(&limiter, &bounds, 10);
    limiter.cancel(&bounds, 10, Tag::NONE);
    limiter.pass_on_unclaimed(Duration::from_secs(1));
    limiter.pass_on_unclaimed(Duration::from_secs(2));
    assert_eq!(limiter.reserved().count(), 0);
    assert_eq!(parked.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn a_waiter_asks_for_what_is_estimated_when_its_turn_comes() {
    let (limiter, bounds) = limiter(10, 100);
    bounds.set_unknown(80, 80);
    admit(&limiter, &bounds, 80).unwrap();
    let join = || Ticket::join(&limiter, &bounds, Need::Estimated(Tag::NONE), IN_TIME).unwrap();
    let (_first, _second) = (join(), join());
    // Requests turn out to be smaller.
    bounds.set_estimate(Tag::NONE.key, 10, 10);
    limiter.pump();
    assert_eq!(limiter.reserved(), InUse::new(false, 3, 100));
}

#[test]
fn what_requests_with_a_hint_ask_for_follows_their_hints() {
    let bounds = Bounds::new(GuardCount::InWord, Arc::default());
    let key = ClassKey::new(0, true);
    bounds.set_estimate(key, 100, 50);
    let estimated = |hint_mib: u32| {
        let ask = bounds.estimate(Tag {
            key,
            hint_kib: NonZeroU32::new(hint_mib << 10),
            ..Tag::NONE
        });
        (ask.kib, ask.low_kib)
    };
    assert_eq!(estimated(0), (100, 50), "without one");
    assert_eq!(estimated(16), (100, 50), "what is learned is for 16 MiB");
    assert_eq!(estimated(32), (200, 100));
    assert_eq!(estimated(4), (25, 12));
}

#[test]
fn each_probe_is_for_one_request_that_surely_fits() {
    let bounds = Bounds::new(GuardCount::InWord, Arc::default());
    bounds.publish(Caps::new(true, 0, 0), 0, 50);
    assert!(!bounds.take_probe(50));
    bounds.set_probes(2);
    assert!(!bounds.take_probe(51));
    assert_eq!(bounds.probes(), 2);
    assert!(bounds.take_probe(50) && bounds.take_probe(0));
    assert_eq!(bounds.probes(), 0);
    assert!(!bounds.take_probe(0));
}

#[test]
fn the_queue_is_bounded() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    bounds.set_most_waiting(1);
    let _one = Ticket::join(&limiter, &bounds, Need::Known(ask(10)), IN_TIME).unwrap();
    let full = Ticket::join(&limiter, &bounds, Need::Known(ask(10)), IN_TIME);
    assert_eq!(full.unwrap_err().reason, Reason::QueueFull);
}

#[test]
fn wider_bounds_let_waiters_in() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let mut waiter = Waiter::join(&limiter, &bounds, 10);
    publish(&limiter, &bounds, Caps::new(false, 2, 100), MAX_KIB, 0);
    assert!(waiter.is_woken());
    assert_eq!(waiter.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn guards_on_one_ledger_share_bytes_and_have_counts_of_their_own() {
    let (limiter, first) = limiter(2, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 1, 100), MAX_KIB, 0);
    admit(&limiter, &first, 40).unwrap();
    admit(&limiter, &second, 40).unwrap();
    assert_eq!(
        (limiter.in_flight(&first), limiter.in_flight(&second)),
        (1, 1)
    );
    // One guard's full count does not hold up the other's waiters.
    let mut held_up = Waiter::join(&limiter, &second, 10);
    let mut other = Waiter::join(&limiter, &first, 10);
    assert_eq!(held_up.poll(), Poll::Pending);
    assert_eq!(other.poll(), Poll::Ready(Ok(10)));
    limiter.cancel(&second, 40, Tag::NONE);
    assert_eq!(held_up.poll(), Poll::Ready(Ok(10)));
}

#[test]
fn what_another_guard_admitted_does_not_wait_behind_those_who_wait_for_its_bytes() {
    let (limiter, outer) = limiter(10, 100);
    let inner = limiter.join(Arc::default());
    publish(&limiter, &inner, Caps::new(false, 1, 100), MAX_KIB, 0);
    admit(&limiter, &outer, 80).unwrap();
    let mut waiting = Waiter::join(&limiter, &outer, 80);
    assert_eq!(waiting.poll(), Poll::Pending);
    // The first request reaches the inner guard while another waits.
    assert!(nest(&limiter, &inner).is_ok());
    assert_eq!(limiter.all_in_flight(), 1);
    // And the next, which has its bytes too, waits for the count alone.
    assert_eq!(nest(&limiter, &inner), Err(Refused::Count));
    let mut nested = Waiter::with(&limiter, &inner, Need::Nested(Tag::NONE));
    assert_eq!(nested.poll(), Poll::Pending);
    limiter.end_nested(&inner, Tag::NONE);
    assert_eq!(nested.poll(), Poll::Ready(Ok(0)));
}

#[test]
fn what_can_never_fit_now_does_not_hold_up_an_idle_service() {
    let (limiter, bounds) = limiter(10, 100);
    let mut large = Waiter::join(&limiter, &bounds, 150);
    assert_eq!(large.poll(), Poll::Pending);
    let mut small = Waiter::join(&limiter, &bounds, 10);
    assert_eq!(small.poll(), Poll::Ready(Ok(10)));
    assert_eq!(large.poll(), Poll::Pending);
}

#[test]
fn waiters_of_one_guard_do_not_make_another_full() {
    let (limiter, first) = limiter(1, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 5, 100), MAX_KIB, 0);
    admit(&limiter, &first, 10).unwrap();
    let mut held_up = Waiter::join(&limiter, &first, 10);
    assert_eq!(admit(&limiter, &second, 10), Err(Refused::Waiters));
    // Even where nobody may wait.
    second.set_most_waiting(0);
    let reserved = limiter.reserve_in_turn(&second, Need::Known(ask(10)));
    assert_eq!(reserved, Some(10));
    assert_eq!(held_up.poll(), Poll::Pending);
}

#[test]
fn closing_answers_every_waiter_of_one_guard() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let mut waiters: Vec<_> = (0..3)
        .map(|_| Waiter::join(&limiter, &bounds, 10))
        .collect();
    limiter.refuse_all(&bounds, Reason::Closed);
    for waiter in &mut waiters {
        assert!(waiter.is_woken());
        assert_eq!(waiter.poll(), Poll::Ready(Err(Reason::Closed)));
    }
    limiter.cancel(&bounds, 10, Tag::NONE);
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
}

#[test]
fn what_was_used_is_free_again_once_a_sample_shows_it() {
    let (limiter, bounds) = limiter(9, 100);
    admit(&limiter, &bounds, 80).unwrap();
    let mut waiter = Waiter::join(&limiter, &bounds, 60);
    // The allocator may keep what was freed: nobody gets it yet.
    assert!(
        limiter.complete(&bounds, 80, Tag::NONE),
        "somebody waits for a sample"
    );
    assert!(waiter.poll().is_pending());
    // Nor while the sample is taken: the bounds are still those of the one before.
    let ended_kib = limiter.ended_kib();
    publish(&limiter, &bounds, Caps::new(false, 9, 100), MAX_KIB, 0);
    assert!(waiter.poll().is_pending());
    limiter.confirm_freed(ended_kib);
    limiter.pump();
    assert!(waiter.poll().is_ready());
    // What was never used is free at once.
    limiter.cancel(&bounds, 60, Tag::NONE);
    admit(&limiter, &bounds, 90).unwrap();
}

#[test]
fn a_reservation_grows_within_the_bounds_or_by_force() {
    let (limiter, bounds) = limiter(9, 100);
    admit(&limiter, &bounds, 60).unwrap();
    let grow = |kib, tag, attempt| {
        let ask = Ask { tag, ..ask(kib) };
        limiter.try_reserve(&bounds, ask, Operation::Growth, attempt)
    };
    assert!(grow(40, Tag::NONE, Attempt::First).is_ok());
    assert!(grow(1, Tag::NONE, Attempt::First).is_err());
    assert!(grow(50, Tag::NONE, Attempt::PastBounds).is_ok());
    assert_eq!(limiter.reserved(), InUse::new(false, 1, 150));
    let tenant = bounds.tenants.make(1);
    let tag = Tag::of_tenant(1);
    assert!(grow(10, tag, Attempt::PastBounds).is_ok());
    assert_eq!(tenant.held().kib(), 10, "its tenant's, too");
    limiter.complete(&bounds, 160, Tag::NONE);
    assert_eq!(limiter.reserved(), InUse::new(false, 0, 0));
}

#[test]
fn whoever_begins_finds_that_nothing_was_in_flight_in_each_guard_of_a_ledger() {
    let (limiter, first) = limiter(9, 100);
    let second = limiter.join(Arc::default());
    publish(&limiter, &second, Caps::new(false, 9, 100), MAX_KIB, 0);
    for bounds in [&first, &second] {
        // It is what gets the sampler up.
        assert_eq!(admit(&limiter, bounds, 10), Ok(true));
        for next in [&first, &second] {
            assert_eq!(admit(&limiter, next, 10), Ok(false));
            limiter.cancel(next, 10, Tag::NONE);
        }
        limiter.cancel(bounds, 10, Tag::NONE);
    }
}

#[test]
fn a_reservation_becomes_one_for_what_it_turns_out_to_be_for() {
    let (limiter, bounds) = limiter(9, 100);
    bounds.set_limit(100);
    let tenant = bounds.tenants.make(1);
    tenant.entitle(Quota::up_to(0.9));
    let ask = |kib| Ask {
        tag: Tag::of_tenant(1),
        ..ask(kib)
    };
    let reserved = || (limiter.reserved().kib(), tenant.held().kib());
    let retag = |held_kib, ask| {
        let retagged = limiter.retag(&bounds, held_kib, ask, Attempt::First);
        retagged.is_ok()
    };
    admit(&limiter, &bounds, 60).unwrap();
    assert!(retag(60, ask(80)));
    assert_eq!(reserved(), (80, 80));
    // More than there is, and more than its tenant's.
    admit(&limiter, &bounds, 10).unwrap();
    assert!(!retag(10, ask(11)));
    limiter.cancel(&bounds, 80, ask(80).tag);
    admit(&limiter, &bounds, 10).unwrap();
    assert!(retag(10, ask(10)));
    assert!(!retag(10, ask(90)));
    assert_eq!(reserved(), (20, 10));
    // What is left over goes to who waits.
    let mut waiter = Waiter::join(&limiter, &bounds, 85);
    assert!(retag(10, ask(5)));
    assert_eq!(waiter.poll(), Poll::Ready(Ok(85)));
    assert_eq!(reserved(), (100, 15));
    // Nothing more is needed, so that less is allowed does not matter.
    publish(&limiter, &bounds, Caps::new(false, 9, 50), MAX_KIB, 0);
    let of_nobody = Ask {
        tag: Tag::NONE,
        ..ask(85)
    };
    assert!(retag(85, of_nobody));
}

#[test]
fn a_sample_is_asked_for_only_where_bytes_are_waited_for() {
    let (limiter, bounds) = limiter(1, 100);
    admit(&limiter, &bounds, 10).unwrap();
    let _waiters = [(); 2].map(|()| Waiter::join(&limiter, &bounds, 10));
    assert!(!limiter.complete(&bounds, 10, Tag::NONE), "for the count");
    publish(&limiter, &bounds, Caps::new(false, 9, 20), MAX_KIB, 0);
    assert!(limiter.complete(&bounds, 10, Tag::NONE), "for bytes");
}

#[test]
fn where_no_work_has_begun_the_least_need_is_enough_beside_the_other_bodies() {
    let (limiter, bounds) = limiter(10, 100);
    publish(&limiter, &bounds, Caps::new(false, 10, 100), MAX_KIB, 150);
    for _ in 0..2 {
        admit(&limiter, &bounds, 40).unwrap();
        limiter.stage();
        limiter.stage_read(100);
    }
    let more = |low_kib| {
        let ask = Ask {
            low_kib,
            ..ask(200)
        };
        limiter.try_reserve(
            &bounds,
            ask,
            Operation::Rest { held_kib: 40 },
            Attempt::First,
        )
    };
    assert_eq!(more(111), Err(Refused::Bytes));
    assert_eq!(more(110), Ok(false));
    limiter.cancel(&bounds, 240, Tag::NONE);
    limiter.unstage(100);
    let OpenBodies {
        requests,
        read_bytes,
    } = limiter.staged();
    assert_eq!((requests, read_bytes), (1, 100));
    // Work that has begun will end.
    admit(&limiter, &bounds, 40).unwrap();
    assert_eq!(more(110), Err(Refused::Bytes));
}

#[test]
fn the_gate_holds_the_rest_of_a_request_that_is_not_critical() {
    let (limiter, bounds) = limiter(10, 100);
    bounds.set_slice(20);
    publish(&limiter, &bounds, Caps::new(true, 0, 100), MAX_KIB, 0);
    let more = |priority, attempt| {
        let tag = Tag {
            priority,
            ..Tag::NONE
        };
        let rest = Operation::Rest { held_kib: 10 };
        limiter.try_reserve(&bounds, Ask { tag, ..ask(10) }, rest, attempt)
    };
    let normal = more(Priority::Normal, Attempt::First);
    assert_eq!(normal, Err(Refused::Gate));
    assert!(more(Priority::Critical, Attempt::First).is_ok());
    assert!(more(Priority::Normal, Attempt::PastBounds).is_ok());
}
