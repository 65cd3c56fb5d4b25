//! Whatever becomes of requests, in whatever order (they wait, grow, are paused, are
//! cancelled, read their bodies first, fail, panic, or their callers go): each has one
//! outcome, whoever can go on is woken, and nothing is left of any.

#[path = "../support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use futures_util::stream;
use http_body_util::BodyExt;
use proptest::prelude::*;
use support::{LIMIT, MIB, assert_empty};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tower::{Service, ServiceBuilder, service_fn};
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{
    Class, Guard, GuardedBody, ManualSource, MemoryGuardLayer, Permit, Policy, Priority,
    StagedBodyLayer,
};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

const KIB: usize = 1024;

/// What a handler does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Grow { kib: usize },
    Shrink,
    Keep,
    Answer { kib: usize },
    Panic,
}

#[derive(Clone, Debug)]
enum Operation {
    Send {
        mib: u64,
        priority: Priority,
        has_body: bool,
    },
    Upload {
        of: usize,
        kib: usize,
    },
    EndUpload {
        of: usize,
    },
    Do {
        of: usize,
        step: Step,
    },
    Poll {
        of: usize,
    },
    PollWoken,
    Hang {
        of: usize,
    },
    LetGo,
    Use {
        percent: u64,
    },
    Sample,
    Pass {
        ms: u64,
    },
    MaxPause {
        ms: u64,
    },
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..=600_usize).prop_map(|kib| Step::Grow { kib }),
        1 => Just(Step::Shrink),
        1 => Just(Step::Keep),
        4 => prop_oneof![Just(0), Just(20), 60..=300_usize].prop_map(|kib| Step::Answer { kib }),
        1 => Just(Step::Panic),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let of = || any::<u8>().prop_map(usize::from);
    let mib = prop_oneof![3 => Just(0), 2 => 1..=100_u64, 1 => 100..=700_u64];
    let priority = prop_oneof![
        1 => Just(Priority::Critical),
        2 => Just(Priority::High),
        6 => Just(Priority::Normal),
        1 => Just(Priority::Low)
    ];
    let sent = (mib, priority, prop::bool::weighted(0.3));
    prop_oneof![
        12 => sent.prop_map(|(mib, priority, has_body)| O::Send { mib, priority, has_body }),
        3 => (of(), 1..=200_usize).prop_map(|(of, kib)| O::Upload { of, kib }),
        3 => of().prop_map(|of| O::EndUpload { of }),
        16 => (of(), step()).prop_map(|(of, step)| O::Do { of, step }),
        8 => of().prop_map(|of| O::Poll { of }),
        12 => Just(O::PollWoken),
        3 => of().prop_map(|of| O::Hang { of }),
        2 => Just(O::LetGo),
        8 => prop_oneof![0..=100_u64, 88..=100_u64].prop_map(|percent| O::Use { percent }),
        5 => Just(O::Sample),
        5 => prop_oneof![1..=60_u64, Just(600), Just(2_500)].prop_map(|ms| O::Pass { ms }),
        1 => prop_oneof![Just(0), Just(50), Just(5000)].prop_map(|ms| O::MaxPause { ms }),
        1 => Just(O::Close),
    ]
}

/// What one handler is to do, and what it holds.
#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<Step>>,
    waker: Mutex<Option<Waker>>,
}

impl Script {
    fn push(&self, step: Step) {
        self.steps.lock().unwrap().push_back(step);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Step {
        let poll = |cx: &mut Context<'_>| match self.steps.lock().unwrap().pop_front() {
            Some(step) => Poll::Ready(step),
            None => {
                *self.waker.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            }
        };
        poll_fn(poll).await
    }
}

type Kept = Arc<Mutex<Vec<Permit>>>;

