//! Requests in flight are paused while memory has no room for what they would add,
//! through real servers.

#[path = "../support/mod.rs"]
mod support;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{Response, StatusCode};
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{MIB, assert_empty, eventually, fill, poll_once, with};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, Semaphore};
use tokio::task::JoinHandle;
use tower::ServiceBuilder;
use tower_http::timeout::TimeoutLayer;
use tower_memory_guard::account::{self, TrackingAllocator};
use tower_memory_guard::{
    Cancelled, Config, Cost, Detail, Guard, ManualSource, MemoryGuardBuilder, MemoryGuardLayer,
    MemoryLevel, MemorySource, Mode, Permit, Sample,
};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// What handlers go by, and what they say.
#[derive(Clone, Default)]
struct Stage {
    /// A permit for each further step; none at first.
    steps: Arc<Gate>,
    /// Steps taken so far.
    taken: Arc<AtomicUsize>,
    permit: Arc<Mutex<Option<Permit>>>,
    outcome: Arc<Mutex<Option<Result<(), Cancelled>>>>,
    /// What all want, and what is made once for all.
    lock: Arc<AsyncMutex<()>>,
    made: Arc<OnceCell<usize>>,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Stage {
    fn allow(&self, steps: usize) {
        self.steps.0.add_permits(steps);
    }

    async fn allowed(&self) {
        self.steps.0.acquire().await.unwrap().forget();
    }

    fn took(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn paused(&self) -> Duration {
        let permit = self.permit.lock().unwrap();
        permit.as_ref().map_or(Duration::ZERO, Permit::paused)
    }

    /// As synchronous work, which waits for its next step on its thread.
    fn block_until_allowed(&self) {
        while self.steps.0.try_acquire().map(|one| one.forget()).is_err() {
            std::thread::yield_now();
        }
    }
}

fn block() -> Vec<u8> {
    vec![1; MIB as usize]
}

/// Grows before its first step and after each.
async fn grow(State(stage): State<Stage>, Extension(permit): Extension<Permit>) -> String {
    *stage.permit.lock().unwrap() = Some(permit);
    let mut blocks = vec![block()];
    stage.took();
    for _ in 0..3 {
        stage.allowed().await;
        blocks.push(block());
        stage.took();
    }
    *stage.permit.lock().unwrap() = None;
    format!("{} blocks", blocks.len())
}

/// A guarded server with one route, and what controls it.
struct Server {
    stage: Stage,
    guard: Guard,
    memory: ManualSource,
    address: SocketAddr,
}

fn guarded(
    set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder,
) -> (MemoryGuardLayer, ManualSource) {
    with(|builder| set(builder.estimated_bytes_per_request(16 * MIB)))
}

impl Server {
    async fn new(method: axum::routing::MethodRouter<Stage>) -> Self {
        Self::with(method, |builder| builder).await
    }

    async fn with(
        method: axum::routing::MethodRouter<Stage>,
        set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder,
    ) -> Self {
        let (layer, memory) = guarded(set);
        let guard = layer.guard().clone();
        let stage = Stage::default();
        let app = Router::new().route("/", method).layer(layer);
        let address = support::serve_axum(app.with_state(stage.clone())).await;
        Self {
            stage,
            guard,
            memory,
            address,
        }
    }

    fn get(&self) -> JoinHandle<Response<Incoming>> {
        let uri = format!("http://{}/", self.address).parse().unwrap();
        tokio::spawn(async move {
            let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
            client.get(uri).await.unwrap()
        })
    }

    fn fill(&self, percent: u64) {
        fill(&self.guard, &self.memory, percent);
    }

    fn paused(&self) -> u64 {
        self.guard.stats().paused_tasks
    }

    /// One request has taken its first step and is paused before its next.
    async fn pause_one(&self) {
        eventually("it has begun", || self.stage.taken() == 1).await;
        self.fill(100);
        self.stage.allow(1);
        eventually("it is paused", || self.paused() == 1).await;
    }

    async fn nothing_is_left(&self) {
        eventually("all ended", || self.guard.stats().active_tasks == 0).await;
        assert_eq!(self.paused(), 0);
        assert_empty(&self.guard);
    }
}

async fn text(response: Response<Incoming>) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn reload(guard: &Guard, change: impl FnOnce(&mut Config)) {
    let mut config = (*guard.config()).clone();
    change(&mut config);
    guard.reload(config).unwrap();
}

#[tokio::test]
async fn a_request_that_grows_is_paused_until_there_is_room() {
    let server = Server::new(get(grow)).await;
    let response = server.get();
    server.pause_one().await;
    eventually("its pause shows", || !server.stage.paused().is_zero()).await;
    // Looking again changes nothing.
    server.fill(100);
    assert_eq!((server.paused(), server.stage.taken()), (1, 1));
    assert!(!response.is_finished());
    server.fill(10);
    eventually("it goes on", || server.stage.taken() == 2).await;
    assert!(!server.stage.paused().is_zero());
    server.stage.allow(2);
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
    let stats = server.guard.stats();
    assert!(
        stats.pauses >= 1 && stats.paused_seconds_total > 0.0,
        "{stats:?}"
    );
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_paused_leaves_nothing_behind() {
    let server = Server::new(get(grow)).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(head).await.unwrap();
    server.pause_one().await;
    let held = server.stage.permit.lock().unwrap().take().unwrap();
    drop(client);
    eventually("it is paused no more", || server.paused() == 0).await;
    assert!(held.cancelled());
    drop(held);
    server.nothing_is_left().await;
    assert_eq!(server.stage.taken(), 1);
}

#[tokio::test]
async fn who_is_paused_behind_one_that_hangs_up_goes_on_with_what_that_held() {
    let server = Server::new(get(grow)).await;
    let first = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    let second = server.get();
    eventually("both have begun", || server.stage.taken() == 2).await;
    server.fill(100);
    server.stage.allow(2);
    eventually("both are paused", || server.paused() == 2).await;
    *server.stage.permit.lock().unwrap() = None;
    first.abort();
    eventually("one is gone", || server.guard.stats().active_tasks == 1).await;
    assert_eq!(server.paused(), 1);
    // What it held is free.
    server.fill(10);
    server.stage.allow(2);
    assert_eq!(text(second.await.unwrap()).await, "4 blocks");
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_timeout_further_out_ends_a_pause() {
    let (layer, memory) = guarded(|builder| builder);
    let guard = layer.guard().clone();
    let stage = Stage::default();
    let layers = ServiceBuilder::new()
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_millis(500),
        ))
        .layer(layer);
    let app = Router::new().route("/", get(grow)).layer(layers);
    let address = support::serve_axum(app.with_state(stage.clone())).await;
    let server = Server {
        stage,
        guard,
        memory,
        address,
    };
    let response = server.get();
    server.pause_one().await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(server.paused(), 0);
    *server.stage.permit.lock().unwrap() = None;
    server.nothing_is_left().await;
}

/// After `act`, with memory as full as before, it goes on to its end.
async fn lets_go(act: impl FnOnce(&Server)) {
    let server = Server::new(get(grow)).await;
    let response = server.get();
    server.pause_one().await;
    act(&server);
    // Nor is it paused again.
    eventually("it goes on", || server.stage.taken() == 2).await;
    server.stage.allow(1);
    eventually("it stays so", || server.stage.taken() == 3).await;
    server.stage.allow(1);
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
    server.nothing_is_left().await;
}

#[tokio::test]
async fn closing_lets_the_paused_go() {
    lets_go(|server| server.guard.close()).await;
}

#[tokio::test]
async fn settings_without_pauses_let_the_paused_go() {
    let no_pause = |config: &mut Config| config.max_pause = Duration::ZERO;
    lets_go(|server| reload(&server.guard, no_pause)).await;
    lets_go(|server| reload(&server.guard, |config| config.enabled = false)).await;
}

#[tokio::test]
async fn observing_lets_the_paused_go_and_pauses_nobody() {
    lets_go(|server| reload(&server.guard, |config| config.mode = Mode::Observe)).await;
    let server = Server::with(get(grow), |builder| builder.mode(Mode::Observe)).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    server.fill(100);
    server.stage.allow(3);
    text(response.await.unwrap()).await;
    let stats = server.guard.stats();
    assert_eq!(stats.pauses, 0);
    assert!(stats.observed_pauses >= 1, "{stats:?}");
}

#[tokio::test]
async fn a_sensor_that_fails_lets_the_paused_go() {
    lets_go(|server| {
        server.memory.set_failing(true);
        server.guard.sample_now();
    })
    .await;
}

#[tokio::test]
async fn without_pauses_nobody_is_paused() {
    let no_pause = |builder: MemoryGuardBuilder| builder.max_pause(Duration::ZERO);
    let server = Server::with(get(grow), no_pause).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    server.fill(100);
    server.stage.allow(3);
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
    assert_eq!(server.guard.stats().pauses, 0);
}

/// All that it needs, in one poll; it ends when it may.
async fn in_one_poll(State(stage): State<Stage>) -> &'static str {
    let small = stage.taken() < SMALL;
    let mib = if small { 1 } else { 100 };
    let _block: Vec<u8> = Vec::with_capacity(mib * MIB as usize);
    stage.took();
    match small {
        true => tokio::task::yield_now().await,
        false => stage.allowed().await,
    }
    "done"
}

/// So many are small, of those that grow in one poll.
const SMALL: usize = 100;

#[tokio::test]
async fn what_one_poll_adds_is_learned_while_there_is_plenty() {
    let server = Server::new(get(in_one_poll)).await;
    let requests = (0..SMALL).map(|_| server.get());
    for response in requests.collect::<Vec<_>>() {
        text(response.await.unwrap()).await;
    }
    server.fill(10);
    // It takes much, and nobody has to ask.
    let first = server.get();
    eventually("it has begun", || server.stage.taken() == SMALL + 1).await;
    // For another one there is no room, though there is for many of the small ones.
    server.fill(82);
    let others = [server.get(), server.get()];
    // The second does not even begin while the first is paused.
    let waits = || server.paused() + server.guard.stats().waiting_requests;
    eventually("they have to wait", || waits() == 2).await;
    server.fill(10);
    server.stage.allow(3);
    text(first.await.unwrap()).await;
    for response in others {
        text(response.await.unwrap()).await;
    }
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_handlers_own_time_limit_can_leave_pauses_out() {
    async fn limited(
        State(stage): State<Stage>,
        Extension(permit): Extension<Permit>,
    ) -> &'static str {
        let began = Instant::now();
        let _block = block();
        stage.took();
        let limit = Duration::from_millis(20);
        tokio::select! {
            biased;
            () = tokio::time::sleep(limit) => {
                let worked = began.elapsed().saturating_sub(permit.paused());
                assert!(worked < began.elapsed());
                "limit"
            }
            () = stage.allowed() => "done",
        }
    }
    let server = Server::new(get(limited)).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    server.fill(100);
    // Its own timer gets it polled.
    eventually("it is paused", || server.paused() == 1).await;
    let counted = || server.guard.stats().paused_seconds_total > 0.0;
    let since = Instant::now();
    eventually("the pause lasts", || {
        since.elapsed() > Duration::from_millis(5)
    })
    .await;
    server.fill(10);
    assert_eq!(text(response.await.unwrap()).await, "limit");
    assert!(counted());
    server.nothing_is_left().await;
}

#[tokio::test]
async fn an_inner_timeout_does_not_lose_what_came_during_a_pause() {
    async fn limited(State(stage): State<Stage>) -> String {
        let _block = block();
        stage.took();
        let limit = Duration::from_millis(20);
        let outcome = tokio::time::timeout(limit, stage.allowed()).await;
        format!("{outcome:?}")
    }
    let server = Server::new(get(limited)).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    server.fill(100);
    // Its time is up: that gets it polled.
    eventually("it is paused", || server.paused() == 1).await;
    server.stage.allow(1);
    server.fill(10);
    assert_eq!(text(response.await.unwrap()).await, "Ok(())");
    server.nothing_is_left().await;
}

/// Made by whoever comes first, for all.
async fn once_for_all(State(stage): State<Stage>) -> String {
    let make = || async {
        let first = block();
        stage.took();
        stage.allowed().await;
        let second = block();
        stage.took();
        first.len() + second.len()
    };
    stage.made.get_or_init(make).await.to_string()
}

/// One makes it and is paused, two wait for it.
async fn paused_for_all() -> (
    Server,
    JoinHandle<Response<Incoming>>,
    [JoinHandle<Response<Incoming>>; 2],
) {
    let server = Server::new(get(once_for_all)).await;
    let first = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    let others = [server.get(), server.get()];
    eventually("they wait", || server.guard.stats().active_tasks == 3).await;
    server.fill(100);
    server.stage.allow(1);
    eventually("it is paused", || server.paused() == 1).await;
    (server, first, others)
}

#[tokio::test]
async fn all_are_answered_by_one_that_is_paused() {
    let (server, first, others) = paused_for_all().await;
    server.fill(10);
    for response in others.into_iter().chain([first]) {
        assert_eq!(text(response.await.unwrap()).await, (2 * MIB).to_string());
    }
    assert_eq!(server.stage.taken(), 2);
    server.nothing_is_left().await;
}

#[tokio::test]
async fn another_takes_the_place_of_one_that_is_given_up_while_paused() {
    let (server, first, others) = paused_for_all().await;
    first.abort();
    eventually("it is gone", || server.guard.stats().active_tasks == 2).await;
    server.stage.allow(1);
    server.fill(10);
    for response in others {
        assert_eq!(text(response.await.unwrap()).await, (2 * MIB).to_string());
    }
    server.nothing_is_left().await;
}

#[tokio::test]
async fn who_waits_for_a_lock_does_not_hold_up_the_one_that_has_it() {
    async fn locking(State(stage): State<Stage>) -> &'static str {
        let first = block();
        // The second to come has it.
        let held = match stage.taken.fetch_add(1, Ordering::Relaxed) {
            0 => None,
            _ => Some(stage.lock.lock().await),
        };
        stage.allowed().await;
        let _held = match held {
            None => stage.lock.lock().await,
            held => held.unwrap(),
        };
        let second = block();
        drop((first, second));
        "done"
    }
    // So it is not by its turn that the other one goes on.
    let patient = |builder: MemoryGuardBuilder| builder.max_pause(Duration::from_secs(60));
    let server = Server::with(get(locking), patient).await;
    let older = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    let younger = server.get();
    eventually("it has the lock", || server.stage.taken() == 2).await;
    // For what one of them may need, not for both.
    server.fill(96);
    server.stage.allow(2);
    let ended = || {
        server.guard.sample_now();
        older.is_finished() && younger.is_finished()
    };
    eventually("both end", ended).await;
    for response in [older, younger] {
        assert_eq!(text(response.await.unwrap()).await, "done");
    }
    server.nothing_is_left().await;
}

