//! Through a real hyper server: HTTP/2 in particular, and upgrades.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{counting, fill, listen, with};
use crate::{FRAME, active};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::{Layer, service_fn};
use tower_memory_guard::{MemoryGuardLayer, Permit};

/// Answers by path: `/wait` once the semaphore allows, `/large` at once with
/// one frame of 50 MB, everything else with "done".
async fn serve(layer: MemoryGuardLayer, gate: Arc<Semaphore>) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let gate = gate.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let gate = gate.clone();
                async move {
                    let body = match request.uri().path() {
                        "/wait" => {
                            gate.acquire().await.unwrap().forget();
                            Bytes::from_static(b"done")
                        }
                        "/large" => Bytes::from(vec![7; FRAME]),
                        "/upgrade" => return Ok::<_, Infallible>(upgrade(request, false)),
                        "/upgrade/kept" => return Ok(upgrade(request, true)),
                        _ => Bytes::from_static(b"done"),
                    };
                    Ok(Response::new(Full::new(body)))
                }
            });
            let service = TowerToHyperService::new(layer.layer(service));
            tokio::spawn(async move {
                let connection = auto::Builder::new(TokioExecutor::new());
                let io = TokioIo::new(stream);
                let _ = connection.serve_connection_with_upgrades(io, service).await;
            });
        }
    });
    address
}

/// Echoes one byte on the upgraded connection.
fn upgrade(request: Request<Incoming>, keep: bool) -> Response<Full<Bytes>> {
    let permit = request
        .extensions()
        .get::<Permit>()
        .filter(|_| keep)
        .cloned();
    tokio::spawn(async move {
        let _permit = permit;
        let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut byte = [0];
        io.read_exact(&mut byte).await.unwrap();
        io.write_all(&byte).await.unwrap();
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("upgrade", "echo".parse().unwrap());
    response
        .headers_mut()
        .insert("connection", "upgrade".parse().unwrap());
    response
}

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://test{path}"))
        .body(Full::default())
        .unwrap()
}

fn spawn(sender: &Sender, path: &str) -> tokio::task::JoinHandle<(StatusCode, HeaderMap, Bytes)> {
    let mut sender = sender.clone();
    let request = request(path);
    tokio::spawn(async move {
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (
            head.status,
            head.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    })
}

#[tokio::test]
async fn streams_of_one_connection_are_admitted_wait_and_are_rejected() {
    let (layer, memory) = with(|builder| {
        builder
            .max_concurrent(2)
            .estimated_bytes_per_request(1024)
            .wait_timeout(Duration::from_millis(200))
    });
    let guard = layer.guard().clone();
    let gate = Arc::new(Semaphore::new(0));
    let sender = http2(serve(layer, gate.clone()).await).await;

    let admitted = [spawn(&sender, "/wait"), spawn(&sender, "/wait")];
    active(&guard, 2, 0).await;
    let waiting = spawn(&sender, "/wait");
    active(&guard, 2, 1).await;
    let (status, headers, body) = waiting.await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key("retry-after"));
    assert!(body.windows(12).any(|part| part == b"wait_timeout"));

    fill(&guard, &memory, 90);
    let (status, _, body) = spawn(&sender, "/wait").await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.windows(17).any(|part| part == b"critical_pressure"));

    gate.add_permits(2);
    for answer in admitted {
        assert_eq!(answer.await.unwrap().2, "done");
    }
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn a_reset_stream_leaves_the_queue_or_ends_its_work() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let sender = http2(serve(layer, Arc::new(Semaphore::new(0))).await).await;
    let working = spawn(&sender, "/wait");
    active(&guard, 1, 0).await;
    let waiting = spawn(&sender, "/wait");
    active(&guard, 1, 1).await;
    waiting.abort();
    active(&guard, 1, 0).await;
    working.abort();
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn a_frame_of_50_mb_holds_its_permit_while_an_http2_peer_stalls() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer, Arc::new(Semaphore::new(0))).await;
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let get = Request::get("http://test/large").body(()).unwrap();
    let (response, _) = sender.send_request(get, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let first = body.data().await.unwrap().unwrap();
    // No window is given back, so nothing more is sent.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(guard.stats().active_tasks, 1);
    let mut length = first.len();
    body.flow_control().release_capacity(first.len()).unwrap();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        length += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(length, FRAME);
    active(&guard, 0, 0).await;
}

#[tokio::test]
async fn an_upgraded_connection_holds_nothing_unless_it_keeps_the_permit() {
    for (path, held) in [("/upgrade", 0), ("/upgrade/kept", 1)] {
        let (layer, _) = counting(1);
        let guard = layer.guard().clone();
        let address = serve(layer, Arc::new(Semaphore::new(0))).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        active(&guard, held, 0).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        active(&guard, 0, 0).await;
    }
}

#[tokio::test]
async fn http1_on_the_same_server_is_guarded_too() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer, Arc::new(Semaphore::new(0))).await;
    fill(&guard, &memory, 90);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("content-type: application/problem+json\r\n"),
        "{answer}"
    );
}
