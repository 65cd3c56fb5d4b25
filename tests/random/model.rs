//! Whatever is done in whatever order, a guard does what a slow and simple model of its
//! ledger and queue does (`model/ledger.rs`), and leaves nothing behind.
//!
//! Time is tokio's, and stands still but for what the operations let pass. Usage only
//! rises while nothing is in flight, so that it is known what is free.

#[path = "model/ledger.rs"]
mod ledger;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use ledger::{Ask, HURRY, Id, Model, Seen, Settings, TENANTS, Told, WAIT_TIMEOUT};
use proptest::prelude::*;
use support::MIB;
use tower_memory_guard::{
    Class, Config, Cost, Detail, Guard, MemoryGuardLayer, MemoryLevel, MemorySource, Permit,
    Policy, Pressure, Priority, Reason, Rejected, Sample, Tier,
};

/// Usage has a half of a MiB more than is said, so that nothing fits to the byte.
const HALF: u64 = MIB / 2;
const FIRST_LIMIT: u64 = 1000 * MIB;
/// Nobody is found out of memory by a probe before three seconds of the same usage.
const LONGEST_CASE: Duration = Duration::from_millis(2900);
/// For longer a guard has stood idle before a case begins.
const IDLE_BEFORE: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
enum Operation {
    Try {
        mib: u64,
    },
    Come {
        mib: u64,
        priority: Priority,
        tenant: usize,
        hurried: bool,
    },
    Poll {
        of: usize,
    },
    GiveUp {
        of: usize,
    },
    End {
        of: usize,
    },
    Clone {
        of: usize,
    },
    Panic {
        of: usize,
    },
    Grow {
        of: usize,
        mib: u64,
    },
    Report {
        of: usize,
        mib: u64,
    },
    Sample,
    Usage {
        mib: u64,
    },
    Limit {
        mib: u64,
    },
    Fail {
        failing: bool,
    },
    Count {
        most: u32,
    },
    Queue {
        most: usize,
    },
    Threshold {
        critical: f64,
    },
    Pass {
        ms: u64,
    },
    Close,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let of = || any::<u8>().prop_map(usize::from);
    let mib = || prop_oneof![8 => 1..=250_u64, 2 => 250..=700_u64, 1 => 700..=1500_u64];
    let priority = prop_oneof![
        Just(Priority::High),
        Just(Priority::Normal),
        Just(Priority::Low)
    ];
    let comes = (mib(), priority, 0..TENANTS.len(), prop::bool::weighted(0.2));
    prop_oneof![
        6 => mib().prop_map(|mib| O::Try { mib }),
        24 => comes.prop_map(|(mib, priority, tenant, hurried)| O::Come {
            mib, priority, tenant, hurried
        }),
        16 => of().prop_map(|of| O::Poll { of }),
        4 => of().prop_map(|of| O::GiveUp { of }),
        16 => of().prop_map(|of| O::End { of }),
        2 => of().prop_map(|of| O::Clone { of }),
        2 => of().prop_map(|of| O::Panic { of }),
        3 => (of(), 1..300_u64).prop_map(|(of, mib)| O::Grow { of, mib }),
        2 => (of(), 0..400_u64).prop_map(|(of, mib)| O::Report { of, mib }),
        10 => Just(O::Sample),
        3 => (0..900_u64).prop_map(|mib| O::Usage { mib }),
        3 => (3..=20_u64).prop_map(|hundreds| O::Limit { mib: hundreds * 100 }),
        1 => any::<bool>().prop_map(|failing| O::Fail { failing }),
        2 => prop_oneof![1..8_u32, Just(1000)].prop_map(|most| O::Count { most }),
        1 => prop_oneof![0..5_usize, Just(1000)].prop_map(|most| O::Queue { most }),
        1 => prop_oneof![Just(0.98), Just(0.9)].prop_map(|critical| O::Threshold { critical }),
        5 => prop_oneof![4 => 1..=5_u64, 1 => 40..=60_u64].prop_map(|tens| O::Pass { ms: tens * 10 }),
        1 => Just(O::Close),
    ]
}

/// Memory that is what it is told to be, and counts how often it is asked.
#[derive(Clone)]
struct Source(Arc<Mutex<Memory>>);

struct Memory {
    usage_bytes: u64,
    limit_bytes: u64,
    failing: bool,
    /// Of this thread.
    full: usize,
    quick: usize,
    owner: ThreadId,
    asked_by_others: bool,
}

