//! Through a real axum server: clients over loopback, HTTP/1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{assert_empty, counting, eventually, fill, serve_axum, with};
use crate::{FRAME, active};
use axum::body::{Body, Bytes};
use axum::error_handling::HandleErrorLayer;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{BoxError, Extension, Router};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower_memory_guard::{MemoryGuardLayer, Permit, Rejected};

/// Handlers that go on when the test says so.
#[derive(Clone)]
struct Gate(Arc<Semaphore>);

impl Gate {
    fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    fn open(&self, requests: usize) {
        self.0.add_permits(requests);
    }

    fn route(&self) -> Router {
        let gate = self.clone();
        let handler = move || {
            let gate = gate.clone();
            async move {
                gate.0.acquire().await.unwrap().forget();
                "done"
            }
        };
        Router::new().route("/", get(handler))
    }
}

/// A request on a connection of its own.
fn request(address: SocketAddr, path: &'static str) -> tokio::task::JoinHandle<Response<Incoming>> {
    tokio::spawn(async move {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let request = Request::get(format!("http://{address}{path}"));
        client
            .request(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    })
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn one_guard_holds_over_all_connections() {
    let (layer, _) = counting(2);
    let guard = layer.guard().clone();
    let gate = Gate::closed();
    // axum applies the layer anew for each connection.
    let address = serve_axum(gate.route().layer(layer)).await;
    let answers: Vec<_> = (0..5).map(|_| request(address, "/")).collect();
    active(&guard, 2, 3).await;
    gate.open(5);
    for answer in answers {
        let response = answer.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response).await, "done");
    }
    active(&guard, 0, 0).await;
    assert_eq!(guard.stats().completed_requests, 5);
}

#[tokio::test]
async fn a_waiter_times_out_and_critical_pressure_rejects_while_health_answers() {
    let (layer, memory) = with(|builder| {
        builder
            .max_concurrent(1)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_millis(100))
    });
    let guard = layer.guard().clone();
    let gate = Gate::closed();
    let app = gate
        .route()
        .layer(layer)
        .route("/health", get(|| async { "ok" }));
    let address = serve_axum(app).await;
    let first = request(address, "/");
    active(&guard, 1, 0).await;

    let late = request(address, "/").await.unwrap();
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(late.headers().contains_key("retry-after"));
    assert!(text(late).await.contains(r#""reason":"wait_timeout""#));

    fill(&guard, &memory, 92);
    let rejected = request(address, "/").await.unwrap();
    assert_eq!(
        rejected.headers()["content-type"],
        "application/problem+json"
    );
    assert!(
        text(rejected)
            .await
            .contains(r#""reason":"critical_pressure""#)
    );
    assert_eq!(text(request(address, "/health").await.unwrap()).await, "ok");

    gate.open(1);
    assert_eq!(text(first.await.unwrap()).await, "done");
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_waiting_leaves_the_queue() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let gate = Gate::closed();
    let address = serve_axum(gate.route().layer(layer)).await;
    let first = request(address, "/");
    active(&guard, 1, 0).await;
    let waiting = request(address, "/");
    active(&guard, 1, 1).await;
    waiting.abort();
    active(&guard, 1, 0).await;
    gate.open(1);
    assert_eq!(first.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_blocking_closure_keeps_its_permit_when_its_client_is_gone() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let finish = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicBool::new(false));
    let (may_finish, was_told) = (finish.clone(), told.clone());
    let handler = move |Extension(permit): Extension<Permit>| async move {
        tokio::task::spawn_blocking(move || {
            while !permit.cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            was_told.store(true, Ordering::Relaxed);
            while !may_finish.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .await
        .unwrap();
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let answer = request(address, "/");
    active(&guard, 1, 0).await;
    answer.abort();
    eventually("the closure is told", || told.load(Ordering::Relaxed)).await;
    assert_eq!(guard.stats().active_tasks, 1, "its memory is still in use");
    finish.store(true, Ordering::Relaxed);
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn a_frame_of_50_mb_holds_its_permit_until_a_stalled_reader_has_it() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let handler = || async { Bytes::from(vec![7; FRAME]) };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 64];
    stream.read_exact(&mut head).await.unwrap();
    // The socket's buffers are full by now, and nobody reads.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(guard.stats().active_tasks, 1);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(head.len() + rest.len() > FRAME);
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_reading_frees_the_permit() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let handler = || async {
        let frames = futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(
            Bytes::from_static(&[7; 4096]),
        ));
        Body::from_stream(frames)
    };
    let address = serve_axum(Router::new().route("/", get(handler)).layer(layer)).await;
    let response = request(address, "/").await.unwrap();
    let mut body = response.into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    assert_eq!(guard.stats().active_tasks, 1);
    drop(body);
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn an_outer_timeout_bounds_the_wait() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let gate = Gate::closed();
    let stack = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|_: BoxError| async {
            StatusCode::GATEWAY_TIMEOUT
        }))
        .timeout(Duration::from_millis(100))
        .layer(layer);
    let address = serve_axum(gate.route().layer(stack)).await;
    let permit = guard.try_acquire(1024).unwrap();
    assert_eq!(
        request(address, "/").await.unwrap().status(),
        StatusCode::GATEWAY_TIMEOUT
    );
    active(&guard, 1, 0).await;
    drop(permit);
    assert_empty(&guard);
}

#[tokio::test]
async fn the_guard_applied_to_the_router_and_to_a_route_admits_once() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let route = get(|| async { "done" }).layer(layer.clone());
    let address = serve_axum(Router::new().route("/", route).layer(layer)).await;
    assert_eq!(text(request(address, "/").await.unwrap()).await, "done");
    active(&guard, 0, 0).await;
    assert_eq!(guard.stats().total_requests, 1);
}

