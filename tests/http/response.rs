//! The response flavour, polled by hand.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use crate::support::{self, MIB, assert_empty, counting, fill, poll_once, with};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_memory_guard::result_size::ResultLimitLayer;
use tower_memory_guard::{
    GuardedBody, HttpResponder, LoadFormat, MemoryGuardLayer, Mode, OnSensorFailure, Permit,
    Pressure, Reason, Rejected, RequestHead, Respond, StagedBodyLayer,
};
use tower_test::mock;

type Req = Request<()>;
type Res = Response<Full<Bytes>>;

fn ok() -> Res {
    Response::new(Full::from("done"))
}

fn request() -> Req {
    Request::new(())
}

/// A service that answers at once.
async fn at_once(_: Req) -> Result<Res, std::io::Error> {
    Ok(ok())
}

/// What a service behind the guard is answered that answers at once.
async fn answer(layer: &MemoryGuardLayer) -> Response<GuardedBody<Full<Bytes>>> {
    let service = layer.layer(service_fn(at_once));
    service.oneshot(request()).await.unwrap()
}

async fn json(response: Response<impl http_body::Body<Data = Bytes>>) -> serde_json::Value {
    let body = response
        .into_body()
        .collect()
        .await
        .ok()
        .unwrap()
        .to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn an_admitted_request_holds_its_permit_until_the_body_is_read() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let response = answer(&layer).await;
    assert_eq!(guard.stats().active_tasks, 1);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    assert_empty(&guard);
    assert_eq!(guard.stats().completed_requests, 1);
}

/// Ready once it has been asked, and only then.
#[derive(Clone)]
struct Asked(bool);

impl Service<Req> for Asked {
    type Response = Res;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Res, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "called before it was ready");
        std::future::ready(Ok(ok()))
    }
}

#[tokio::test]
async fn the_service_behind_it_may_be_another_one_after_poll_ready() {
    let (layer, _) = counting(1);
    let mut service = layer.layer(Asked(false));
    service.ready().await.unwrap();
    assert!(service.get_ref().0);
    *service.get_mut() = Asked(false);
    let response = service.call(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!service.into_inner().0);
}

#[tokio::test]
async fn what_is_wrapped_can_be_had() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let mut limited = ResultLimitLayer::new(&guard).layer(1);
    *limited.get_mut() += 1;
    assert_eq!((*limited.get_ref(), limited.into_inner()), (2, 2));
    let mut staged = StagedBodyLayer::new().layer(1);
    *staged.get_mut() += 1;
    assert_eq!((*staged.get_ref(), staged.into_inner()), (2, 2));
    let mut reporting = layer.clone().report_load(LoadFormat::Text).layer(1);
    *reporting.get_mut().get_mut() += 1;
    assert_eq!(*reporting.get_ref().get_ref(), 2);
    assert_eq!(reporting.into_inner().into_inner(), 2);

    let service = layer.layer(service_fn(at_once));
    let mut body = service
        .clone()
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    assert_eq!(
        body.get_ref().map(Body::size_hint).unwrap().exact(),
        Some(4)
    );
    assert!(body.get_mut().is_some());
    drop(body);
    fill(&guard, &memory, 99);
    let rejection = service.oneshot(request()).await.unwrap().into_body();
    assert!(rejection.get_ref().is_none(), "the guard's own");
}

#[tokio::test]
async fn the_one_more_waits_and_goes_on_when_another_is_done() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (service, mut handle) = mock::pair::<Req, Res>();
    let mut service = layer.layer(service);
    handle.allow(2);

    let first = tokio::spawn(service.ready().await.unwrap().call(request()));
    let (_, respond) = handle.next_request().await.unwrap();
    let mut second = pin!(service.ready().await.unwrap().call(request()));
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(guard.stats().waiting_requests, 1);

    respond.send_response(ok());
    drop(first.await.unwrap().unwrap());
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(
        (guard.stats().waiting_requests, guard.stats().active_tasks),
        (0, 1)
    );
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(ok());
    drop(second.await.unwrap());
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_told_at_its_deadline() {
    let (layer, _) = with(|builder| {
        builder
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_secs(3))
    });
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(1024).unwrap();
    let started = tokio::time::Instant::now();
    let response = answer(&layer).await;
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json(response).await["reason"], "wait_timeout");
    drop(permit);
    assert_empty(&guard);
    assert_eq!(guard.stats().rejected_requests, 1);
}

