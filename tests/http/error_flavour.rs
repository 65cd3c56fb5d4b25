//! The error flavour, polled by hand and behind tower's own layers.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::{self, assert_empty, counting, eventually, fill, poll_once, with};
use axum::body::Body;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_memory_guard::{BoxError, Class, MemoryGuardLayer, Mode, Priority, Reason, Rejected};
use tower_test::mock;

async fn double(n: u32) -> Result<u32, std::io::Error> {
    Ok(2 * n)
}

fn reason(error: &BoxError) -> Reason {
    error
        .downcast_ref::<Rejected>()
        .expect("a rejection")
        .reason()
}

#[tokio::test]
async fn poll_ready_waits_until_a_permit_is_free() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (mut service, mut handle) = mock::spawn_layer::<u32, u32, _>(layer.into_error_layer());
    handle.allow(2);
    assert_ready_ok!(service.poll_ready());
    let first = service.call(1);
    assert_pending!(service.poll_ready());
    assert_eq!(guard.stats().waiting_requests, 1);
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(10);
    assert_eq!(first.await.unwrap(), 10);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    assert_eq!(guard.stats().active_tasks, 1);
    drop(service);
    assert_empty(&guard);
}

#[tokio::test]
async fn the_service_behind_it_can_be_had_and_what_poll_ready_got_is_given_back() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let mut service = layer.into_error_layer().layer(7);
    *service.get_mut() += 1;
    assert_eq!((*service.get_ref(), service.into_inner()), (8, 8));

    let mut service = MemoryGuardLayer::from(guard.clone())
        .into_error_layer()
        .layer(service_fn(double));
    service.ready().await.unwrap();
    assert_eq!(guard.stats().active_tasks, 1);
    let mut inner = service.into_inner();
    assert_empty(&guard);
    assert_eq!(inner.call(1).await.unwrap(), 2);
}

/// Others wait for two seconds.
fn one_at_a_time() -> MemoryGuardLayer {
    let (layer, _) = with(|builder| {
        builder
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_secs(2))
    });
    layer
}

#[tokio::test(start_paused = true)]
async fn a_deadline_comes_out_of_call_and_not_of_poll_ready() {
    let layer = one_at_a_time();
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(1024).unwrap();
    let mut service = layer.into_error_layer().layer(service_fn(double));
    let error = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert_eq!(reason(&error), Reason::WaitTimeout);
    drop(permit);
    assert_eq!(service.ready().await.unwrap().call(4).await.unwrap(), 8);
    assert_empty(&guard);
}

#[tokio::test]
async fn critical_pressure_rejects_and_leaves_a_buffer_open() {
    let (layer, memory) = counting(4);
    let guard = layer.guard().clone();
    let service = ServiceBuilder::new()
        .buffer(8)
        .layer(layer.into_error_layer())
        .service_fn(double);
    fill(&guard, &memory, 90);
    let error = service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(reason(&error), Reason::CriticalPressure);
    fill(&guard, &memory, 10);
    assert_eq!(service.oneshot(1).await.unwrap(), 2);
    eventually("everything is given back", || {
        guard.stats().active_tasks == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_load_shed_does_not_claim_passes_on() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let permit = guard.try_acquire(1024).unwrap();
    let mut shed = ServiceBuilder::new()
        .load_shed()
        .layer(layer.into_error_layer())
        .service_fn(double);
    let error = shed.ready().await.unwrap().call(1).await.unwrap_err();
    assert!(error.is::<tower::load_shed::error::Overloaded>());
    // Its place in the queue is granted, and nobody comes for it.
    drop(permit);
    assert_eq!(
        guard.try_acquire(1024).unwrap_err().reason(),
        Reason::NoRoom
    );
    guard.sample_now();
    tokio::time::advance(Duration::from_millis(600)).await;
    guard.sample_now();
    let permit = guard.try_acquire(1024).expect("it passed on");
    drop(permit);
    // And the parked service works again.
    assert_eq!(shed.ready().await.unwrap().call(1).await.unwrap(), 2);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_clone_starts_without_a_permit() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let mut service = layer.into_error_layer().layer(service_fn(double));
    service.ready().await.unwrap();
    let clone = service.clone();
    assert_eq!(guard.stats().active_tasks, 1);
    drop(service);
    assert_empty(&guard);
    assert_eq!(clone.oneshot(3).await.unwrap(), 6);
}

#[tokio::test]
async fn a_dropped_future_and_a_dropped_waiter_give_everything_back() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let layer = layer.into_error_layer();
    let (mut first, mut handle) = mock::spawn_layer::<u32, u32, _>(layer.clone());
    let (mut second, mut other) = mock::spawn_layer::<u32, u32, _>(layer);
    handle.allow(1);
    other.allow(1);
    assert_ready_ok!(first.poll_ready());
    let answer = first.call(1);
    assert_pending!(second.poll_ready());
    drop(second);
    assert_eq!(guard.stats().waiting_requests, 0);
    drop(answer);
    assert_empty(&guard);
}

#[tokio::test]
async fn skipped_requests_are_never_rejected() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    fill(&guard, &memory, 99);
    let layer = layer.skip(|n: &u32| *n == 0).into_error_layer();
    let mut service = layer.layer(service_fn(double));
    assert_eq!(service.ready().await.unwrap().call(0).await.unwrap(), 0);
    let error = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert_eq!(reason(&error), Reason::CriticalPressure);
}