async fn handle(request: Request, kept: Kept) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let script = parts.extensions.get::<Arc<Script>>().unwrap();
    let permit = parts.extensions.get::<Permit>();
    let answer = |status, bytes| {
        let mut response = Response::new(Body::from(Bytes::from(bytes)));
        *response.status_mut() = status;
        Ok(response)
    };
    if body.collect().await.is_err() {
        return answer(StatusCode::BAD_REQUEST, Vec::new());
    }
    let mut blocks = Vec::new();
    loop {
        match script.next().await {
            Step::Grow { kib } => blocks.push(vec![1_u8; kib * KIB]),
            Step::Shrink => drop(blocks.pop()),
            Step::Keep => kept.lock().unwrap().extend(permit.cloned()),
            Step::Answer { kib } => return answer(StatusCode::OK, vec![1_u8; kib * KIB]),
            Step::Panic => std::panic::resume_unwind(Box::new("in the handler")),
        }
        // As work that awaits something does between its steps.
        tokio::task::yield_now().await;
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Answer = Response<GuardedBody<Body>>;

enum Stage {
    Called(Pin<Box<dyn Future<Output = Result<Answer, Infallible>>>>),
    Sending(Pin<Box<GuardedBody<Body>>>),
}

/// A request under way.
struct Sent {
    stage: Stage,
    script: Arc<Script>,
    upload: Option<UnboundedSender<Bytes>>,
    woken: Arc<Woken>,
}

impl Sent {
    /// `false`: it is over.
    fn poll(&mut self) -> bool {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut context = Context::from_waker(&waker);
        let response = match &mut self.stage {
            Stage::Called(future) => {
                let poll = AssertUnwindSafe(|| future.as_mut().poll(&mut context));
                match std::panic::catch_unwind(poll) {
                    Ok(Poll::Pending) => return true,
                    Ok(Poll::Ready(response)) => response.unwrap(),
                    Err(_) => return false,
                }
            }
            Stage::Sending(body) => {
                let frame = http_body::Body::poll_frame(body.as_mut(), &mut context);
                // A frame more, or none yet.
                self.woken.0.fetch_or(frame.is_ready(), Ordering::Relaxed);
                return !matches!(frame, Poll::Ready(None | Some(Err(_))));
            }
        };
        self.woken.0.store(true, Ordering::Relaxed);
        self.stage = Stage::Sending(Box::pin(response.into_body()));
        true
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Relaxed)
    }
}

type Call = Box<dyn FnMut(Request) -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>>>>>;

struct World {
    guard: Guard,
    memory: ManualSource,
    call: Call,
    sent: Vec<Sent>,
    kept: Kept,
    came: u64,
    allocated_bytes: u64,
}

impl World {
    fn new(policy: Policy, cancel: bool) -> Self {
        support::hold_up_releases();
        let memory = ManualSource::new(LIMIT);
        let layer = MemoryGuardLayer::builder()
            .memory_source(memory.clone())
            .policy(policy)
            .cancel(cancel)
            .max_waiting(8)
            .wait_timeout(Duration::from_secs(2))
            .estimated_bytes_per_request(8 * MIB)
            .build()
            .unwrap();
        let guard = layer.guard().clone();
        let allocated_bytes = guard.stats().memory_alloc_mib as u64 * MIB;
        memory.set_limit_bytes(allocated_bytes + LIMIT);
        memory.set_usage_bytes(allocated_bytes);
        guard.sample_now();
        let kept = Kept::default();
        let keep = Arc::clone(&kept);
        let classify = |request: &Request| request.extensions().get::<Class>().unwrap().clone();
        let mut service = ServiceBuilder::new()
            .layer(layer.classify(classify).stage_bodies(4 * KIB as u64))
            .layer(StagedBodyLayer::new())
            .service(service_fn(move |request: axum::http::Request<_>| {
                handle(request.map(Body::new), Arc::clone(&keep))
            }));
        Self {
            guard,
            memory,
            call: Box::new(move |request| {
                let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
                assert!(ready.is_ready());
                let called = service.call(request);
                Box::pin(tokio::task::unconstrained(called))
            }),
            sent: Vec::new(),
            kept,
            came: 0,
            allocated_bytes,
        }
    }