#[tokio::test]
async fn work_that_follows_a_request_is_paused_by_itself() {
    async fn with_child(State(stage): State<Stage>) -> String {
        let child = account::spawn(async move {
            let first = block();
            stage.took();
            stage.allowed().await;
            first.len() + block().len()
        });
        child.await.unwrap().to_string()
    }
    let server = Server::new(get(with_child)).await;
    let response = server.get();
    server.pause_one().await;
    server.fill(10);
    assert_eq!(text(response.await.unwrap()).await, (2 * MIB).to_string());
    server.nothing_is_left().await;
}

#[tokio::test]
async fn what_a_request_polls_itself_is_not_paused_beside_it() {
    async fn with_a_part(
        State(stage): State<Stage>,
        Extension(permit): Extension<Permit>,
    ) -> String {
        let part = permit.follow(async move {
            let first = block();
            stage.took();
            stage.allowed().await;
            first.len() + block().len()
        });
        part.await.to_string()
    }
    let server = Server::new(get(with_a_part)).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    // Room for what a poll of it may add, and not for twice as much.
    let other = server.guard.acquire(MIB).await.unwrap();
    server.fill(95);
    server.stage.allow(1);
    let ended = || {
        server.guard.sample_now();
        response.is_finished()
    };
    eventually("it ends", ended).await;
    assert_eq!(text(response.await.unwrap()).await, (2 * MIB).to_string());
    assert_eq!(server.guard.stats().pauses, 0);
    drop(other);
    server.nothing_is_left().await;
}

