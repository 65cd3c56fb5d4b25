//! What a reservation is checked against: the table in `docs/architecture.md`, row by row,
//! where a user notices.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{self, LIMIT, MIB, fill, poll_once, with};
use axum::body::{Body, Bytes};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory_guard::{
    Class, Cost, Guard, MemoryGuardLayer, Mode, Permit, Priority, Reason, Rejected, StagedBody,
    StagedBodyLayer, Tier,
};

async fn admitted(guard: &Guard, class: Class) -> Permit {
    guard.acquire_for(&class).await.unwrap()
}

fn reason<T>(result: Result<T, Rejected>) -> Option<Reason> {
    result.err().map(|rejected| rejected.reason())
}

/// A guard whose tenants may each have 300 MiB.
fn shared() -> MemoryGuardLayer {
    let (layer, _) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(1024);
        builder.tier(Tier::new("shared").max_share(0.3).max_in_flight(2))
    });
    layer
}

fn of_tenant(name: &'static str, mib: u64) -> Class {
    let class = Class::new("work").tenant(name).tier("shared");
    class.cost(mib * MIB)
}

#[tokio::test]
async fn growth_stays_within_the_share_of_its_tenant_unless_it_is_alone() {
    let layer = shared();
    let guard = layer.guard();
    let one = admitted(guard, of_tenant("a", 100)).await;
    let other = admitted(guard, of_tenant("a", 100)).await;
    one.try_grow(100 * MIB).unwrap();
    assert_eq!(reason(one.try_grow(MIB)), Some(Reason::NoRoom));
    assert_eq!(one.bytes(), 200 * MIB);
    drop(other);
    one.try_grow(200 * MIB).unwrap();
    // And in a guard that is closed, as far as it may.
    drop(one);
    guard.sample_now();
    let one = admitted(guard, of_tenant("a", 100)).await;
    let other = admitted(guard, of_tenant("a", 100)).await;
    guard.close();
    one.try_grow(50 * MIB).unwrap();
    assert_eq!(reason(one.try_grow(51 * MIB)), Some(Reason::NoRoom));
    drop((one, other));
    support::assert_empty(guard);
}

#[tokio::test]
async fn growth_near_the_limit_looks_first() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(1024));
    let guard = layer.guard();
    let permit = guard.acquire(Cost::Bytes(MIB)).await.unwrap();
    // What the last sample found is not so any more.
    memory.set_usage_bytes(LIMIT * 9 / 10);
    assert_eq!(reason(permit.try_grow(700 * MIB)), Some(Reason::NoRoom));
    memory.set_usage_bytes(0);
    permit.try_grow(700 * MIB).unwrap();
}

#[tokio::test]
async fn growth_passes_where_nothing_is_held_back_and_nothing_fits_everywhere() {
    let (layer, memory) = with(|builder| builder.mode(Mode::Observe));
    let permit = layer.guard().acquire(2 * LIMIT).await.unwrap();
    permit.try_grow(2 * LIMIT).unwrap();
    assert_eq!(permit.bytes(), 4 * LIMIT);
    drop((permit, memory));

    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(1024));
    let permit = layer.guard().acquire(Cost::Bytes(MIB)).await.unwrap();
    fill(layer.guard(), &memory, 100);
    permit.try_grow(0).unwrap();
    assert_eq!(reason(permit.try_grow(1)), Some(Reason::NoRoom));
    assert_eq!(permit.bytes(), MIB);
}

#[tokio::test]
async fn growth_of_critical_work_has_its_slice() {
    let (layer, _) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(1024);
        builder.critical_reserve(0.1)
    });
    let guard = layer.guard();
    let critical = Class::new("login").priority(Priority::Critical);
    let critical = admitted(guard, critical.cost(MIB)).await;
    guard.sample_now();
    let mut held = Vec::new();
    while let Ok(permit) = guard.try_acquire(MIB) {
        held.push(permit);
    }
    assert_eq!(reason(held[0].try_grow(MIB)), Some(Reason::NoRoom));
    critical.try_grow(50 * MIB).unwrap();
    assert_eq!(reason(critical.try_grow(90 * MIB)), Some(Reason::NoRoom));
}

#[tokio::test]
async fn the_body_of_critical_work_passes_the_gate() {
    let (layer, memory) = with(|builder| {
        let builder = builder.estimated_bytes_per_request(1024);
        builder.max_pause(Duration::ZERO)
    });
    let guard = layer.guard().clone();
    let layer = layer.classify(|request: &Request<Body>| {
        let class = Class::new("import").cost(MIB);
        match request.uri().path() {
            "/critical" => class.priority(Priority::Critical),
            _ => class,
        }
    });
    let opens = Arc::new(Semaphore::new(0));
    let collect = |request: Request<StagedBody<Body>>| async move {
        let body = request.into_body().collect().await.map_err(drop);
        let status = match body.is_ok() {
            true => StatusCode::OK,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    };
    let inner = StagedBodyLayer::new().layer(service_fn(collect));
    let service = layer.stage_bodies(64 << 10).layer(inner);
    let chunks = |opens: Arc<Semaphore>| {
        let chunks = futures_util::stream::unfold(0, move |sent| {
            let opens = Arc::clone(&opens);
            async move {
                opens.acquire().await.unwrap().forget();
                let chunk = Ok::<_, Infallible>(Bytes::from(vec![7; 256 << 10]));
                (sent < 2).then_some((chunk, sent + 1))
            }
        });
        Body::from_stream(chunks)
    };
    for (path, status) in [("/", 503), ("/critical", 200)] {
        let request = Request::post(path).body(chunks(Arc::clone(&opens)));
        let mut answer = pin!(service.clone().oneshot(request.unwrap()));
        assert!(poll_once(answer.as_mut()).is_pending(), "the body is read");
        fill(&guard, &memory, 99);
        opens.add_permits(3);
        assert_eq!(answer.await.unwrap().status(), status, "{path}");
        opens.forget_permits(3);
        fill(&guard, &memory, 0);
    }
    support::assert_empty(&guard);
}

#[tokio::test]
async fn a_class_that_needs_more_than_was_ready_for_it_looks_first() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(MIB));
    let work = service_fn(|n: u64| async move { Ok::<_, Infallible>(n) });
    let layer = layer.classify(|mib: &u64| Class::new("work").cost(mib * MIB));
    let layer = layer.into_error_layer();
    let mut service = layer.layer(work);
    service.ready().await.unwrap();
    // What the last sample found is not so any more.
    memory.set_usage_bytes(LIMIT * 9 / 10);
    let called = pin!(service.call(700));
    assert!(poll_once(called).is_pending());
}