impl MemorySource for Source {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> std::io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.asked_by_others |= memory.owner != std::thread::current().id();
        match detail {
            Detail::Quick => memory.quick += 1,
            _ => memory.full += 1,
        }
        if memory.failing {
            return Err(std::io::Error::other("told to fail"));
        }
        sample.push(MemoryLevel::new(
            memory.usage_bytes,
            Some(memory.limit_bytes),
        ));
        Ok(())
    }

    fn name(&self) -> String {
        "counted".into()
    }

    fn in_background(&self) -> bool {
        false
    }
}

/// Who was woken, in this order.
type WokenInOrder = Arc<Mutex<Vec<Id>>>;

struct Wakes {
    id: Id,
    woken: WokenInOrder,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.id);
    }
}

type Admission = Pin<Box<dyn Future<Output = Result<Permit, Rejected>>>>;

/// Somebody who waits.
struct Waiter {
    future: Admission,
    waker: Waker,
}

impl Waiter {
    fn new(future: Admission, wakes: Wakes) -> Self {
        Self {
            // Timers of tokio's say that they are pending after many looks of one task.
            future: Box::pin(tokio::task::unconstrained(future)),
            waker: Arc::new(wakes).into(),
        }
    }

    fn poll(&mut self) -> Poll<Result<Permit, Rejected>> {
        self.future
            .as_mut()
            .poll(&mut Context::from_waker(&self.waker))
    }
}

struct World {
    guard: Guard,
    memory: Source,
    model: Model,
    waiters: BTreeMap<Id, Waiter>,
    permits: BTreeMap<Id, Vec<Permit>>,
    samples: (usize, usize),
    woken: WokenInOrder,
}

impl World {
    async fn new() -> Self {
        support::hold_up_releases();
        let memory = Source(Arc::new(Mutex::new(Memory {
            usage_bytes: HALF,
            limit_bytes: FIRST_LIMIT,
            failing: false,
            full: 0,
            quick: 0,
            owner: std::thread::current().id(),
            asked_by_others: false,
        })));
        let builder = MemoryGuardLayer::builder()
            .memory_source(memory.clone())
            .policy(Policy::Predictive)
            .estimated_bytes_per_request(1024)
            .max_pause(Duration::ZERO)
            .max_concurrent(1000)
            .max_waiting(1000)
            .wait_timeout(WAIT_TIMEOUT);
        let tiers = TENANTS.iter().filter(|tenant| !tenant.name.is_empty());
        let builder = tiers.fold(builder, |builder, tenant| {
            let most = u32::try_from(tenant.max_in_flight).unwrap_or(u32::MAX);
            builder.tier(
                Tier::new(tenant.name)
                    .weight(tenant.weight)
                    .max_share(tenant.max_share)
                    .max_in_flight(most),
            )
        });
        let guard = builder.build().unwrap().guard().clone();
        let settings = Settings {
            max_concurrent: 1000,
            max_waiting: 1000,
            critical: 0.98,
        };
        let seen = Seen {
            limit_bytes: FIRST_LIMIT,
            usage_bytes: HALF,
            failing: false,
            pressure: Pressure::Normal,
            is_full: true,
        };
        let mut world = Self {
            guard,
            memory,
            model: Model::new(settings, seen),
            waiters: BTreeMap::new(),
            permits: BTreeMap::new(),
            samples: (0, 0),
            woken: WokenInOrder::default(),
        };
        world.sample();
        tokio::time::advance(IDLE_BEFORE).await;
        world
    }

