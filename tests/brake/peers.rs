//! What a pause is for those at the other end of an HTTP/2 connection: the paused stream
//! stands still, and the others go on.

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use support::{MIB, assert_empty, eventually, fill, listen, with};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::Routes;
use tonic::transport::{Endpoint, Server};
use tonic::{Status, Streaming};
use tower::service_fn;
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{
    Class, Guard, ManualSource, MemoryGuardBuilder, MemoryGuardLayer, Priority,
};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

fn guarded() -> (MemoryGuardLayer, Guard, ManualSource) {
    let patient = |builder: MemoryGuardBuilder| builder.max_pause(Duration::from_secs(60));
    let (layer, memory) = with(|builder| patient(builder.estimated_bytes_per_request(16 * MIB)));
    let guard = layer.guard().clone();
    (layer, guard, memory)
}

/// What is under `/critical` is never paused.
fn by_path<B>(request: &http::Request<B>) -> Class {
    match request.uri().path() {
        path if path.starts_with("/critical") => {
            Class::new("critical").priority(Priority::Critical)
        }
        _ => Class::default(),
    }
}

fn block() -> Vec<u8> {
    vec![1; MIB as usize]
}

/// Takes a body as it comes, and grows with each part of it.
async fn upload(State(parts): State<Arc<AtomicUsize>>, request: Request) -> String {
    let keeps = !request.uri().path().starts_with("/critical");
    let mut body = request.into_body().into_data_stream();
    let (mut length, mut kept) = (0, Vec::new());
    while let Some(data) = body.next().await {
        length += data.unwrap().len();
        if keeps && kept.len() < 4 {
            kept.push(block());
            parts.fetch_add(1, Ordering::Relaxed);
        }
    }
    length.to_string()
}

/// A stream may have 64 KiB unread, and its connection a MiB. If a stream might have as
/// much unread as its connection, one that is paused would hold up all others.
async fn serve(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let mut connection = auto::Builder::new(TokioExecutor::new());
                connection
                    .http2()
                    .initial_stream_window_size(64 << 10)
                    .initial_connection_window_size(1 << 20);
                let io = TokioIo::new(stream);
                let _ = connection.serve_connection(io, service).await;
            });
        }
    });
    address
}

const PARTS: usize = 128;
const PART: usize = 32 << 10;

/// The first of them comes once it is said.
fn parts(mut gate: watch::Receiver<bool>) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let part = || Ok(Bytes::from(vec![7; PART]));
    let first = async move {
        gate.wait_for(|is_open| *is_open).await.unwrap();
        part()
    };
    stream::once(first).chain(stream::iter((1..PARTS).map(move |_| part())))
}