/// Work on a thread that grows after each checkpoint.
async fn blocking(State(stage): State<Stage>, Extension(permit): Extension<Permit>) -> String {
    // In a poll it never blocks.
    permit.checkpoint().unwrap();
    let work = tokio::task::spawn_blocking(move || {
        let mut blocks = Vec::new();
        for _ in 0..3 {
            if let Err(cancelled) = permit.checkpoint() {
                *stage.outcome.lock().unwrap() = Some(Err(cancelled));
                break;
            }
            blocks.push(block());
            stage.took();
            stage.block_until_allowed();
        }
        format!(
            "{} blocks, {}",
            blocks.len(),
            permit.paused() > Duration::ZERO
        )
    });
    work.await.unwrap()
}

#[tokio::test]
async fn synchronous_work_is_paused_at_its_checkpoints() {
    let server = Server::new(get(blocking)).await;
    let response = server.get();
    server.pause_one().await;
    let since = Instant::now();
    eventually("the pause lasts", || {
        since.elapsed() > Duration::from_millis(5)
    })
    .await;
    server.fill(10);
    eventually("it goes on", || server.stage.taken() == 2).await;
    server.stage.allow(2);
    assert_eq!(text(response.await.unwrap()).await, "3 blocks, true");
    server.nothing_is_left().await;
}