#[tokio::test]
async fn at_critical_pressure_new_work_is_rejected_without_troubling_the_inner_service() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 91);
    // Never ready, and never asked.
    let (inner, mut handle) = mock::pair::<Req, Res>();
    handle.allow(0);
    let mut service = layer.layer(inner);
    let response = service
        .ready()
        .await
        .unwrap()
        .call(request())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let retry_after: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&retry_after));
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem = json(response).await;
    assert_eq!(problem["status"], 503);
    assert_eq!(problem["reason"], "critical_pressure");
    assert_eq!(problem["level"], "CRITICAL");
    assert_eq!(problem["memory_percent"], 91.0);
    assert_eq!(guard.stats().rejected_requests, 1);
}

#[tokio::test]
async fn active_work_goes_on_and_waiters_keep_their_place_at_critical_pressure() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(1024).unwrap();
    let mut waiting = pin!(layer.layer(service_fn(at_once)).oneshot(request()));
    assert!(poll_once(waiting.as_mut()).is_pending());

    fill(&guard, &memory, 95);
    assert_eq!(guard.stats().current_concurrency, Some(1));
    drop(permit);
    assert!(poll_once(waiting.as_mut()).is_pending());
    fill(&guard, &memory, 10);
    assert_eq!(waiting.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn memory_that_became_free_after_poll_ready_is_used() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 95);
    let (inner, mut handle) = mock::pair::<Req, Res>();
    handle.allow(1);
    let mut service = layer.layer(inner);
    service.ready().await.unwrap();
    fill(&guard, &memory, 10);
    let answer = tokio::spawn(service.call(request()));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(ok());
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn grpc_callers_get_a_grpc_status() {
    let (layer, memory) = counting(10);
    fill(layer.guard(), &memory, 90);
    let request = Request::post("/pkg.Service/Method")
        .header("content-type", "application/grpc+proto")
        .body(())
        .unwrap();
    let response = layer
        .layer(service_fn(at_once))
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(headers["grpc-status"], "8");
    assert_eq!(headers["content-type"], "application/grpc+proto");
    let message = headers["grpc-message"].to_str().unwrap();
    assert!(message.contains("90.0 %25 of its limit"), "{message}");
    let pushback: u64 = headers["grpc-retry-pushback-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(pushback >= 1000);
    assert!(http_body::Body::is_end_stream(response.body()));
}

#[tokio::test]
async fn who_keeps_the_permit_of_one_guard_keeps_those_of_all_further_out() {
    let guards = [counting(1).0, counting(1).0];
    let [outer, inner] = guards.clone();
    let kept: Arc<Mutex<Option<Permit>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let handler = move |request: Req| {
        *keep.lock().unwrap() = request.extensions().get().cloned();
        std::future::ready(Ok::<_, std::io::Error>(ok()))
    };
    let service = ServiceBuilder::new().layer(outer).layer(inner);
    let response = service.service_fn(handler).oneshot(request()).await;
    drop(response.unwrap());
    let active = || {
        guards
            .each_ref()
            .map(|one| one.guard().stats().active_tasks)
    };
    assert_eq!(active(), [1, 1]);
    kept.lock().unwrap().take();
    assert_eq!(active(), [0, 0]);
    guards.iter().for_each(|one| assert_empty(one.guard()));
}

#[tokio::test]
async fn a_guard_admits_once_with_one_of_other_memory_in_between() {
    let [(outer, _), (between, _)] = [counting(1), counting(1)];
    let guard = outer.guard().clone();
    let layers = ServiceBuilder::new().layer(outer.clone());
    let service = layers.layer(between).layer(outer).service_fn(at_once);
    let mut call = pin!(service.oneshot(request()));
    let Poll::Ready(response) = poll_once(call.as_mut()) else {
        panic!("it waits for itself");
    };
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "done");
    assert_eq!(guard.stats().total_requests, 1);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_request_is_reserved_once_on_a_ledger_whatever_guard_is_in_between() {
    let of_the_system = |enabled| {
        let builder = MemoryGuardLayer::builder().enabled(enabled);
        let builder = builder.estimated_bytes_per_request(16 * MIB);
        builder.build().unwrap()
    };
    let [outer, inner] = [of_the_system(true), of_the_system(true)];
    for between in [counting(1).0, of_the_system(false)] {
        let guard = outer.guard().clone();
        let reserved = move |_: Req| {
            let reserved_mib = guard.stats().reserved_mib;
            std::future::ready(Ok::<_, std::io::Error>(Response::new(Full::from(
                reserved_mib.to_string(),
            ))))
        };
        let layers = ServiceBuilder::new().layer(outer.clone()).layer(between);
        let service = layers.layer(inner.clone()).service_fn(reserved);
        let response = service.oneshot(request()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let reserved_mib: f64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
        assert!((1.0..20.0).contains(&reserved_mib), "{reserved_mib}");
    }
}

/// Answers with the path.
struct Path;

impl Respond for Path {
    fn respond(&self, _: &Rejected, request: RequestHead<'_>) -> Response<Bytes> {
        Response::new(Bytes::from(request.uri().path().to_owned()))
    }
}

type Guarded = BoxCloneService<Req, Response<GuardedBody<Full<Bytes>>>, std::io::Error>;

async fn body(service: Guarded) -> Bytes {
    let request = Request::get("/page").body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn what_is_done_with_a_rejection_can_be_tested() {
    let (layer, memory) = counting(1);
    let guard = layer.guard();
    fill(guard, &memory, 82);
    for reason in [Reason::Cancelled, Reason::WaitTimeout, Reason::NeverFits] {
        let rejected = guard.rejection(reason);
        assert_eq!(
            (rejected.reason(), rejected.pressure()),
            (reason, Pressure::High)
        );
        assert_eq!(rejected.memory_percent(), 82.0);
        assert_eq!(rejected.retry_after().is_none(), reason.is_permanent());
        let answer = HttpResponder::new().respond(&rejected, (&request()).into());
        assert_eq!(answer.status() == 413, reason.is_permanent());
    }
    assert_eq!(guard.stats().rejected_requests, 0, "nobody was turned away");
}

#[tokio::test]
async fn closures_and_shared_responders_answer() {
    let (layer, memory) = counting(1);
    fill(layer.guard(), &memory, 99);
    let closure = |rejected: &Rejected| Response::new(Bytes::from(rejected.reason().as_str()));
    let service = layer.clone().respond(closure).layer(service_fn(at_once));
    assert_eq!(body(service.boxed_clone()).await, "critical_pressure");
    let shared: [Arc<dyn Respond + Send + Sync>; 2] = [Arc::new(Path), Arc::new(closure)];
    for (responder, expected) in shared.into_iter().zip(["/page", "critical_pressure"]) {
        let service = layer.clone().respond(responder).layer(service_fn(at_once));
        assert_eq!(body(service.boxed_clone()).await, expected);
    }
}

#[tokio::test]
async fn the_status_of_what_may_be_tried_again_can_be_chosen() {
    let (layer, memory) = counting(10);
    fill(layer.guard(), &memory, 90);
    let responder = HttpResponder::new().status(StatusCode::TOO_MANY_REQUESTS);
    let service = layer.respond(responder).layer(service_fn(at_once));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(json(response).await["title"], "Too Many Requests");
}

#[tokio::test]
async fn dropped_futures_give_everything_back() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (service, mut handle) = mock::pair::<Req, Res>();
    let mut service = layer.layer(service);
    handle.allow(3);
    // Never polled; the handler has the request, and with it a clone.
    drop(service.ready().await.unwrap().call(request()));
    assert_eq!(guard.stats().active_tasks, 1);
    drop(handle.next_request().await.unwrap());
    assert_empty(&guard);
    // In the handler, and waiting.
    let mut first = Box::pin(service.ready().await.unwrap().call(request()));
    assert!(poll_once(first.as_mut()).is_pending());
    drop(handle.next_request().await.unwrap().0);
    let mut second = Box::pin(service.ready().await.unwrap().call(request()));
    assert!(poll_once(second.as_mut()).is_pending());
    drop(second);
    assert_eq!(
        (guard.stats().active_tasks, guard.stats().waiting_requests),
        (1, 0)
    );
    drop(first);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_panic_in_the_handler_gives_the_permit_back() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let service = layer.layer(service_fn(|_: Req| async {
        if true {
            panic!("in the handler");
        }
        Ok::<Res, std::io::Error>(ok())
    }));
    let answer = tokio::spawn(service.oneshot(request()));
    assert!(answer.await.unwrap_err().is_panic());
    assert_empty(&guard);
}

#[tokio::test]
async fn a_panic_in_call_gives_the_permit_back() {
    #[derive(Clone)]
    struct Panics;
    impl Service<Req> for Panics {
        type Response = Res;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Res, std::io::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Req) -> Self::Future {
            panic!("in call")
        }
    }
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let service = layer.layer(Panics);
    let answer = tokio::spawn(service.oneshot(request()));
    assert!(answer.await.unwrap_err().is_panic());
    assert_empty(&guard);
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_through_and_frees_the_permit() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let failing = service_fn(|_: Req| async { Err::<Res, _>(std::io::Error::other("broken")) });
    let error = layer.layer(failing).oneshot(request()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn an_outer_timeout_during_the_wait_leaves_the_queue() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let _permit = guard.try_acquire(1024).unwrap();
    let service = ServiceBuilder::new()
        .timeout(Duration::from_millis(100))
        .layer(layer)
        .service_fn(at_once);
    assert!(
        service
            .oneshot(request())
            .await
            .unwrap_err()
            .is::<tower::timeout::error::Elapsed>()
    );
    assert_eq!(guard.stats().waiting_requests, 0);
}

#[tokio::test]
async fn who_waits_for_memory_takes_no_place_in_a_limit_further_in() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let held = guard.try_acquire(1024).unwrap();
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .concurrency_limit(1)
        .service_fn(at_once);
    // By the service itself, which stays, and by a clone, which does not.
    let mut first = Box::pin(service.ready().await.unwrap().call(request()));
    assert!(poll_once(first.as_mut()).is_pending());
    let mut second = Box::pin(service.clone().oneshot(request()));
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!(guard.stats().waiting_requests, 2);
    drop(held);
    assert!(poll_once(first.as_mut()).is_ready());
    drop(first);
    assert!(poll_once(second.as_mut()).is_ready());
}

#[tokio::test]
async fn a_ready_service_that_is_never_called_holds_nothing() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let mut service = layer.layer(service_fn(at_once));
    service.ready().await.unwrap();
    assert_empty(&guard);
}