#[tokio::test]
async fn uploads_go_on_beside_one_that_is_paused() {
    let (layer, guard, memory) = guarded();
    let parts_taken = Arc::new(AtomicUsize::new(0));
    let app = Router::new()
        .route("/upload", post(upload))
        .route("/critical", post(upload))
        .layer(layer.classify(by_path::<Body>))
        .with_state(parts_taken.clone());
    let stream = TcpStream::connect(serve(app).await).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Body>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let send = |path: &str, body| {
        let mut sender = sender.clone();
        let request = Request::post(format!("http://test{path}"))
            .body(body)
            .unwrap();
        tokio::spawn(async move {
            let answer = sender.send_request(request).await.unwrap();
            let answer = answer.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(answer.to_vec()).unwrap()
        })
    };
    let length = (PARTS * PART).to_string();
    // Its first frame, then the rest of them.
    let (more, rest) = mpsc::unbounded_channel::<Result<Bytes, Infallible>>();
    more.send(Ok(Bytes::from(vec![7; PART / 2]))).unwrap();
    let paused = send(
        "/upload",
        Body::from_stream(UnboundedReceiverStream::new(rest)),
    );
    let begun = || parts_taken.load(Ordering::Relaxed) == 1;
    eventually("it has begun", begun).await;
    // Each is four times what the connection may have unread.
    let (open, gate) = watch::channel(false);
    let others = [(); 3].map(|()| send("/critical", Body::from_stream(parts(gate.clone()))));
    eventually("all have", || guard.stats().active_tasks == 4).await;
    fill(&guard, &memory, 100);
    more.send(Ok(Bytes::from(vec![7; PART / 2]))).unwrap();
    for _ in 1..PARTS {
        more.send(Ok(Bytes::from(vec![7; PART]))).unwrap();
    }
    drop(more);
    eventually("it is paused", || guard.stats().paused_tasks == 1).await;
    open.send(true).unwrap();
    for other in others {
        assert_eq!(other.await.unwrap(), length);
    }
    assert!(begun() && !paused.is_finished());
    assert_eq!(guard.stats().paused_tasks, 1);
    fill(&guard, &memory, 10);
    assert_eq!(paused.await.unwrap(), length);
    eventually("all ended", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

const HEARTBEAT: &[u8] = b"heartbeat";

type Answers = stream::BoxStream<'static, Result<Bytes, Status>>;

/// Answers each message, for which it grows, and has heartbeats in between.
fn talk(messages: Streaming<Bytes>, grows: bool) -> Answers {
    let mut kept = Vec::new();
    let answers = messages.map(move |message| {
        if grows {
            kept.push(block());
        }
        message
    });
    let every = tokio::time::interval(Duration::from_millis(5));
    let beats = stream::unfold(every, |mut every| async move {
        every.tick().await;
        Some((Ok(Bytes::from_static(HEARTBEAT)), every))
    });
    // To the end of the messages.
    let answers = answers.map(Some).chain(stream::iter([None]));
    let all = stream::select(beats.map(Some), answers);
    let open = all.scan((), |(), item| std::future::ready(item));
    open.boxed()
}

async fn talking(request: Request) -> http::Response<tonic::body::Body> {
    let grows = !request.uri().path().starts_with("/critical");
    let service = service_fn(move |request: tonic::Request<Streaming<Bytes>>| {
        let answers = talk(request.into_inner(), grows);
        std::future::ready(Ok::<_, Status>(tonic::Response::new(answers)))
    });
    tonic::server::Grpc::new(Plain)
        .streaming(service, request)
        .await
}

/// One bidirectional call.
struct Call {
    to: mpsc::UnboundedSender<Bytes>,
    from: Streaming<Bytes>,
}

impl Call {
    async fn begin(channel: &tonic::transport::Channel, path: &'static str) -> Self {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let (to, messages) = mpsc::unbounded_channel();
        let messages = tonic::Request::new(UnboundedReceiverStream::new(messages));
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = client.streaming(messages, path, Plain).await.unwrap();
        let from = answer.into_inner();
        Self { to, from }
    }

    fn say(&self, message: &'static str) {
        self.to.send(Bytes::from(message)).unwrap();
    }

    /// Until this comes; says how many others did.
    async fn hear(&mut self, message: &'static [u8]) -> usize {
        let mut others = 0;
        while self.from.message().await.unwrap().unwrap() != message {
            others += 1;
        }
        others
    }
}

#[tokio::test]
async fn a_call_is_not_torn_down_while_it_is_paused() {
    let (layer, guard, memory) = guarded();
    let routes = Router::new()
        .route("/talk", post(talking))
        .route("/critical/talk", post(talking));
    let (listener, address) = listen().await;
    // Either side ends a connection whose peer does not answer its pings.
    let (every, patience) = (Duration::from_millis(20), Duration::from_secs(1));
    let server = Server::builder()
        .http2_keepalive_interval(Some(every))
        .http2_keepalive_timeout(Some(patience))
        .layer(layer.classify(by_path::<tonic::body::Body>))
        .add_routes(Routes::from(routes));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.unwrap();

    let mut growing = Call::begin(&channel, "/talk").await;
    let mut other = Call::begin(&channel, "/critical/talk").await;
    growing.say("one");
    growing.hear(b"one").await;
    growing.hear(HEARTBEAT).await;
    fill(&guard, &memory, 100);
    growing.say("two");
    eventually("it is paused", || guard.stats().paused_tasks == 1).await;
    let since = Instant::now();
    while since.elapsed() < patience + 10 * every {
        other.say("still there");
        other.hear(b"still there").await;
        other.hear(HEARTBEAT).await;
    }
    assert_eq!(guard.stats().paused_tasks, 1);
    fill(&guard, &memory, 10);
    growing.hear(b"two").await;
    growing.hear(HEARTBEAT).await;
    growing.say("three");
    growing.hear(b"three").await;
    for call in [growing, other] {
        let Call { to, mut from } = call;
        drop(to);
        while from.message().await.unwrap().is_some() {}
    }
    eventually("all ended", || guard.stats().active_tasks == 0).await;
    assert_empty(&guard);
}