/// One that comes to a closure of its own, with room for what one part may add, as is
/// reserved, and not for twice as much.
async fn ends_beside_its_closure(work: fn(Permit) -> usize) {
    let carried = move |State(stage): State<Stage>, Extension(permit): Extension<Permit>| async move {
        stage.took();
        stage.allowed().await;
        let work = account::spawn_blocking(move || work(permit));
        work.await.unwrap().to_string()
    };
    let server = Server::new(get(carried)).await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    // Else a guess is no more than there is.
    let other = server.guard.acquire(MIB).await.unwrap();
    server.fill(95);
    server.stage.allow(1);
    eventually("it ends", || response.is_finished()).await;
    let held_bytes = text(response.await.unwrap()).await;
    assert_eq!(held_bytes, (3 * MIB).to_string());
    drop(other);
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_checkpoint_does_not_wait_for_what_is_kept_for_its_own_closure() {
    ends_beside_its_closure(|permit| {
        let mut blocks = Vec::new();
        for _ in 0..3 {
            permit.checkpoint().unwrap();
            blocks.push(block());
        }
        permit.checkpoint().unwrap();
        blocks.concat().len()
    })
    .await;
}

#[tokio::test]
async fn what_a_closure_blocks_on_does_not_wait_for_what_is_kept_for_that() {
    ends_beside_its_closure(|permit| {
        let followed = permit.follow(async { [block(), block(), block()] });
        let blocks = tokio::runtime::Handle::current().block_on(followed);
        blocks.concat().len()
    })
    .await;
}

#[tokio::test]
async fn synchronous_work_is_told_that_its_caller_is_gone() {
    let server = Server::new(get(blocking)).await;
    let request = server.get();
    server.pause_one().await;
    request.abort();
    eventually("it was told", || {
        *server.stage.outcome.lock().unwrap() == Some(Err(Cancelled))
    })
    .await;
    server.nothing_is_left().await;
    assert_eq!(server.stage.taken(), 1);
}

#[tokio::test]
async fn closing_lets_threads_go() {
    let server = Server::new(get(blocking)).await;
    let response = server.get();
    server.pause_one().await;
    server.guard.close();
    server.stage.allow(2);
    assert_eq!(text(response.await.unwrap()).await, "3 blocks, true");
}

#[tokio::test]
async fn work_without_an_account_is_paused_no_longer_than_it_may_be() {
    let (layer, memory) = guarded(|builder| builder.max_pause(Duration::from_millis(10)));
    let guard = layer.guard().clone();
    let permit = guard.acquire(4 * MIB).await.unwrap();
    fill(&guard, &memory, 100);
    let thread = std::thread::spawn(move || permit.checkpoint());
    eventually("it is paused", || guard.stats().paused_tasks == 1).await;
    fill(&guard, &memory, 97);
    // 5 MiB: it goes before all others now.
    eventually("it goes on", || {
        guard.sample_now();
        guard.stats().paused_tasks == 0
    })
    .await;
    thread.join().unwrap().unwrap();
    assert_empty(&guard);
}

/// What is in use and where memory ends, as a thread reads them.
struct Fixed(u64, u64);

impl MemorySource for Fixed {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> std::io::Result<()> {
        sample.push(MemoryLevel::new(self.0, Some(self.1)));
        Ok(())
    }

    fn name(&self) -> String {
        "fixed".into()
    }
}

/// In these tests nobody but the requests themselves samples.
#[tokio::test]
async fn one_that_is_paused_goes_on_when_another_ends() {
    let server = Server::new(get(grow)).await;
    let before = server.guard.acquire(4 * MIB).await.unwrap();
    let response = server.get();
    server.pause_one().await;
    server.memory.set_usage_bytes(0);
    drop(before);
    eventually("it goes on", || server.stage.taken() == 2).await;
    server.stage.allow(2);
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
    server.nothing_is_left().await;
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn one_that_is_paused_goes_on_when_the_poll_of_another_is_over() {
    let (layer, memory) = guarded(|builder| builder);
    let guard = layer.guard().clone();
    let [first, second] = [(); 2].map(|()| guard.try_acquire(16 * MIB).unwrap());
    // Room for what a poll of one of them may add.
    memory.set_usage_bytes(955 * MIB);
    guard.sample_now();
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut second = Box::pin(second.follow(std::future::pending::<()>()));
    let mut first = Box::pin(first.follow(poll_fn(|_| {
        let cx = &mut Context::from_waker(&waker);
        assert!(second.as_mut().poll(cx).is_pending());
        assert_eq!(guard.stats().paused_tasks, 1);
        assert!(!woken.0.load(Ordering::Relaxed));
        Poll::<()>::Pending
    })));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(woken.0.load(Ordering::Relaxed));
    drop(first);
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 0);
}

#[tokio::test]
async fn work_that_was_paused_by_itself_goes_on_within_its_request() {
    let (layer, memory) = guarded(|builder| builder);
    let guard = layer.guard().clone();
    let [permit, _other] = [(); 2].map(|()| guard.try_acquire(16 * MIB).unwrap());
    let mut part = Box::pin(permit.clone().follow(std::future::pending::<()>()));
    fill(&guard, &memory, 100);
    assert!(poll_once(part.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 1);
    // Room for what a poll may add, and not for twice as much.
    memory.set_usage_bytes(955 * MIB);
    guard.sample_now();
    let mut whole = Box::pin(permit.follow(poll_fn(|cx| part.as_mut().poll(cx))));
    assert!(poll_once(whole.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 0);
}

#[tokio::test]
async fn one_that_is_expected_to_need_more_than_there_is_goes_on_alone() {
    let builder = MemoryGuardLayer::builder().estimated_bytes_per_request(200 * MIB);
    let source = Fixed(80 * MIB, 256 * MIB);
    let layer = builder.memory_source(source).build().unwrap();
    let guard = layer.guard().clone();
    let stage = Stage::default();
    let app = Router::new().route("/", get(grow)).layer(layer);
    let address = support::serve_axum(app.with_state(stage.clone())).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let uri = format!("http://{address}/").parse().unwrap();
    let response = tokio::spawn(async move { client.get(uri).await.unwrap() });
    for step in 1..=3 {
        eventually("it goes on", || stage.taken() == step).await;
        guard.sample_now();
        stage.allow(1);
    }
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
}

#[tokio::test]
async fn tasks_are_paused_at_their_checkpoints() {
    async fn detached(
        State(stage): State<Stage>,
        Extension(permit): Extension<Permit>,
    ) -> &'static str {
        // In a guarded poll it is ready at once.
        permit.checkpoint_async().await.unwrap();
        let job = tokio::spawn(async move {
            stage.took();
            stage.allowed().await;
            let outcome = permit.checkpoint_async().await;
            *stage.outcome.lock().unwrap() = Some(outcome);
        });
        job.await.unwrap();
        "done"
    }
    let outcome = |server: &Server| *server.stage.outcome.lock().unwrap();
    let server = Server::new(get(detached)).await;
    let response = server.get();
    server.pause_one().await;
    assert_eq!(outcome(&server), None);
    server.fill(10);
    assert_eq!(text(response.await.unwrap()).await, "done");
    assert_eq!(outcome(&server), Some(Ok(())));

    let server = Server::new(get(detached)).await;
    let request = server.get();
    server.pause_one().await;
    request.abort();
    eventually("it was told", || outcome(&server) == Some(Err(Cancelled))).await;
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_response_is_paused_between_its_frames() {
    async fn streamed(State(stage): State<Stage>) -> Body {
        let frames = stream::unfold((stage, 0), |(stage, sent)| async move {
            if sent > 0 {
                stage.allowed().await;
            }
            if sent == 3 {
                return None;
            }
            stage.took();
            let frame = Bytes::from(vec![b'x'; 100 << 10]);
            Some((Ok::<_, std::io::Error>(frame), (stage, sent + 1)))
        });
        Body::from_stream(frames)
    }
    let server = Server::new(get(streamed)).await;
    let response = server.get().await.unwrap();
    let body = tokio::spawn(text(response));
    server.pause_one().await;
    server.fill(10);
    eventually("it goes on", || server.stage.taken() == 2).await;
    server.stage.allow(2);
    assert_eq!(body.await.unwrap().len(), 300 << 10);
    server.nothing_is_left().await;
}

/// The first is a stream that never ends.
async fn stream_or_grow(state: State<Stage>, permit: Extension<Permit>) -> Body {
    if state.0.taken() > 0 {
        return Body::from(grow(state, permit).await);
    }
    state.0.took();
    let ticks = stream::unfold(Vec::new(), |held| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let held = if held.is_empty() { block() } else { held };
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"tick")), held))
    });
    Body::from_stream(ticks)
}

