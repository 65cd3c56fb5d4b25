//! What waiting costs, beside tokio's `Semaphore` with a `timeout`.
//!
//! `cargo bench --bench queue [-- --waiters 100000]`
//!
//! All waiters join, then one permit goes through all of them. Rounds are
//! interleaved; printed are medians, and ratios in the same run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_memory_guard::{
    Class, Detail, Guard, MemoryGuardLayer, MemoryLevel, MemorySource, Policy, Sample,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated and not freed.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Counts, and keeps no accounts: most services have no accounting.
struct Counting;

#[allow(unsafe_code)]
// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

const ROUNDS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(86_400);
const TENANTS: usize = 64;

/// Memory that nobody uses; each guard has a ledger of its own.
struct Steady;

impl MemorySource for Steady {
    fn read(&mut self, _: Detail, sample: &mut Sample) -> std::io::Result<()> {
        sample.push(MemoryLevel::new(1 << 20, Some(1 << 30)));
        Ok(())
    }

    fn name(&self) -> String {
        "steady".to_owned()
    }
}

/// One way to wait.
#[derive(Clone)]
enum Contender {
    Semaphore(Arc<Semaphore>),
    /// With a class for each waiter, taken in turn.
    Guard(Guard, Arc<[Class]>),
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Contender {
    fn guard(classes: Arc<[Class]>) -> Self {
        let layer = MemoryGuardLayer::builder()
            .memory_source(Steady)
            .policy(Policy::Predictive)
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .max_waiting(1 << 20)
            .wait_timeout(PATIENCE)
            .build()
            .expect("good settings");
        Self::Guard(layer.guard().clone(), classes)
    }

    /// Takes the one permit, for as long as the answer lives.
    async fn take(&self) -> Box<dyn Send> {
        match self {
            Self::Semaphore(semaphore) => {
                let permit = Arc::clone(semaphore).acquire_owned().await;
                Box::new(permit.expect("it is open"))
            }
            Self::Guard(guard, classes) => {
                Box::new(guard.acquire_for(&classes[0]).await.expect("it is free"))
            }
        }
    }

    fn waiter(&self, number: usize) -> Waiting {
        match self.clone() {
            Self::Semaphore(semaphore) => Box::pin(async move {
                let permit = timeout(PATIENCE, semaphore.acquire()).await;
                drop(permit.expect("in time").expect("it is open"));
            }),
            Self::Guard(guard, classes) => Box::pin(async move {
                let class = &classes[number % classes.len()];
                drop(guard.acquire_for(class).await.expect("in time"));
            }),
        }
    }
}

/// Nanoseconds for each waiter.
#[derive(Clone, Copy, Debug)]
struct Round {
    join: f64,
    hand_over: f64,
    cancel: f64,
}

fn round(contender: &Contender, waiters: usize) -> Round {
    let runtime = runtime();
    let each = |elapsed: Duration| elapsed.as_nanos() as f64 / waiters as f64;
    runtime.block_on(async {
        let permit = contender.take().await;
        let started = Instant::now();
        let tasks: Vec<_> = (0..waiters)
            .map(|number| tokio::spawn(contender.waiter(number)))
            .collect();
        tokio::task::yield_now().await;
        let join = each(started.elapsed());
        let started = Instant::now();
        drop(permit);
        for task in tasks {
            task.await.expect("it waits and goes");
        }
        let hand_over = each(started.elapsed());

        let permit = contender.take().await;
        let mut waiting: Vec<Waiting> = (0..waiters).map(|n| contender.waiter(n)).collect();
        std::future::poll_fn(|cx| {
            for waiter in &mut waiting {
                assert!(waiter.as_mut().poll(cx).is_pending());
            }
            std::task::Poll::Ready(())
        })
        .await;
        // In no order: as callers give up.
        fastrand::shuffle(&mut waiting);
        let started = Instant::now();
        drop(waiting);
        let cancel = each(started.elapsed());
        drop(permit);
        Round {
            join,
            hand_over,
            cancel,
        }
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// Bytes that a waiter takes, its future and its timer included.
fn bytes_per_waiter(contender: &Contender, waiters: usize) -> f64 {
    let allocated = || ALLOCATED.load(Ordering::Relaxed) as f64;
    runtime().block_on(async {
        let permit = contender.take().await;
        let mut waiting: Vec<Waiting> = Vec::with_capacity(waiters);
        let before = allocated();
        waiting.extend((0..waiters).map(|n| contender.waiter(n)));
        std::future::poll_fn(|cx| {
            for waiter in &mut waiting {
                assert!(waiter.as_mut().poll(cx).is_pending());
            }
            std::task::Poll::Ready(())
        })
        .await;
        let bytes = (allocated() - before) / waiters as f64;
        drop(waiting);
        drop(permit);
        bytes
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|word| word == "--waiters");
    let most = given.map_or(100_000, |at| {
        arguments[at + 1].parse().expect("a number of waiters")
    });
    let one: Arc<[Class]> = [Class::default()].into();
    let tenants: Arc<[Class]> = (0..TENANTS)
        .map(|n| Class::new("work").tenant(format!("tenant {n}")))
        .collect();
    let contenders = [
        (
            "Semaphore with timeout",
            Contender::Semaphore(Arc::new(Semaphore::new(1))),
        ),
        ("guard, one class", Contender::guard(one)),
        ("guard, 64 tenants", Contender::guard(tenants)),
    ];
    println!("ns for each waiter, medians of {ROUNDS}; in brackets, of the semaphore's\n");
    println!("| waiters | | join | hand over | cancel | bytes |");
    println!("|---|---|---|---|---|---|");
    for waiters in [most / 100, most / 10, most] {
        let mut rounds: [Vec<Round>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for ((_, contender), rounds) in contenders.iter().zip(&mut rounds) {
                rounds.push(round(contender, waiters));
            }
        }
        let of =
            |rounds: &[Round], part: fn(&Round) -> f64| median(rounds.iter().map(part).collect());
        for ((name, contender), all) in contenders.iter().zip(&rounds) {
            let part = |part: fn(&Round) -> f64| {
                let (own, other) = (of(all, part), of(&rounds[0], part));
                format!("{own:.0} ({:.2})", own / other)
            };
            println!(
                "| {waiters} | {name} | {} | {} | {} | {:.0} |",
                part(|round| round.join),
                part(|round| round.hand_over),
                part(|round| round.cancel),
                bytes_per_waiter(contender, waiters),
            );
        }
    }
}