#[tokio::test]
async fn errors_of_the_inner_service_pass_through() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let failing = service_fn(|_: u32| async { Err::<u32, _>(std::io::Error::other("broken")) });
    let error = layer
        .into_error_layer()
        .layer(failing)
        .oneshot(1)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert_empty(&guard);
}

#[tokio::test]
async fn the_inner_service_is_asked_before_memory_is_taken() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (mut service, mut handle) = mock::spawn_layer::<u32, u32, _>(layer.into_error_layer());
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_empty(&guard);
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be ready before call")]
async fn call_without_poll_ready_panics() {
    let (layer, _) = counting(1);
    drop(layer.into_error_layer().layer(service_fn(double)).call(1));
}

#[tokio::test]
async fn acquire_serves_work_that_is_no_request() {
    let (layer, memory) = counting(10);
    let guard = layer.guard().clone();
    let permit = guard.acquire(64 << 20).await.unwrap();
    assert_eq!(permit.bytes(), 64 << 20);
    assert_eq!(guard.stats().reserved_mib, 64.0);
    // A declared cost above the limit can never be served.
    let never = guard.acquire(2 << 30).await.unwrap_err();
    assert_eq!(
        (never.reason(), never.retry_after()),
        (Reason::NeverFits, None)
    );
    // What would fit once the other is done has to wait.
    let mut waiting = Box::pin(guard.acquire(850 << 20));
    assert!(support::poll_once(waiting.as_mut()).is_pending());
    let clone = permit.clone();
    drop(permit);
    assert!(support::poll_once(waiting.as_mut()).is_pending());
    drop(clone);
    drop(waiting.await.unwrap());
    assert_empty(&guard);
    fill(&guard, &memory, 90);
    assert_eq!(
        guard.acquire(1024).await.unwrap_err().reason(),
        Reason::CriticalPressure
    );
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_for_the_call_that_follows() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let layer = layer.skip(|n: &u32| *n == 0).into_error_layer();
    let mut service = layer.layer(service_fn(double));
    // A call that passes by uses it up.
    fill(&guard, &memory, 99);
    service.ready().await.unwrap();
    assert_eq!(service.call(0).await.unwrap(), 0);
    fill(&guard, &memory, 10);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
    // One that comes much later asks anew.
    fill(&guard, &memory, 99);
    service.ready().await.unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    fill(&guard, &memory, 10);
    assert_eq!(service.call(2).await.unwrap(), 4);
    // So does a repeated poll.
    fill(&guard, &memory, 99);
    service.ready().await.unwrap();
    fill(&guard, &memory, 10);
    assert_eq!(service.ready().await.unwrap().call(3).await.unwrap(), 6);
    assert_empty(&guard);
    let stats = guard.stats();
    assert_eq!((stats.rejected_requests, stats.total_requests), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_ready_stays_so_while_others_hold_all() {
    let layer = one_at_a_time();
    let guard = layer.guard().clone();
    let held = guard.try_acquire(1024).unwrap();
    let mut service = tokio_test::task::spawn(layer.into_error_layer().layer(service_fn(double)));
    service.ready().await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let again = service.enter(|cx, mut service| Service::<u32>::poll_ready(&mut *service, cx));
    assert!(again.is_ready());
    // It was refused long ago: the call waits in its turn.
    let answer = service.call(4);
    let waits = tokio::spawn(answer);
    eventually("it waits", || guard.stats().waiting_requests == 1).await;
    drop(held);
    assert_eq!(waits.await.unwrap().unwrap(), 8);
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_and_not_called_does_not_keep_others_out() {
    let (layer, _) = counting(2);
    let guard = layer.guard().clone();
    let layer = layer.into_error_layer();
    let mut pool: Vec<_> = (0..2).map(|_| layer.layer(service_fn(double))).collect();
    for parked in &mut pool {
        parked.ready().await.unwrap();
    }
    assert_eq!(guard.stats().active_tasks, 2);
    assert_eq!(guard.stats().total_requests, 0, "nobody has called");
    let waiting = tokio::spawn(layer.layer(service_fn(double)).oneshot(1));
    eventually("it waits", || guard.stats().waiting_requests == 1).await;
    for _ in 0..2 {
        guard.sample_now();
        tokio::time::advance(Duration::from_millis(600)).await;
    }
    guard.sample_now();
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    // The parked ones are as good as before, with a further poll and without.
    assert_eq!(pool[0].ready().await.unwrap().call(2).await.unwrap(), 4);
    assert_eq!(pool[1].call(3).await.unwrap(), 6);
    drop(pool);
    assert_empty(&guard);
    let stats = guard.stats();
    assert_eq!((stats.completed_requests, stats.total_requests), (3, 3));
}

#[tokio::test]
async fn what_a_service_holds_in_time_is_not_taken_back() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let mut service = layer.into_error_layer().layer(service_fn(double));
    for n in 0..20 {
        service.ready().await.unwrap();
        guard.sample_now();
        assert_eq!(guard.stats().active_tasks, 1);
        assert_eq!(service.call(n).await.unwrap(), 2 * n);
    }
    assert_empty(&guard);
    assert_eq!(guard.stats().total_requests, 20);
}

#[tokio::test]
async fn observe_mode_counts_a_call_that_would_not_have_passed_once() {
    let (layer, memory) = with(|builder| {
        let builder = builder.mode(Mode::Observe);
        builder.estimated_bytes_per_request(support::MIB)
    });
    let guard = layer.guard().clone();
    let classify = |n: &u32| Class::new("import").cost(u64::from(*n) * support::MIB);
    let mut service = (layer.skip(|n: &u32| *n == 0).classify(classify))
        .into_error_layer()
        .layer(service_fn(double));
    let observed = || guard.stats().observed_requests;
    // It would have been ready, and this one would have waited.
    let held = guard.try_acquire(500 * support::MIB).unwrap();
    let answer = service.ready().await.unwrap().call(900).await;
    assert_eq!(answer.unwrap(), 1800);
    assert_eq!(observed(), 1);
    drop(held);
    fill(&guard, &memory, 99);
    for (n, counted) in [(300, 2), (0, 2)] {
        // However often it is asked whether it is ready.
        service.ready().await.unwrap();
        let answer = service.ready().await.unwrap().call(n).await;
        assert_eq!(answer.unwrap(), 2 * n);
        assert_eq!(observed(), counted);
    }
    assert_eq!(guard.stats().rejected_requests, 0);
    assert_empty(&guard);
}

#[tokio::test]
async fn what_stages_bodies_elsewhere_is_admitted_here_for_all_that_it_needs() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(support::MIB));
    let guard = layer.guard().clone();
    let import = |_: &http::Request<Body>| Class::new("import").cost(300 * support::MIB);
    let read = |request: http::Request<Body>| async move {
        Ok::<_, Infallible>(request.method() == "POST")
    };
    let mut service = layer
        .classify(import)
        .stage_bodies(64 << 10)
        .into_error_layer()
        .layer(service_fn(read));
    // There is room for what is reserved before it is known what comes, and not for that.
    let held = guard.try_acquire(700 * support::MIB).unwrap();
    let request = http::Request::post("/").body(Body::from("short")).unwrap();
    let answer = service.ready().await.unwrap().call(request);
    assert_eq!(guard.stats().waiting_requests, 1);
    drop(held);
    assert!(answer.await.unwrap());
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_full_of_normal_work_turns_away_no_high() {
    let (layer, _) = with(|builder| {
        let builder = builder.max_concurrent(1).max_waiting(1);
        builder.estimated_bytes_per_request(1024)
    });
    let guard = layer.guard().clone();
    let held = guard.try_acquire(1024).unwrap();
    let mut normal = Box::pin(guard.acquire(1024));
    assert!(poll_once(normal.as_mut()).is_pending());
    let priority = |n: &u32| match n {
        0 => Priority::Normal,
        _ => Priority::High,
    };
    let mut service = layer
        .classify(move |n: &u32| Class::new("work").priority(priority(n)))
        .into_error_layer()
        .layer(service_fn(double));
    let error = service.ready().await.unwrap().call(0).await.unwrap_err();
    assert_eq!(reason(&error), Reason::QueueFull);
    let high = service.ready().await.unwrap().call(1);
    assert_eq!(
        guard.stats().waiting_requests,
        2,
        "and one that was told no"
    );
    drop(held);
    assert_eq!(high.await.unwrap(), 2);
    assert_eq!(normal.await.unwrap_err().reason(), Reason::QueueFull);
    assert_empty(&guard);
}