#[tokio::test]
async fn beside_a_stream_that_never_ends_the_others_do_not_stand_still() {
    let server = Server::new(get(stream_or_grow)).await;
    let mut stream = server.get().await.unwrap().into_body();
    let read = Arc::new(AtomicUsize::new(0));
    let frames = Arc::clone(&read);
    let reads = tokio::spawn(async move {
        while stream.frame().await.is_some() {
            frames.fetch_add(1, Ordering::Relaxed);
        }
    });
    eventually("it is known by what it adds", || {
        server.guard.sample_now();
        read.load(Ordering::Relaxed) >= 40
    })
    .await;
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 2).await;
    // Less than is kept for those that are stuck, and enough for what it adds.
    server.memory.set_usage_bytes(980 * MIB);
    server.guard.sample_now();
    server.stage.allow(1);
    eventually("it is paused", || server.paused() == 1).await;
    eventually("it goes on all the same", || {
        server.guard.sample_now();
        server.stage.taken() == 3
    })
    .await;
    server.stage.allow(2);
    server.fill(10);
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
    reads.abort();
    server.nothing_is_left().await;
}

#[tokio::test]
async fn a_checkpoint_that_is_given_up_leaves_nothing_behind() {
    let (layer, memory) = guarded(|builder| builder);
    let guard = layer.guard().clone();
    let permit = guard.acquire(Cost::Estimated).await.unwrap();
    fill(&guard, &memory, 100);
    let mut checkpoint = Box::pin(permit.checkpoint_async());
    assert!(poll_once(checkpoint.as_mut()).is_pending());
    assert_eq!(guard.stats().paused_tasks, 1);
    drop(checkpoint);
    assert_eq!(guard.stats().paused_tasks, 0);
    fill(&guard, &memory, 10);
    permit.checkpoint_async().await.unwrap();
    permit.checkpoint().unwrap();
}