    fn memory<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.memory.0.lock().unwrap())
    }

    /// What a sample found, if one was taken since this was asked last.
    fn sample(&mut self) -> Option<Seen> {
        let pressure = self.guard.pressure();
        let (seen, samples) = self.memory(|memory| {
            let seen = Seen {
                limit_bytes: memory.limit_bytes,
                usage_bytes: memory.usage_bytes,
                failing: memory.failing,
                pressure,
                is_full: false,
            };
            (seen, (memory.full, memory.quick))
        });
        let before = std::mem::replace(&mut self.samples, samples);
        let is_full = before.0 != samples.0;
        (before != samples).then_some(Seen { is_full, ..seen })
    }

    /// Those who were woken since this was asked last.
    fn told(&mut self) -> Told {
        let woken = std::mem::take(&mut *self.woken.lock().unwrap());
        Told {
            woken: woken.into(),
            came: None,
        }
    }

    /// What follows from a sample, if one was taken at the end of an operation.
    fn settle(&mut self, told: &mut Told) {
        if let Some(seen) = self.sample() {
            self.model.sampled(seen, told);
        }
    }

    fn nth_waiter(&self, of: usize) -> Option<Id> {
        let ids: Vec<Id> = self.waiters.keys().copied().collect();
        ids.get(of % ids.len().max(1)).copied()
    }

    fn nth_permit(&self, of: usize) -> Option<Id> {
        let ids: Vec<Id> = self.permits.keys().copied().collect();
        ids.get(of % ids.len().max(1)).copied()
    }

    fn try_acquire(&mut self, kib: u64) {
        let answer = self.guard.try_acquire(Cost::Bytes(kib * 1024));
        let mut told = self.told();
        told.came = answer.is_ok().then(|| self.model.next_id());
        let ask = Ask {
            kib,
            priority: Priority::Normal,
            tenant: 0,
            hurried: false,
        };
        let sample = self.sample();
        match (self.model.comes(ask, sample, &mut told), answer) {
            (Ok(id), Ok(permit)) => {
                assert_eq!(self.model.polled(id, &mut told), Some(Ok(())));
                assert_eq!(permit.bytes(), kib * 1024);
                self.permits.insert(id, vec![permit]);
            }
            (Ok(id), Err(rejected)) => {
                assert_eq!(rejected.reason(), Reason::NoRoom);
                self.model.turned_away(id, &mut told);
            }
            (Err(reason), Err(rejected)) => assert_eq!(rejected.reason(), reason),
            (Err(reason), Ok(_)) => panic!("{reason:?}: {:#?}", self.model),
        }
        self.all_explained(told);
    }

    fn come(&mut self, ask: Ask) {
        let class = {
            let tenant = TENANTS[ask.tenant].name;
            let class = Class::new("work")
                .priority(ask.priority)
                .cost(ask.kib * 1024);
            let class = class.tenant(tenant).tier(tenant);
            if ask.hurried {
                class.deadline(HURRY)
            } else {
                class
            }
        };
        let guard = self.guard.clone();
        let wakes = Wakes {
            id: self.model.next_id(),
            woken: Arc::clone(&self.woken),
        };
        let future = async move { guard.acquire_for(&class).await };
        let mut waiter = Waiter::new(Box::pin(future), wakes);
        let answer = waiter.poll();
        let mut told = self.told();
        let is_in = matches!(answer, Poll::Ready(Ok(_)));
        let came = is_in.then(|| self.model.next_id());
        let admitted = self.guard.stats().active_tasks as usize - self.model.in_flight();
        let mut heard = Vec::new();
        if told.woken.len() + usize::from(is_in) > admitted {
            // One of them was told that another has its place.
            heard = told.woken.iter().map(|&id| (id, self.look(id))).collect();
        }
        let full = |answer: &Poll<Result<Permit, Rejected>>| match answer {
            Poll::Ready(Err(rejected)) => rejected.reason() == Reason::QueueFull,
            _ => false,
        };
        let displaced = heard.iter().find(|(_, answer)| full(answer));
        let displaced = displaced.map(|(id, _)| *id);
        let mut afterwards = Told::default();
        match displaced.and_then(|one| told.woken.iter().position(|id| *id == one)) {
            Some(at) => {
                // Which may have let in others, and the one that came.
                afterwards.woken = told.woken.split_off(at + 1);
                afterwards.came = came;
                told.woken.pop_back();
            }
            None => told.came = came,
        }
        let sample = self.sample();
        let expected = self.model.comes(ask, sample, &mut told);
        if let (Ok(id), Some(displaced)) = (expected, displaced) {
            assert!(self.model.is_full(), "{:#?}", self.model);
            self.all_explained(told);
            told = afterwards;
            self.model.displaces(id, displaced, &mut told);
        }
        match (expected, answer) {
            (Ok(id), Poll::Ready(Ok(permit))) => {
                assert_eq!(self.model.polled(id, &mut told), Some(Ok(())));
                self.permits.insert(id, vec![permit]);
            }
            (Ok(id), Poll::Pending) => {
                let has_place = displaced.is_some() || !self.model.is_full();
                assert!(has_place, "{:#?}", self.model);
                self.waiters.insert(id, waiter);
            }
            (Ok(id), Poll::Ready(Err(rejected))) => {
                match rejected.reason() {
                    Reason::QueueFull => {
                        assert!(self.model.is_full());
                        assert_eq!(self.model.may_displace(id), [0; 0], "{:#?}", self.model);
                    }
                    reason => assert!(reason == Reason::WaitTooLong && ask.hurried, "{reason:?}"),
                }
                self.model.turned_away(id, &mut told);
            }
            (Err(reason), Poll::Ready(Err(rejected))) => assert_eq!(rejected.reason(), reason),
            (Err(reason), _) => panic!("{reason:?}: {:#?}", self.model),
        }
        self.all_explained(told);
        heard
            .into_iter()
            .for_each(|(id, answer)| self.hears(id, answer));
    }

    fn look(&mut self, id: Id) -> Poll<Result<Permit, Rejected>> {
        let answer = self.waiters.get_mut(&id).unwrap().poll();
        if answer.is_ready() {
            self.waiters.remove(&id);
        }
        answer
    }

    fn poll(&mut self, id: Id) {
        let answer = self.look(id);
        self.hears(id, answer);
    }

    fn hears(&mut self, id: Id, answer: Poll<Result<Permit, Rejected>>) {
        let mut told = self.told();
        if let Poll::Ready(Ok(_)) = answer {
            // It may have joined again just now.
            told.came = Some(id);
        }
        let expected = self.model.polled(id, &mut told);
        told.came = None;
        match (expected, answer) {
            (Some(Ok(())), Poll::Ready(Ok(permit))) => {
                self.permits.insert(id, vec![permit]);
            }
            (Some(Err(reason)), Poll::Ready(Err(rejected))) => {
                assert_eq!(rejected.reason(), reason);
            }
            (None, Poll::Pending) => {}
            (expected, answer) => panic!("{expected:?}, {answer:?}: {:#?}", self.model),
        }
        self.settle(&mut told);
        self.all_explained(told);
    }

    fn end(&mut self, id: Id, drop: impl FnOnce(Permit)) {
        let permits = self.permits.get_mut(&id).unwrap();
        drop(permits.pop().unwrap());
        let mut told = Told::default();
        if permits.is_empty() {
            self.permits.remove(&id);
            told = self.told();
            self.model.ends(id, &mut told);
        }
        self.settle(&mut told);
        self.all_explained(told);
    }

    fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.guard.config()).clone();
        change(&mut config);
        self.guard.reload(config).unwrap();
        self.ends_with_sample();
    }

    fn ends_with_sample(&mut self) {
        let mut told = self.told();
        self.settle(&mut told);
        self.all_explained(told);
    }

    /// Usage is what it is told to be; higher than it was only if nothing of that may be a
    /// request's.
    fn set_usage(&mut self, bytes: u64) {
        let before = self.memory(|memory| memory.usage_bytes);
        let rises = bytes > before;
        let failing = self.memory(|memory| memory.failing);
        if rises && (self.model.in_flight() > 0 || failing) {
            return;
        }
        self.memory(|memory| memory.usage_bytes = bytes);
        if rises {
            self.sample_now();
        }
    }

    fn sample_now(&mut self) {
        self.guard.sample_now();
        self.ends_with_sample();
    }

    fn all_explained(&self, told: Told) {
        assert!(told.is_empty(), "{told:?} were let in: {:#?}", self.model);
    }

    async fn operate(&mut self, operation: Operation) {
        use Operation as O;
        match operation {
            O::Try { mib } => self.try_acquire(mib * 1024),
            O::Come {
                mib,
                priority,
                tenant,
                hurried,
            } => self.come(Ask {
                kib: mib * 1024,
                priority,
                tenant,
                hurried,
            }),
            O::Poll { of } => {
                if let Some(id) = self.nth_waiter(of) {
                    self.poll(id);
                }
            }
            O::GiveUp { of } => {
                if let Some(id) = self.nth_waiter(of) {
                    self.waiters.remove(&id);
                    let mut told = self.told();
                    self.model.gives_up(id, &mut told);
                    self.settle(&mut told);
                    self.all_explained(told);
                }
            }
            O::End { of } => {
                if let Some(id) = self.nth_permit(of) {
                    self.end(id, drop);
                }
            }
            O::Panic { of } => {
                if let Some(id) = self.nth_permit(of) {
                    self.end(id, panic_with);
                }
            }
            O::Clone { of } => {
                if let Some(id) = self.nth_permit(of) {
                    let permits = self.permits.get_mut(&id).unwrap();
                    permits.push(permits[0].clone());
                }
            }
            O::Grow { of, mib } => {
                if let Some(id) = self.nth_permit(of) {
                    let grown = self.permits[&id][0].try_grow(mib * MIB);
                    let (mut told, sample) = (self.told(), self.sample());
                    let expected = self.model.grows(id, mib * 1024, sample, &mut told);
                    assert_eq!(grown.map_err(|rejected| rejected.reason()), expected);
                    self.holds(id);
                    self.all_explained(told);
                }
            }
            O::Report { of, mib } => {
                if let Some(id) = self.nth_permit(of) {
                    self.permits[&id][0].report(mib * MIB);
                    self.model.reports(id, mib * 1024);
                    self.holds(id);
                }
            }
            O::Sample => self.sample_now(),
            O::Usage { mib } => self.set_usage(mib * MIB + HALF),
            O::Limit { mib } => self.memory(|memory| memory.limit_bytes = mib * MIB),
            O::Fail { failing } => self.memory(|memory| memory.failing = failing),
            O::Count { most } => {
                self.model.settings.max_concurrent = most as usize;
                self.reload(|config| config.max_concurrent = Some(most));
            }
            O::Queue { most } => {
                self.model.settings.max_waiting = most;
                self.reload(|config| config.max_waiting = most);
            }
            O::Threshold { critical } => {
                self.model.settings.critical = critical;
                self.reload(|config| {
                    config.critical_fraction = Some(critical);
                    config.high_fraction = Some(critical - 0.03);
                    config.warning_fraction = Some(critical - 0.08);
                });
            }
            O::Pass { ms } => self.pass(Duration::from_millis(ms)).await,
            O::Close => {
                self.guard.close();
                let mut told = self.told();
                self.model.closes(&mut told);
                self.settle(&mut told);
                self.all_explained(told);
            }
        }
    }

    async fn pass(&mut self, time: Duration) {
        if self.model.now + time <= LONGEST_CASE {
            tokio::time::advance(time).await;
            self.model.now += time;
            // Their timers have woken them.
            self.told();
        }
    }

    fn holds(&self, id: Id) {
        assert_eq!(self.permits[&id][0].bytes(), self.model.kib_of(id) * 1024);
    }

    /// What the guard says is what the model has.
    fn agrees(&self) {
        let stats = self.guard.stats();
        let model = &self.model;
        let found = (
            stats.active_tasks as usize,
            stats.waiting_requests as usize,
            (stats.reserved_mib * 1024.0) as u64,
        );
        let expected = (model.in_flight(), model.unanswered(), model.reserved_kib());
        assert_eq!(found, expected, "{model:#?}");
        let totals = ledger::Totals {
            came: stats.total_requests,
            completed: stats.completed_requests,
            rejected: stats.rejected_requests,
            gave_up: stats.abandoned_waiting_requests,
        };
        assert_eq!(totals, model.totals, "{model:#?}");
        assert_eq!(stats.failed_requests + stats.abandoned_requests, 0);
    }

    /// With memory free and nothing held, everybody is admitted or told why not.
    fn wind_down(&mut self) {
        self.memory(|memory| {
            memory.failing = false;
            memory.limit_bytes = 4000 * MIB;
            memory.usage_bytes = HALF;
        });
        self.sample_now();
        loop {
            while let Some(id) = self.nth_permit(0) {
                self.end(id, drop);
            }
            self.sample_now();
            let before = self.waiters.len();
            if before == 0 {
                break;
            }
            let ids: Vec<Id> = self.waiters.keys().copied().collect();
            ids.into_iter().for_each(|id| self.poll(id));
            assert!(self.waiters.len() < before, "{:#?}", self.model);
        }
        self.agrees();
        support::assert_empty(&self.guard);
    }

    /// All that may be reserved can be again, in a guard that takes work.
    fn is_as_new(&mut self) {
        if self.model.is_closed {
            self.try_acquire(1);
            return;
        }
        self.model.settings.max_concurrent = 1000;
        self.reload(|config| config.max_concurrent = Some(1000));
        let all_kib = self.model.allowance_kib();
        self.try_acquire(1);
        self.try_acquire(all_kib - 1);
        assert_eq!(self.permits.len(), 2, "{:#?}", self.model);
        self.try_acquire(1);
        assert_eq!(self.permits.len(), 2, "{:#?}", self.model);
        self.permits.clear();
        self.guard.close();
    }
}

