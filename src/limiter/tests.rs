use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};
use std::task::{Context, Poll, Wake, Waker};

use super::wait_tests::{IN_TIME, Ticket};
use super::word::InUse;
use super::*;
use crate::class::Priority;
use crate::class::tag::ClassKey;
use crate::units::MAX_KIB;

pub(super) fn ask(kib: u64) -> Ask {
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
pub(super) fn nest(limiter: &Limiter, bounds: &Bounds) -> Result<bool, Refused> {
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

    pub(super) fn with(limiter: &Arc<Limiter>, bounds: &Arc<Bounds>, need: Need) -> Self {
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

    pub(super) fn is_woken(&self) -> bool {
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

/// 80 of 100 KiB are in use.
fn mostly_taken() -> (Arc<Limiter>, Arc<Bounds>) {
    let (limiter, bounds) = limiter(10, 100);
    admit(&limiter, &bounds, 80).unwrap();
    publish(&limiter, &bounds, Caps::new(false, 10, 100), MAX_KIB, 20);
    (limiter, bounds)
}

#[test]
fn nobody_overtakes_and_the_oldest_goes_first() {
    let (limiter, bounds) = mostly_taken();
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
    let (limiter, bounds) = mostly_taken();
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
    bounds.set_unknown([80, 80], 80);
    admit(&limiter, &bounds, 80).unwrap();
    let join = || Ticket::join(&limiter, &bounds, Need::Estimated(Tag::NONE), IN_TIME).unwrap();
    let (_first, _second) = (join(), join());
    // Requests turn out to be smaller.
    bounds.set_estimate(Tag::NONE.key, [10, 10], 10);
    limiter.pump();
    assert_eq!(limiter.reserved(), InUse::new(false, 3, 100));
}

#[test]
fn critical_requests_of_a_kind_ask_for_what_is_estimated_of_such() {
    let bounds = Bounds::new(GuardCount::InWord, Arc::default());
    bounds.set_estimate(Tag::NONE.key, [200, 1], 10);
    let estimated = |priority| {
        let ask = bounds.estimate(Tag {
            priority,
            ..Tag::NONE
        });
        (ask.kib, ask.low_kib)
    };
    assert_eq!(estimated(Priority::High), (200, 10));
    assert_eq!(estimated(Priority::Critical), (1, 1));
}

#[test]
fn what_requests_with_a_hint_ask_for_follows_their_hints() {
    let bounds = Bounds::new(GuardCount::InWord, Arc::default());
    let key = ClassKey::new(0, true);
    bounds.set_estimate(key, [100, 100], 50);
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
fn a_probe_is_for_those_behind_one_that_can_never_have_what_it_needs() {
    let (limiter, bounds) = limiter(10, 50);
    publish(&limiter, &bounds, Caps::new(false, 10, 50), MAX_KIB, 120);
    admit(&limiter, &bounds, 50).unwrap();
    let join = |kib, low_kib| {
        let ask = Ask {
            low_kib,
            ..ask(kib)
        };
        Waiter::with(&limiter, &bounds, Need::Known(ask))
    };
    let (mut large, mut small) = (join(300, 300), join(10, 5));
    assert_eq!(limiter.next_ask(&bounds).unwrap().kib, 10);
    assert!(limiter.probe_oldest(&bounds, Some(120)));
    assert_eq!(large.poll(), Poll::Pending);
    assert_eq!(small.poll(), Poll::Ready(Ok(10)));
    // Nobody is behind it any more.
    assert_eq!(limiter.next_ask(&bounds).unwrap().kib, 300);
}
