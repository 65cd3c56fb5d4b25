//! What a request pays that is admitted at once: bare, and under the guard and
//! its peers.
//!
//! Each request clones the service, as axum does, then asks `poll_ready`, calls,
//! polls the future to its end and drops the response. `two threads` is the time
//! of one request while another thread does the same.
//!
//! `cargo bench --bench overhead`

#[path = "../tests/support/inner.rs"]
mod inner;

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Request;
use inner::Inner;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder};
use tower_memlim::layer::MemoryLimitLayer;
use tower_memlim::memory::{AvailableMemory, Threshold};
use tower_memory_guard::{ManualSource, MemoryGuardLayer};

/// What tower-memlim reads on Linux: a file, in every `poll_ready`.
#[derive(Clone)]
struct StatFile;

impl AvailableMemory for StatFile {
    fn available_memory(&self) -> Result<usize, tower_memlim::error::BoxError> {
        let text = std::fs::read_to_string("/proc/self/statm")?;
        black_box(text.len());
        Ok(usize::MAX)
    }
}

fn request<S, R>(service: &S, request: R)
where
    S: Service<R> + Clone,
{
    let cx = &mut Context::from_waker(Waker::noop());
    let mut service = service.clone();
    assert!(matches!(service.poll_ready(cx), Poll::Ready(Ok(()))));
    let future = pin!(service.call(request));
    match future.poll(cx) {
        Poll::Ready(Ok(response)) => drop(black_box(response)),
        _ => panic!("not admitted at once"),
    }
}

/// Time for `iterations` requests while another thread makes as many.
fn beside_another<S, R>(service: &S, new: fn() -> R, iterations: u64) -> Duration
where
    S: Service<R> + Clone + Send,
{
    let barrier = &Barrier::new(2);
    let runtime = &tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let workers = [service.clone(), service.clone()].map(|service| {
            scope.spawn(move || {
                let _entered = runtime.enter();
                barrier.wait();
                let started = Instant::now();
                (0..iterations).for_each(|_| request(&service, new()));
                started.elapsed()
            })
        });
        let times = workers.map(|worker| worker.join().expect("no panic"));
        times.into_iter().max().unwrap_or_default()
    })
}

struct Group<'a> {
    criterion: &'a mut Criterion,
    name: &'static str,
}

impl Group<'_> {
    fn add<S, R>(&mut self, name: &str, new: fn() -> R, service: S)
    where
        S: Service<R> + Clone + Send,
    {
        let mut group = self.criterion.benchmark_group(self.name);
        group.bench_function(BenchmarkId::new(name, "one thread"), |bencher| {
            bencher.iter(|| request(&service, new()));
        });
        group.bench_function(BenchmarkId::new(name, "two threads"), |bencher| {
            bencher.iter_custom(|iterations| beside_another(&service, new, iterations));
        });
        group.finish();
    }
}

fn guard(in_extensions: bool) -> MemoryGuardLayer {
    let builder = MemoryGuardLayer::builder().memory_source(ManualSource::new(1 << 40));
    builder
        .permit_in_extensions(in_extensions)
        .build()
        .expect("good settings")
}

fn overhead(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let fixed = GlobalConcurrencyLimitLayer::new(1000);
    let shed = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(fixed.clone())
        .service(Inner);
    let timeout = TimeoutLayer::new(Duration::from_secs(10));
    let memlim = MemoryLimitLayer::new(Threshold::MinAvailableBytes(1), StatFile);

    let number = || black_box(7_u64);
    let mut any = Group {
        criterion,
        name: "any",
    };
    any.add("bare", number, Inner);
    any.add("GlobalConcurrencyLimit", number, fixed.layer(Inner));
    any.add("LoadShed over GlobalConcurrencyLimit", number, shed);
    any.add("Timeout", number, timeout.layer(Inner));
    any.add("tower-memlim", number, memlim.layer(Inner));
    any.add(
        "guard, error flavour",
        number,
        guard(false).into_error_layer().layer(Inner),
    );

    let get = || Request::new(());
    let mut http = Group {
        criterion,
        name: "http",
    };
    http.add("bare", get, Inner);
    http.add("GlobalConcurrencyLimit", get, fixed.layer(Inner));
    http.add("guard, response flavour", get, guard(false).layer(Inner));
    http.add("guard, permit in extensions", get, guard(true).layer(Inner));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(60)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = overhead
}
criterion_main!(benches);