fn panic_with(permit: Permit) {
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _permit = permit;
        std::panic::resume_unwind(Box::new("while it holds a permit"));
    }));
    assert!(caught.is_err());
}

fn run(operations: Vec<Operation>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        for operation in operations {
            world.operate(operation).await;
            world.agrees();
        }
        world.wind_down();
        world.is_as_new();
        assert!(!world.memory(|memory| memory.asked_by_others));
    });
}

proptest! {
    #![proptest_config(support::cases(400))]

    #[test]
    fn a_guard_does_what_its_model_does(operations in prop::collection::vec(operation(), 1..60)) {
        run(operations);
    }
}

fn comes(mib: u64, priority: Priority, tenant: usize) -> Operation {
    Operation::Come {
        mib,
        priority,
        tenant,
        hurried: false,
    }
}

#[test]
fn a_waiter_that_was_told_no_counts_until_it_hears() {
    use Operation as O;
    let waits = comes(500, Priority::Normal, 0);
    run(vec![O::Try { mib: 900 }, waits.clone(), O::Close]);
    let passes_on = [O::Pass { ms: 500 }, O::Sample, O::Poll { of: 0 }];
    let granted = [O::Try { mib: 900 }, waits, O::End { of: 0 }, O::Sample];
    run(granted.into_iter().chain(passes_on).collect());
}

