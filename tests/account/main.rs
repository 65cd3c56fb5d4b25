//! Memory is charged to the request that causes it, through real servers.

mod cancel;
#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{MIB, assert_empty, eventually, with};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory_guard::account::{self, TrackingAllocator};
use tower_memory_guard::{Class, Cost, Guard, ManualSource, MemoryGuardLayer, Permit, Reason};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

/// Within what accounts are exact to, on each thread.
const EXACT: u64 = 64 << 10;

fn about(bytes: u64, expected: u64) -> bool {
    bytes.abs_diff(expected) <= 2 * EXACT
}

/// Guarded `app`, and its guard.
async fn serve(app: Router) -> (std::net::SocketAddr, Guard) {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let address = support::serve_axum(app.layer(layer)).await;
    (address, guard)
}

async fn body(address: std::net::SocketAddr, path: &str) -> String {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let uri = format!("http://{address}{path}").parse().unwrap();
    let response = client.get(uri).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_handler_is_charged_for_what_it_holds_at_its_peak() {
    let work = |Extension(permit): Extension<Permit>| async move {
        let first = vec![1_u8; 3 * MIB as usize];
        tokio::time::sleep(Duration::from_millis(5)).await;
        let second = vec![1_u8; 2 * MIB as usize];
        drop((first, second));
        let _third = vec![1_u8; MIB as usize];
        permit.peak_bytes().to_string()
    };
    let (address, guard) = serve(Router::new().route("/", get(work))).await;
    let peak: u64 = body(address, "/").await.parse().unwrap();
    assert!(about(peak, 5 * MIB), "{peak}");
    eventually("nothing is left", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}

#[tokio::test]
async fn requests_at_the_same_time_have_accounts_of_their_own() {
    let small = |Extension(permit): Extension<Permit>| async move {
        for _ in 0..20 {
            let held = vec![1_u8; MIB as usize];
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(held);
        }
        permit.peak_bytes().to_string()
    };
    let large = |Extension(permit): Extension<Permit>| async move {
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(vec![1_u8; MIB as usize]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        permit.peak_bytes().to_string()
    };
    let app = Router::new()
        .route("/small", get(small))
        .route("/large", get(large));
    let (address, _) = serve(app).await;
    let (small, large) = tokio::join!(body(address, "/small"), body(address, "/large"));
    let (small, large): (u64, u64) = (small.parse().unwrap(), large.parse().unwrap());
    assert!(
        about(small, MIB) && about(large, 20 * MIB),
        "{small} {large}"
    );
}

#[tokio::test]
async fn work_on_other_threads_keeps_its_account_and_its_permit() {
    let work = |Extension(permit): Extension<Permit>| async move {
        let on_a_thread = account::spawn_blocking(|| vec![1_u8; 4 * MIB as usize].len());
        on_a_thread.await.unwrap();
        let in_a_task = account::spawn(async { vec![1_u8; 6 * MIB as usize] });
        let held = in_a_task.await.unwrap();
        let by_hand = account::carry(|| vec![1_u8; 2 * MIB as usize]);
        let more = std::thread::spawn(by_hand).join().unwrap();
        drop((held, more));
        permit.peak_bytes().to_string()
    };
    let (address, guard) = serve(Router::new().route("/", get(work))).await;
    let peak: u64 = body(address, "/").await.parse().unwrap();
    assert!(about(peak, 8 * MIB), "{peak}");

    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let begun = std::sync::Arc::new(std::sync::Mutex::new(begun));
    let outlives = move || {
        let begun = begun.clone();
        async move {
            account::spawn_blocking(move || begun.lock().unwrap().recv());
        }
    };
    let app = Router::new().route("/", get(outlives));
    let (address, other) = serve(app).await;
    body(address, "/").await;
    assert_eq!(other.stats().active_tasks, 1);
    begin.send(()).unwrap();
    eventually("the closure ended", || other.stats().active_tasks == 0).await;
    eventually("the others ended", || guard.stats().active_tasks == 0).await;
}

#[tokio::test]
async fn what_a_closure_held_that_no_thread_came_to_is_no_longer_the_requests() {
    let work = |Extension(permit): Extension<Permit>| async move {
        let held = vec![1_u8; 6 * MIB as usize];
        let carried = account::carry(move || held.len());
        std::thread::spawn(move || drop(carried)).join().unwrap();
        let after = vec![1_u8; 4 * MIB as usize];
        drop(after);
        permit.peak_bytes().to_string()
    };
    let (address, guard) = serve(Router::new().route("/", get(work))).await;
    let peak: u64 = body(address, "/").await.parse().unwrap();
    assert!(about(peak, 6 * MIB), "{peak}");
    eventually("nothing is left", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}

#[tokio::test]
async fn a_streamed_body_is_charged_while_it_is_polled() {
    let work = |Extension(permit): Extension<Permit>| async move {
        let parts = stream::unfold(0, move |part| {
            let permit = permit.clone();
            async move {
                if part == 3 {
                    return None;
                }
                let held = vec![1_u8; 3 * MIB as usize];
                tokio::time::sleep(Duration::from_millis(1)).await;
                drop(held);
                let said = format!("{} ", permit.peak_bytes());
                Some((Ok::<_, std::io::Error>(Bytes::from(said)), part + 1))
            }
        });
        Body::from_stream(parts)
    };
    let (address, _) = serve(Router::new().route("/", get(work))).await;
    let said = body(address, "/").await;
    let last: u64 = said.split_whitespace().last().unwrap().parse().unwrap();
    assert!(about(last, 3 * MIB), "{said}");
}

#[tokio::test]
async fn memory_handed_to_another_request_corrupts_nobody() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let first = guard.acquire(Cost::Estimated).await.unwrap();
    let second = guard.acquire(Cost::Estimated).await.unwrap();
    let cache = first
        .clone()
        .follow(async { vec![1_u8; 8 * MIB as usize] })
        .await;
    // The second frees what the first allocated, then needs memory itself.
    second
        .clone()
        .follow(async move {
            drop(cache);
            let held = vec![1_u8; 5 * MIB as usize];
            tokio::task::yield_now().await;
            drop(held);
        })
        .await;
    assert!(about(first.peak_bytes(), 8 * MIB), "{}", first.peak_bytes());
    assert!(
        about(second.peak_bytes(), 5 * MIB),
        "{}",
        second.peak_bytes()
    );
    assert!(second.allocations() >= 1);
}

#[tokio::test]
async fn a_panic_leaves_no_account_behind() {
    let (layer, _) = with(|builder| builder);
    let guard = layer.guard().clone();
    let permit = guard.acquire(Cost::Estimated).await.unwrap();
    let job = tokio::spawn(permit.follow(async {
        let _held = vec![1_u8; MIB as usize];
        assert!(account::current().is_some());
        std::panic::resume_unwind(Box::new("expected"));
    }));
    assert!(job.await.is_err());
    assert!(account::current().is_none());
    assert_empty(&guard);
}

#[tokio::test]
async fn nested_guards_on_other_memory_both_know() {
    let (outer, _) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let (inner, _) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let outer = outer.guard().acquire(Cost::Estimated).await.unwrap();
    let inner = inner.guard().acquire(Cost::Estimated).await.unwrap();
    let work = inner.clone().follow(async { vec![1_u8; 4 * MIB as usize] });
    let held = outer.clone().follow(work).await;
    assert!(about(inner.peak_bytes(), 4 * MIB) && about(outer.peak_bytes(), 4 * MIB));
    drop(held);
}

#[test]
fn thread_locals_that_are_destroyed_may_allocate_and_free() {
    struct Late(Option<Vec<u8>>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.0 = Some(vec![1; MIB as usize]);
        }
    }
    thread_local! {
        static LATE: std::cell::RefCell<Late> = const { std::cell::RefCell::new(Late(None)) };
    }
    for _ in 0..8 {
        let thread = std::thread::spawn(|| LATE.with_borrow_mut(|late| late.0 = Some(vec![1; 99])));
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn estimates_come_from_what_requests_were_seen_to_need() {
    let work = || async {
        let held = vec![1_u8; 10 * MIB as usize];
        tokio::time::sleep(Duration::from_millis(2)).await;
        held.len().to_string()
    };
    let (address, guard) = serve(Router::new().route("/", get(work))).await;
    for _ in 0..40 {
        body(address, "/").await;
        guard.sample_now();
    }
    let estimate = guard.stats().estimated_mem_per_req_mib;
    assert!((9.0..12.0).contains(&estimate), "{estimate}");
    let saved = serde_json::to_string(&guard.estimates()).unwrap();
    let (restarted, _) = with(|builder| {
        builder
            .estimated_bytes_per_request(200 * MIB)
            .estimates(serde_json::from_str(&saved).unwrap())
    });
    let warm = restarted.guard().stats().estimated_mem_per_req_mib;
    let (cold, _) = with(|builder| builder.estimated_bytes_per_request(200 * MIB));
    let cold = cold.guard().stats().estimated_mem_per_req_mib;
    assert!(warm < 100.0 && cold == 200.0, "{warm} {cold}");
}

#[tokio::test]
async fn a_permit_grows_at_once_or_not_at_all() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard();
    let permit = guard.acquire(100 * MIB).await.unwrap();
    permit.try_grow(200 * MIB).unwrap();
    assert_eq!(permit.bytes(), 300 * MIB);
    let clone = permit.clone();
    assert_eq!(
        clone.try_grow(690 * MIB).unwrap_err().reason(),
        Reason::NoRoom
    );
    assert_eq!(
        clone.try_grow(1200 * MIB).unwrap_err().reason(),
        Reason::NeverFits
    );
    assert_eq!(guard.stats().reserved_mib, 300.0);
    // What is held already is said, not asked for.
    permit.report(900 * MIB);
    assert_eq!(guard.stats().reserved_mib, 900.0);
    guard.sample_now();
    assert!(guard.try_acquire(200 * MIB).is_err());
    drop((permit, clone));
    assert_empty(guard);
    guard.sample_now();
    assert!(guard.try_acquire(200 * MIB).is_ok());
}

#[tokio::test]
async fn what_was_sent_is_no_longer_charged() {
    let work = |Extension(permit): Extension<Permit>| async move {
        let parts = stream::unfold(0, move |part| {
            let permit = permit.clone();
            async move {
                if part == 64 {
                    return None;
                }
                // Half of them small, half of them carried with a share.
                let size = if part % 2 == 0 {
                    32 << 10
                } else {
                    MIB as usize
                };
                let frame = Bytes::from(vec![b'x'; size]);
                if part == 63 {
                    return Some((Ok(Bytes::from(format!("|{}", permit.peak_bytes()))), 64));
                }
                Some((Ok::<_, std::io::Error>(frame), part + 1))
            }
        });
        Body::from_stream(parts)
    };
    let (address, _) = serve(Router::new().route("/", get(work))).await;
    let said = body(address, "/").await;
    let peak: u64 = said.rsplit('|').next().unwrap().parse().unwrap();
    // 32 MiB went by; some of it was on its way.
    assert!(peak < 8 * MIB, "{peak}");
}

#[tokio::test]
async fn a_nested_guards_permit_speaks_for_the_outer_ones() {
    let (outer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let outer = outer.guard().clone();
    let work = |Extension(permit): Extension<Permit>| async move {
        let job = account::spawn_blocking(|| vec![1_u8; 4 * MIB as usize].len());
        job.await.unwrap();
        permit.try_grow(20 * MIB).unwrap();
        permit.report(30 * MIB);
        format!("{} {}", permit.peak_bytes(), permit.bytes())
    };
    // Two layers of one guard's ledger: the inner one counts only.
    let inner = tower_memory_guard::MemoryGuardLayer::from(outer.clone());
    let app = Router::new()
        .route("/", get(work))
        .layer(inner)
        .layer(tower_memory_guard::MemoryGuardLayer::from(outer.clone()));
    let address = support::serve_axum(app).await;
    for _ in 0..3 {
        let said = body(address, "/").await;
        let (peak, bytes) = said.split_once(' ').unwrap();
        let (peak, bytes): (u64, u64) = (peak.parse().unwrap(), bytes.parse().unwrap());
        assert!(peak >= 30 * MIB && bytes >= 30 * MIB, "{said}");
    }
    eventually("nothing is left", || outer.stats().active_tasks == 0).await;
    assert_empty(&outer);
    drop(memory);
}

#[tokio::test]
async fn a_request_is_charged_once_with_a_guard_of_other_memory_in_between() {
    let of_the_system = || {
        let builder = tower_memory_guard::MemoryGuardLayer::builder();
        builder.estimated_bytes_per_request(MIB).build().unwrap()
    };
    let (between, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let work = |Extension(permit): Extension<Permit>| async move {
        let held = vec![1_u8; 4 * MIB as usize];
        tokio::task::yield_now().await;
        drop(held);
        permit.peak_bytes().to_string()
    };
    let app = Router::new()
        .route("/", get(work))
        .layer(of_the_system())
        .layer(between)
        .layer(of_the_system());
    let address = support::serve_axum(app).await;
    let peak: u64 = body(address, "/").await.parse().unwrap();
    assert!(about(peak, 4 * MIB), "{peak}");
}

#[tokio::test]
async fn what_a_permit_grew_by_stays_promised() {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(10 * MIB));
    let guard = layer.guard().clone();
    let permit = guard.acquire(Cost::Estimated).await.unwrap();
    let held = permit
        .clone()
        .follow(async { vec![1_u8; 5 * MIB as usize] });
    let held = held.await;
    permit.try_grow(700 * MIB).unwrap();
    for _ in 0..5 {
        guard.sample_now();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(guard.try_acquire(400 * MIB).is_err(), "{:?}", guard.stats());
    drop((held, permit));
    guard.sample_now();
    assert!(guard.try_acquire(400 * MIB).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_a_stalled_peer_lets_go_late_is_not_taken_off_another_request() {
    use std::pin::pin;
    use support::poll_once;
    let (layer, _memory) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(MIB);
        builder.body_timeout(Duration::from_secs(5))
    });
    let guard = layer.guard().clone();
    let large = service_fn(|_: axum::extract::Request| async {
        let frame = Bytes::from(vec![1_u8; 4 * MIB as usize]);
        let frames = futures_util::StreamExt::chain(
            stream::iter([Ok::<_, std::io::Error>(frame)]),
            stream::pending(),
        );
        Ok::<_, std::io::Error>(axum::http::Response::new(Body::from_stream(frames)))
    });
    let request = || axum::extract::Request::new(Body::empty());
    let mut body = layer
        .layer(large)
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(body.frame().await.unwrap().unwrap());
    }
    // The peer stalls, and its request is over.
    for _ in 0..3 {
        guard.sample_now();
        tokio::time::advance(Duration::from_secs(6)).await;
    }
    guard.sample_now();
    assert_empty(&guard);

    let permit: Arc<Mutex<Option<Permit>>> = Arc::default();
    let keep = Arc::clone(&permit);
    let growing = service_fn(move |request: axum::extract::Request| {
        *keep.lock().unwrap() = request.extensions().get::<Permit>().cloned();
        async {
            let first = vec![1_u8; 3 * MIB as usize];
            tokio::task::yield_now().await;
            let second = vec![1_u8; 3 * MIB as usize];
            drop((first, second));
            Ok::<_, std::io::Error>(axum::http::Response::new(Body::empty()))
        }
    });
    let mut response = pin!(layer.layer(growing).oneshot(request()));
    assert!(poll_once(response.as_mut()).is_pending());
    drop(held);
    assert!(poll_once(response.as_mut()).is_ready());
    let peak = permit.lock().unwrap().as_ref().unwrap().peak_bytes();
    assert!(about(peak, 6 * MIB), "{peak}");
}

#[tokio::test]
async fn what_a_future_held_that_is_dropped_is_off_its_account() {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let permit = layer.guard().acquire(Cost::Estimated).await.unwrap();
    let holds = || async {
        let held = vec![1_u8; 4 * MIB as usize];
        std::future::pending::<()>().await;
        drop(held);
    };
    for _ in 0..3 {
        let mut work = Box::pin(permit.clone().follow(holds()));
        assert!(support::poll_once(work.as_mut()).is_pending());
        drop(work);
    }
    assert!(
        about(permit.peak_bytes(), 4 * MIB),
        "{}",
        permit.peak_bytes()
    );
}

/// Whose work it is, as that says when it begins.
type Whose = Arc<Mutex<Option<Permit>>>;

/// Holds 4 MiB until it is dropped.
async fn holds<T>(whose: Whose) -> T {
    let held = vec![1_u8; 4 * MIB as usize];
    *whose.lock().unwrap() = account::current();
    std::future::pending::<()>().await;
    drop(held);
    unreachable!()
}

/// Its request is given up, and a part of its work goes on.
async fn goes_on(given_up: impl Future, whose: &Whose) {
    let mut given_up = Box::pin(given_up);
    assert!(support::poll_once(given_up.as_mut()).is_pending());
    drop(given_up);
    let permit = whose.lock().unwrap().take().unwrap();
    let more = permit
        .clone()
        .follow(async { vec![1_u8; 3 * MIB as usize] });
    drop(more.await);
    let peak = permit.peak_bytes();
    assert!(about(peak, 4 * MIB), "{peak}");
}

#[tokio::test]
async fn what_a_request_held_that_is_given_up_is_off_its_account() {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard().clone();
    let whose = Whose::default();
    let request = || axum::extract::Request::new(Body::empty());
    let works = |_| holds::<Result<axum::response::Response, Infallible>>(whose.clone());
    goes_on(layer.layer(service_fn(works)).oneshot(request()), &whose).await;

    let streams = |_| {
        let frames = stream::once(Box::pin(holds::<Result<Bytes, Infallible>>(whose.clone())));
        let response = axum::response::Response::new(Body::from_stream(frames));
        std::future::ready(Ok::<_, Infallible>(response))
    };
    let response = layer.layer(service_fn(streams)).oneshot(request()).await;
    goes_on(response.unwrap().into_body().collect(), &whose).await;

    let works = |()| holds::<Result<(), Infallible>>(whose.clone());
    let service = layer.into_error_layer().layer(service_fn(works));
    goes_on(service.oneshot(()), &whose).await;
    assert_empty(&guard);
}

#[tokio::test]
async fn work_that_another_request_polls_is_its_own_requests_alone() {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let guard = layer.guard();
    let [one, other] = [
        guard.try_acquire(MIB).unwrap(),
        guard.try_acquire(MIB).unwrap(),
    ];
    let load = one.clone().follow(async { vec![1_u8; 4 * MIB as usize] });
    // As one does who waits for what the other has begun to load.
    let loaded = other.clone().follow(load).await;
    assert!(about(one.peak_bytes(), 4 * MIB), "{}", one.peak_bytes());
    assert!(about(other.peak_bytes(), 0), "{}", other.peak_bytes());
    drop(loaded);
}

#[tokio::test]
async fn who_makes_anothers_memory_larger_holds_what_it_adds() {
    let (layer, _memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let permit = layer.guard().acquire(Cost::Estimated).await.unwrap();
    let mut shared = vec![1_u8; 32 * MIB as usize];
    let work = permit.clone().follow(async {
        let own = vec![1_u8; 2 * MIB as usize];
        shared.reserve_exact(4 * MIB as usize);
        own
    });
    let own = work.await;
    assert!(
        about(permit.peak_bytes(), 6 * MIB),
        "{}",
        permit.peak_bytes()
    );
    drop((own, shared));
}

#[tokio::test]
async fn a_service_is_ready_with_what_jobs_are_known_to_need_whatever_their_classes_are() {
    let memory = ManualSource::new(512 * MIB);
    let builder = MemoryGuardLayer::builder().memory_source(memory);
    let builder = builder.estimated_bytes_per_request(200 * MIB);
    let layer = builder.build().unwrap();
    let guard = layer.guard().clone();
    let job = |_| async {
        let held = vec![1_u8; 2 * MIB as usize];
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok::<_, Infallible>(held.len())
    };
    let layer = layer.classify(|class: &&'static str| Class::new(*class));
    let mut service = layer.into_error_layer().layer(service_fn(job));
    for _ in 0..20 {
        service.ready().await.unwrap().call("job").await.unwrap();
        guard.sample_now();
    }
    let _held = guard.try_acquire(300 * MIB).unwrap();
    let mut is_ready = || {
        let ready = std::pin::pin!(service.ready());
        match support::poll_once(ready) {
            std::task::Poll::Ready(ready) => ready.unwrap().call(""),
            std::task::Poll::Pending => panic!("{:?}", guard.stats()),
        }
    };
    // One of no class, of which nothing is known, waits for what was configured.
    let mut unknown = Box::pin(is_ready());
    assert!(support::poll_once(unknown.as_mut()).is_pending());
    assert_eq!(guard.stats().waiting_requests, 1);
}
