//! What the tests share: guards over a source that says what it is told, and
//! servers on loopback.
#![allow(dead_code)]

#[cfg(unix)]
pub(crate) mod browser;
pub(crate) mod events;
pub(crate) mod inner;
pub(crate) mod resident;
pub(crate) mod tools;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Once};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::test_runner::{Config, FileFailurePersistence};
use tokio::net::TcpListener;
use tower_memory_guard::{
    Detail, Guard, ManualSource, MemoryGuardBuilder, MemoryGuardLayer, MemoryLevel, MemorySource,
    Pressure, PressureContext, Sample,
};

pub(crate) const MIB: u64 = 1 << 20;
/// Of every guard that [`with`] makes.
pub(crate) const LIMIT: u64 = 1000 * MIB;

/// What `ManualSource` is, but sampled by the guard's thread, as the built-in sources are.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<AtomicU64>);

impl Shared {
    pub(crate) fn is_used(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl MemorySource for Shared {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> io::Result<()> {
        let usage_bytes = self.0.load(Ordering::Relaxed);
        sample.push(MemoryLevel::new(usage_bytes, Some(LIMIT)));
        Ok(())
    }

    fn name(&self) -> String {
        "shared".into()
    }
}

/// A guard over 1,000 MiB of memory that is what `ManualSource` is told, with
/// requests so small that only the count binds.
pub(crate) fn counting(max_concurrent: u32) -> (MemoryGuardLayer, ManualSource) {
    with(|builder| {
        builder
            .max_concurrent(max_concurrent)
            .estimated_bytes_per_request(1024)
    })
}

/// A guard over 1,000 MiB of memory that is what `ManualSource` is told.
pub(crate) fn with(
    set: impl FnOnce(MemoryGuardBuilder) -> MemoryGuardBuilder,
) -> (MemoryGuardLayer, ManualSource) {
    let memory = ManualSource::new(LIMIT);
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    let layer = set(builder).build().expect("good settings");
    (layer, memory)
}

/// Memory is `percent` full from now on.
pub(crate) fn fill(guard: &Guard, memory: &ManualSource, percent: u64) {
    memory.set_usage_bytes(LIMIT * percent / 100);
    guard.sample_now();
}

/// Memory becomes so full in a while in which nobody would be afraid.
pub(crate) async fn creep(guard: &Guard, memory: &ManualSource, percents: &[u64]) {
    for &percent in percents {
        fill(guard, memory, percent);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// It has filled by a quarter within a moment, and would be full in another one.
pub(crate) async fn rush(guard: &Guard, memory: &ManualSource) {
    creep(guard, memory, &[40, 65, 71]).await;
    fill(guard, memory, 71);
    fill(guard, memory, 96);
}

/// Nothing is left of any request: no permit, no byte, no waiter.
pub(crate) fn assert_empty(guard: &Guard) {
    let stats = guard.stats();
    let left = (
        stats.active_tasks,
        stats.waiting_requests,
        stats.reserved_mib,
    );
    assert_eq!(left, (0, 0, 0.0), "{stats:?}");
}

/// Nobody gives memory back meanwhile: the threads that do would sample at any time.
pub(crate) fn hold_up_releases() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (says, said) = channel();
        let (layer, memory) = with(|builder| builder);
        let hooks = says.clone();
        let hold_up = move |_: &PressureContext| stay(&hooks);
        layer.guard().on_pressure(Pressure::Critical, hold_up);
        fill(layer.guard(), &memory, 100);
        said.recv().unwrap();
        let memory = ManualSource::new(LIMIT);
        let holds_up = HoldsUp(memory.clone(), says);
        let builder = MemoryGuardLayer::builder().memory_source(holds_up);
        let layer = builder.build().unwrap();
        // Where that can be told, there is something to give back.
        let large = vec![1_u8; 64 << 20];
        layer.guard().sample_now();
        drop(std::hint::black_box(large));
        fill(layer.guard(), &memory, 100);
        said.recv().unwrap();
    });
}

/// A source from which whoever trims does not come back.
struct HoldsUp(ManualSource, Sender<()>);

impl MemorySource for HoldsUp {
    fn read(&mut self, detail: Detail, sample: &mut Sample) -> io::Result<()> {
        if std::thread::current().name() == Some("memory-release") {
            stay(&self.1);
        }
        self.0.read(detail, sample)
    }

    fn name(&self) -> String {
        "holds up".into()
    }

    fn in_background(&self) -> bool {
        false
    }
}

/// Says that it is there, and stays.
fn stay(says: &Sender<()>) {
    says.send(()).unwrap();
    loop {
        std::thread::park();
    }
}

/// Looks until `condition` holds: for what another task or thread does.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// So many cases of a property, or as many as `PROPTEST_CASES` says. What fails is kept
/// beside the test's source, and tried again.
pub(crate) fn cases(cases: u32) -> Config {
    let persistence = FileFailurePersistence::WithSource("proptest-regressions");
    let config = Config {
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => Config { cases, ..config },
    }
}

/// One look at a future, by a task that is not there to be woken.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A port of the loopback interface.
pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves a router on loopback until the runtime ends.
pub(crate) async fn serve_axum(app: axum::Router) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}