#[tokio::test]
async fn skipped_requests_pass_at_any_pressure_and_are_not_counted() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let layer = layer.skip(|request: &Request<_>| request.uri().path() == "/health");
    let service = layer.layer(service_fn(at_once));
    let health = Request::get("/health").body(()).unwrap();
    assert_eq!(
        service.clone().oneshot(health).await.unwrap().status(),
        StatusCode::OK
    );
    let rejected = service.oneshot(request()).await.unwrap();
    assert_eq!(rejected.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(guard.stats().total_requests, 1);
}

#[tokio::test]
async fn the_same_guard_applied_twice_admits_once() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(layer)
        .service_fn(at_once);
    // With a second admission this would wait for itself.
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(guard.stats().active_tasks, 1);
    drop(response);
    assert_empty(&guard);
    assert_eq!(guard.stats().total_requests, 1);
}

#[tokio::test]
async fn the_handler_finds_the_permit_and_can_keep_it() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (keep, mut kept) = mpsc::channel(1);
    let service = layer.layer(service_fn(move |request: Req| {
        let permit = request.extensions().get::<Permit>();
        keep.try_send(permit.expect("a permit").clone()).unwrap();
        async { Ok::<_, std::io::Error>(ok()) }
    }));
    let response = service.oneshot(request()).await.unwrap();
    response.into_body().collect().await.unwrap();
    let permit = kept.recv().await.unwrap();
    assert_eq!(guard.stats().active_tasks, 1);
    assert!(!permit.cancelled(), "it was answered, not given up");
    drop(permit);
    assert_empty(&guard);
}