#[test]
fn what_is_active_may_grow_after_the_guard_was_closed() {
    use Operation as O;
    let grow = |mib| O::Grow { of: 0, mib };
    run(vec![
        O::Try { mib: 100 },
        O::Close,
        grow(500),
        O::Sample,
        grow(300),
        grow(100),
    ]);
}

#[test]
fn who_waits_for_memory_that_has_just_become_full_waits_on() {
    use Operation as O;
    let full = [O::Try { mib: 900 }, comes(500, Priority::Normal, 0)];
    let looks_for_itself = O::Grow { of: 0, mib: 50 };
    let looks = [
        vec![O::Sample],
        vec![O::Threshold { critical: 0.9 }],
        vec![looks_for_itself, O::Sample],
    ];
    for looks in looks {
        run(full.iter().cloned().chain(looks).collect());
    }
}

#[test]
fn a_tenant_s_next_waiter_fits_its_share_once_the_one_before_it_gives_up() {
    run(vec![
        comes(60, Priority::High, 3),
        comes(280, Priority::Normal, 3),
        comes(1, Priority::Normal, 3),
        Operation::GiveUp { of: 0 },
    ]);
}

#[test]
fn who_lost_a_grant_fits_its_tenant_s_share_where_the_one_behind_it_does_not() {
    use Operation as O;
    run(vec![
        comes(10, Priority::High, 3),
        O::Try { mib: 890 },
        comes(100, Priority::High, 3),
        O::End { of: 1 },
        comes(295, Priority::High, 3),
        O::Pass { ms: 500 },
        O::Sample,
        O::Poll { of: 0 },
    ]);
}

#[test]
fn who_tries_in_vain_makes_it_the_turn_of_another_tenant() {
    run(vec![
        Operation::Try { mib: 360 },
        comes(602, Priority::Low, 0),
        comes(1, Priority::Low, 2),
        comes(30, Priority::High, 1),
        comes(126, Priority::High, 1),
        Operation::Try { mib: 446 },
    ]);
}

#[test]
fn who_takes_the_place_of_one_that_held_up_the_queue_need_not_wait() {
    run(vec![
        Operation::Try { mib: 700 },
        comes(300, Priority::Normal, 0),
        Operation::Queue { most: 0 },
        comes(1, Priority::Normal, 2),
    ]);
}

#[test]
fn who_lost_a_grant_in_a_guard_that_is_closed_is_told_so() {
    use Operation as O;
    let granted = [
        O::Try { mib: 900 },
        comes(500, Priority::Normal, 0),
        O::End { of: 0 },
    ];
    let passes_on = [O::Sample, O::Close, O::Pass { ms: 500 }, O::Sample];
    run(granted
        .into_iter()
        .chain(passes_on)
        .chain([O::Poll { of: 0 }])
        .collect());
}