    fn send(&mut self, mib: u64, priority: Priority, has_body: bool) {
        let script = Arc::new(Script::default());
        let (sender, mut frames) = unbounded_channel();
        let upload = move |cx: &mut Context<'_>| {
            let frame = frames.poll_recv(cx);
            frame.map(|frame| frame.map(Ok::<Bytes, Infallible>))
        };
        let body = match has_body {
            true => Body::from_stream(stream::poll_fn(upload)),
            false => Body::empty(),
        };
        let mut request = Request::new(body);
        let class = Class::new("work").priority(priority);
        let class = if mib > 0 {
            class.cost(mib * MIB)
        } else {
            class
        };
        request.extensions_mut().insert(class);
        request.extensions_mut().insert(Arc::clone(&script));
        let mut sent = Sent {
            stage: Stage::Called((self.call)(request)),
            script,
            upload: has_body.then_some(sender),
            woken: Arc::default(),
        };
        self.came += 1;
        if sent.poll() {
            self.sent.push(sent);
        }
    }

    fn poll(&mut self, at: usize) {
        if !self.sent[at].poll() {
            self.sent.remove(at);
        }
    }

    fn poll_woken(&mut self) {
        for at in (0..self.sent.len()).rev() {
            if self.sent[at].is_woken() {
                self.poll(at);
            }
        }
    }

    fn nth(&self, of: usize) -> Option<usize> {
        (!self.sent.is_empty()).then(|| of % self.sent.len())
    }

    /// Beside what the process had allocated before: the guards of all cases stay.
    fn use_percent(&self, percent: u64) {
        let usage_bytes = self.allocated_bytes + LIMIT * percent / 100;
        self.memory.set_usage_bytes(usage_bytes);
        self.guard.sample_now();
    }

    async fn pass(&self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.guard.sample_now();
    }

    async fn operate(&mut self, operation: Operation) {
        use Operation as O;
        match operation {
            O::Send {
                mib,
                priority,
                has_body,
            } => self.send(mib, priority, has_body),
            O::Upload { of, kib } => {
                if let Some(at) = self.nth(of) {
                    if let Some(upload) = &self.sent[at].upload {
                        let _ = upload.send(Bytes::from(vec![1; kib * KIB]));
                    }
                }
            }
            O::EndUpload { of } => {
                if let Some(at) = self.nth(of) {
                    self.sent[at].upload = None;
                }
            }
            O::Do { of, step } => {
                if let Some(at) = self.nth(of) {
                    self.sent[at].script.push(step);
                }
            }
            O::Poll { of } => {
                if let Some(at) = self.nth(of) {
                    self.poll(at);
                }
            }
            O::PollWoken => self.poll_woken(),
            O::Hang { of } => {
                if let Some(at) = self.nth(of) {
                    self.sent.remove(at);
                }
            }
            O::LetGo => drop(self.kept.lock().unwrap().pop()),
            O::Use { percent } => self.use_percent(percent),
            O::Sample => self.guard.sample_now(),
            O::Pass { ms } => self.pass(ms).await,
            O::MaxPause { ms } => {
                let mut config = (*self.guard.config()).clone();
                config.max_pause = Duration::from_millis(ms);
                self.guard.reload(config).unwrap();
            }
            O::Close => self.guard.close(),
        }
    }

    /// Each request that came is under way, or has one outcome.
    fn all_are_accounted_for(&self) {
        let stats = self.guard.stats();
        assert_eq!(stats.total_requests, self.came, "{stats:?}");
        let late = stats.active_tasks + stats.waiting_requests;
        let sum = late
            + stats.completed_requests
            + stats.failed_requests
            + stats.abandoned_requests
            + stats.abandoned_waiting_requests
            + stats.rejected_requests;
        // Who waits for the rest of its estimate, or was turned away and still works, has two.
        assert!(
            sum >= self.came && sum <= self.came + late + stats.failed_requests,
            "{stats:?}"
        );
        assert!(stats.paused_tasks as usize <= self.sent.len(), "{stats:?}");
    }

    /// With memory free, all go on as soon as they are woken, and nothing is left.
    async fn wind_down(mut self) {
        self.use_percent(1);
        self.kept.lock().unwrap().clear();
        for sent in &mut self.sent {
            sent.upload = None;
            sent.script.push(Step::Answer { kib: 1 });
        }
        for _ in 0..400 {
            self.poll_woken();
            self.pass(20).await;
            if self.sent.is_empty() {
                break;
            }
        }
        let stats = self.guard.stats();
        assert_eq!(self.sent.len(), 0, "they are not woken: {stats:?}");
        self.kept.lock().unwrap().clear();
        self.guard.sample_now();
        self.guard.sample_now();
        assert_empty(&self.guard);
        let stats = self.guard.stats();
        assert_eq!(
            (stats.paused_tasks, stats.outstanding_mib),
            (0, 0.0),
            "{stats:?}"
        );
        self.all_are_accounted_for();
        self.guard.close();
    }
}

fn run(policy: Policy, cancel: bool, operations: Vec<Operation>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(policy, cancel);
        for operation in operations {
            world.operate(operation).await;
            world.all_are_accounted_for();
        }
        world.wind_down().await;
    });
}

proptest! {
    #![proptest_config(support::cases(100))]

    #[test]
    fn nothing_is_left_of_requests_and_each_has_one_outcome(
        cancel in any::<bool>(),
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        run(Policy::Predictive, cancel, operations);
    }

    #[test]
    fn nor_with_the_ladder(
        cancel in any::<bool>(),
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        run(Policy::Ladder, cancel, operations);
    }
}