/// The same, and it changes.
#[derive(Clone, Default)]
struct Used(Arc<AtomicU64>);

impl MemorySource for Used {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> std::io::Result<()> {
        Fixed(self.0.load(Ordering::Relaxed), 1000 * MIB).read(detail, sample)
    }

    fn name(&self) -> String {
        "used".into()
    }
}

#[tokio::test]
async fn closing_a_full_process_does_not_let_all_grow_at_once() {
    let used = Used::default();
    let builder = MemoryGuardLayer::builder().memory_source(used.clone());
    let layer = builder.estimated_bytes_per_request(16 * MIB);
    let layer = layer.build().unwrap();
    let (guard, stage) = (layer.guard().clone(), Stage::default());
    let app = Router::new().route("/", get(grow)).layer(layer);
    let server = Server {
        address: support::serve_axum(app.with_state(stage.clone())).await,
        guard: guard.clone(),
        stage,
        memory: ManualSource::new(MIB),
    };
    let response = server.get();
    eventually("it has begun", || server.stage.taken() == 1).await;
    used.0.store(1000 * MIB, Ordering::Relaxed);
    guard.sample_now();
    server.stage.allow(3);
    eventually("it is paused", || server.paused() == 1).await;
    guard.close();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((server.paused(), server.stage.taken()), (1, 1));
    // But not for ever.
    assert_eq!(text(response.await.unwrap()).await, "4 blocks");
}