#[tokio::test]
async fn work_that_outlives_its_caller_is_told_and_still_counts() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (keep, mut kept) = mpsc::channel(1);
    let mut service = layer.layer(service_fn(move |request: Req| {
        let permit = request.extensions().get::<Permit>();
        keep.try_send(permit.expect("a permit").clone()).unwrap();
        std::future::pending::<Result<Res, std::io::Error>>()
    }));
    let mut answer = Box::pin(service.ready().await.unwrap().call(request()));
    assert!(poll_once(answer.as_mut()).is_pending());
    let permit = kept.recv().await.unwrap();
    assert!(!permit.cancelled());
    drop(answer);
    assert!(permit.cancelled());
    assert_eq!(guard.stats().active_tasks, 1);
    drop(permit);
    assert_empty(&guard);
}

#[tokio::test]
async fn closing_answers_waiters_and_newcomers_and_lets_the_active_finish() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(1024).unwrap();
    let service = layer.layer(service_fn(at_once));
    let mut waiting = pin!(service.clone().oneshot(request()));
    assert!(poll_once(waiting.as_mut()).is_pending());
    guard.close();
    assert_eq!(json(waiting.await.unwrap()).await["reason"], "closed");
    assert_eq!(
        json(service.oneshot(request()).await.unwrap()).await["reason"],
        "closed"
    );
    assert_eq!(guard.stats().active_tasks, 1);
    // A later sample does not open it again.
    guard.sample_now();
    assert_eq!(
        guard.try_acquire(1024).unwrap_err().reason(),
        Reason::Closed
    );
    drop(permit);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_full_queue_rejects_at_once() {
    let (layer, _) = with(|builder| {
        builder
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .max_waiting(0)
    });
    let _permit = layer.guard().try_acquire(1024).unwrap();
    let response = answer(&layer).await;
    assert_eq!(json(response).await["reason"], "queue_full");
}

