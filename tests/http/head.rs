//! The answer to HEAD has no body, over HTTP/1 and HTTP/2, whoever answers.

use std::convert::Infallible;
use std::net::SocketAddr;

use crate::support::{counting, fill, listen};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tower::{Layer, Service, service_fn};

/// Serves any service, without a framework that would take bodies off.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let connection = auto::Builder::new(TokioExecutor::new());
                let _ = connection
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

async fn ask(
    address: SocketAddr,
    http2: bool,
    method: Method,
    path: &str,
) -> (StatusCode, HeaderMap, Bytes) {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http::<Full<Bytes>>();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .body(Full::default())
        .unwrap();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.expect("an answer without an error");
    (head.status, head.headers, body.to_bytes())
}

/// HEAD gets the head of GET's answer.
async fn is_head_of_get(address: SocketAddr, path: &str, expected: StatusCode) {
    for http2 in [false, true] {
        let (status, whole, body) = ask(address, http2, Method::GET, path).await;
        assert_eq!(status, expected);
        assert!(!body.is_empty());
        let (status, head, none) = ask(address, http2, Method::HEAD, path).await;
        assert_eq!((status, none.len()), (expected, 0), "{path} {http2}");
        let types =
            ["content-type", "content-length"].map(|name| (whole.get(name), head.get(name)));
        for (of_get, of_head) in types {
            assert_eq!(of_get, of_head, "{path} {http2}");
        }
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(vec![b'x'; 4096])))
}

#[tokio::test]
async fn who_is_turned_away_gets_the_head_of_the_rejection() {
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer.layer(service_fn(answer))).await;
    fill(&guard, &memory, 99);
    is_head_of_get(address, "/", StatusCode::SERVICE_UNAVAILABLE).await;
    // Other methods have a body as GET has.
    for method in [Method::OPTIONS, Method::DELETE] {
        let (status, headers, body) = ask(address, true, method, "/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let length = headers[CONTENT_LENGTH].to_str().unwrap();
        assert_eq!(length, body.len().to_string());
    }
}

#[tokio::test]
async fn a_rejected_tunnel_or_upgrade_is_answered_like_any_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let address = serve(layer.layer(service_fn(answer))).await;
    fill(&guard, &memory, 99);
    for head in [
        "CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade, close\r\nupgrade: echo\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = vec![0; 4096];
        let mut length = 0;
        while !answer[..length].ends_with(b"}") {
            let read = stream.read(&mut answer[length..]).await.unwrap();
            assert!(read > 0, "{:?}", String::from_utf8_lossy(&answer[..length]));
            length += read;
        }
        let answer = String::from_utf8_lossy(&answer[..length]);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        let said = format!("content-length: {}", body.len());
        assert!(head.contains(&said), "{head}");
    }
}

#[tokio::test]
async fn probes_may_ask_for_the_head() {
    let (layer, _) = counting(1);
    let guard = layer.guard();
    is_head_of_get(serve(guard.readiness()).await, "/", StatusCode::OK).await;
    is_head_of_get(serve(guard.liveness()).await, "/", StatusCode::OK).await;
    guard.close();
    let closed = StatusCode::SERVICE_UNAVAILABLE;
    is_head_of_get(serve(guard.readiness()).await, "/", closed).await;
}

#[tokio::test]
async fn the_page_may_be_asked_for_its_head() {
    let (layer, _) = counting(1);
    let address = serve(layer.guard().dashboard()).await;
    is_head_of_get(address, "/", StatusCode::OK).await;
    let (status, headers, body) = ask(address, true, Method::HEAD, "/events").await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers["content-type"], "text/event-stream");
}

#[tokio::test]
async fn a_result_that_is_too_large_is_refused_with_a_head() {
    let (layer, _) = counting(1);
    let limit = tower_memory_guard::result_size::ResultLimitLayer::new(layer.guard());
    let address = serve(limit.limit(100).layer(service_fn(answer))).await;
    is_head_of_get(address, "/", StatusCode::PAYLOAD_TOO_LARGE).await;
}