#[tokio::test]
async fn the_error_flavour_works_under_buffer_and_load_shed() {
    for shed in [false, true] {
        let (layer, memory) = counting(1);
        let guard = layer.guard().clone();
        let gate = Gate::closed();
        let answer = |error: BoxError| async move {
            match error.downcast_ref::<Rejected>() {
                Some(rejected) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    rejected.reason().to_string(),
                ),
                None => (StatusCode::TOO_MANY_REQUESTS, error.to_string()),
            }
            .into_response()
        };
        let layer = layer.into_error_layer();
        let inner = gate.route().into_service();
        let app = Router::new();
        let app = if shed {
            let stack = ServiceBuilder::new().layer(HandleErrorLayer::new(answer));
            app.fallback_service(stack.buffer(8).load_shed().layer(layer).service(inner))
        } else {
            let stack = ServiceBuilder::new().layer(HandleErrorLayer::new(answer));
            app.fallback_service(stack.buffer(8).layer(layer).service(inner))
        };
        let address = serve_axum(app).await;
        let first = request(address, "/");
        active(&guard, 1, 0).await;
        if shed {
            let shed = request(address, "/").await.unwrap();
            assert_eq!(shed.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        gate.open(1);
        assert_eq!(first.await.unwrap().status(), StatusCode::OK);
        // Behind `load_shed` the place in the queue is granted, and passes on
        // since nobody claims it.
        eventually("nothing is active", || {
            guard.sample_now();
            guard.stats().active_tasks == 0
        })
        .await;
        if !shed {
            fill(&guard, &memory, 95);
            let rejected = request(address, "/").await.unwrap();
            assert_eq!(rejected.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(text(rejected).await, "critical_pressure");
            fill(&guard, &memory, 5);
            gate.open(1);
            // A rejection did not close the buffer.
            assert_eq!(
                request(address, "/").await.unwrap().status(),
                StatusCode::OK
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_under_a_mixed_load() {
    let (layer, memory) = with(|builder| {
        builder
            .max_concurrent(4)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_millis(30))
            .max_waiting(20)
    });
    let guard = layer.guard().clone();
    let count = Arc::new(AtomicUsize::new(0));
    let handler = move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis((n % 7) as u64)).await;
            assert!(n % 11 != 3, "this handler panics now and then");
            vec![7; n % 200_000]
        }
    };
    let app = Router::new().route("/", get(handler)).layer(layer);
    let address = serve_axum(app).await;
    let mut clients = Vec::new();
    for n in 0..200_u64 {
        clients.push(tokio::spawn(async move {
            let answer = request(address, "/");
            if n % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(n % 13)).await;
                answer.abort();
            } else if let Ok(response) = answer.await {
                let _ = response.into_body().collect().await;
            }
        }));
        if n % 50 == 25 {
            fill(&guard, &memory, 95);
        } else if n % 50 == 30 {
            fill(&guard, &memory, 20);
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    active(&guard, 0, 0).await;
    assert_empty(&guard);
}

/// The layer as a whole is what axum asks for.
#[test]
fn the_service_is_what_axum_needs() {
    fn needs<T: Clone + Send + Sync + 'static>() {}
    needs::<MemoryGuardLayer>();
    needs::<tower_memory_guard::MemoryGuard<axum::routing::Route>>();
    needs::<tower_memory_guard::MemoryGuardErrorService<axum::routing::Route>>();
}