#[tokio::test]
async fn observe_mode_lets_everything_pass_and_counts_what_it_would_have_held_back() {
    let (layer, memory) = with(|builder| builder.mode(Mode::Observe).max_concurrent(1));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let service = layer.layer(service_fn(at_once));
    let first = service.clone().oneshot(request()).await.unwrap();
    let second = service.oneshot(request()).await.unwrap();
    assert_eq!(
        (first.status(), second.status()),
        (StatusCode::OK, StatusCode::OK)
    );
    let stats = guard.stats();
    assert_eq!((stats.observed_requests, stats.rejected_requests), (2, 0));
    assert_eq!(guard.pressure(), Pressure::Critical);
}

#[tokio::test]
async fn a_disabled_guard_passes_everything() {
    let (layer, memory) = with(|builder| builder.enabled(false).max_concurrent(1));
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let service = layer.layer(service_fn(at_once));
    let answers = (0..3).map(|_| service.clone().oneshot(request()));
    for answer in answers.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_blind_sensor_leaves_the_count_or_rejects_as_configured() {
    for (policy, status) in [
        (OnSensorFailure::Open, StatusCode::OK),
        (OnSensorFailure::Closed, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let (layer, memory) = with(|builder| builder.max_concurrent(1).on_sensor_failure(policy));
        let guard = layer.guard().clone();
        memory.set_failing(true);
        guard.sample_now();
        assert!(!guard.stats().sensor_ok);
        let service = layer.layer(service_fn(at_once));
        let response = service.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.status(), status);
        if policy == OnSensorFailure::Open {
            let mut second = pin!(service.clone().oneshot(request()));
            assert!(poll_once(second.as_mut()).is_pending(), "the count holds");
        }
        drop(response);
        memory.set_failing(false);
        guard.sample_now();
        assert!(guard.stats().sensor_ok);
        assert_eq!(
            service.oneshot(request()).await.unwrap().status(),
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn a_panicking_source_is_a_failed_sensor() {
    struct Panics;
    impl tower_memory_guard::MemorySource for Panics {
        fn read(
            &mut self,
            _: tower_memory_guard::Detail,
            _: &mut tower_memory_guard::Sample,
        ) -> std::io::Result<()> {
            panic!("in the source")
        }
        fn name(&self) -> String {
            "panics".into()
        }
    }
    let layer = MemoryGuardLayer::builder()
        .memory_source(Panics)
        .max_concurrent(1)
        .build()
        .unwrap();
    assert!(!layer.guard().stats().sensor_ok);
    let response = answer(&layer).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_burst_between_two_samples_cannot_pass_the_limit() {
    let (layer, _) = with(|builder| {
        builder
            .estimated_bytes_per_request(100 * MIB)
            .max_concurrent(1000)
    });
    let guard = layer.guard().clone();
    let service = layer.layer(service_fn(|_: Req| {
        std::future::pending::<Result<Res, std::io::Error>>()
    }));
    let mut answers: Vec<_> = (0..100)
        .map(|_| Box::pin(service.clone().oneshot(request())))
        .collect();
    for answer in &mut answers {
        assert!(poll_once(answer.as_mut()).is_pending());
    }
    let stats = guard.stats();
    // 85 % of 1,000 MiB hold eight of 100 MiB.
    assert_eq!((stats.active_tasks, stats.waiting_requests), (8, 92));
    assert_eq!(stats.reserved_mib, 800.0);
    drop(answers);
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn an_idle_time_at_critical_pressure_does_not_open_the_gate_to_a_burst() {
    let (layer, memory) = with(|builder| builder.max_concurrent(100));
    let guard = layer.guard().clone();
    for _ in 0..60 {
        fill(&guard, &memory, 86);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let service = layer.layer(service_fn(|_: Req| {
        std::future::pending::<Result<Res, std::io::Error>>()
    }));
    let mut answers: Vec<_> = (0..64)
        .map(|_| Box::pin(service.clone().oneshot(request())))
        .collect();
    let admitted = answers
        .iter_mut()
        .filter_map(|answer| match poll_once(answer.as_mut()) {
            Poll::Pending => Some(()),
            Poll::Ready(_) => None,
        });
    assert_eq!(admitted.count(), 1, "one probe");
    // It does no harm: the next two may try, but not the rest.
    for _ in 0..5 {
        fill(&guard, &memory, 86);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(guard.stats().active_tasks <= 3);
}

#[tokio::test]
async fn memory_is_sampled_often_while_somebody_waits() {
    struct Counts(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl tower_memory_guard::MemorySource for Counts {
        fn read(
            &mut self,
            _: tower_memory_guard::Detail,
            sample: &mut tower_memory_guard::Sample,
        ) -> std::io::Result<()> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // So much is free that a busy guard need not look for long.
            sample.push(tower_memory_guard::MemoryLevel::new(0, Some(1 << 40)));
            Ok(())
        }
        fn name(&self) -> String {
            "counts".into()
        }
    }
    let samples = std::sync::Arc::default();
    let builder = MemoryGuardLayer::builder()
        .memory_source(Counts(std::sync::Arc::clone(&samples)))
        .check_interval(Duration::from_secs(60));
    let layer = builder.max_concurrent(1).build().unwrap();
    let guard = layer.guard().clone();
    let _permit = guard.try_acquire(1024).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = samples.load(std::sync::atomic::Ordering::Relaxed);
    let mut waiting = pin!(guard.acquire(1024));
    assert!(poll_once(waiting.as_mut()).is_pending());
    support::eventually("it is sampled again and again", || {
        samples.load(std::sync::atomic::Ordering::Relaxed) >= before + 5
    })
    .await;
    guard.close();
    assert_eq!(waiting.await.unwrap_err().reason(), Reason::Closed);
}
