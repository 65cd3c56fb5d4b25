//! How long a response holds its permit.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::{assert_empty, counting, poll_once, with};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory_guard::{GuardedBody, MemoryGuardLayer, PeerStalled, Permit};

const LARGE: usize = 50 << 20;

async fn respond<B>(layer: &MemoryGuardLayer, body: B) -> Response<GuardedBody<B>>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let body = std::sync::Mutex::new(Some(body));
    let service = service_fn(|_: Request<()>| {
        let body = body.lock().unwrap().take().expect("one request");
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let service = layer.layer(service);
    service.oneshot(Request::new(())).await.unwrap()
}

/// A body of the frames that are sent to it.
struct Sent(mpsc::UnboundedReceiver<Frame<Bytes>>);

fn sent() -> (mpsc::UnboundedSender<Frame<Bytes>>, Sent) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Sent(receiver))
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn the_bytes_of_a_large_frame_hold_the_permit_when_the_body_is_gone() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let mut body = respond(&layer, Full::new(Bytes::from(vec![7; LARGE])))
        .await
        .into_body();
    assert_eq!(
        SizeHint::with_exact(LARGE as u64).exact(),
        body.size_hint().exact()
    );
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(
            piece.len() <= 64 << 10,
            "a server buffers no more than it wants"
        );
        pieces.push(piece);
        let left = LARGE - pieces.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(body.size_hint().exact(), Some(left as u64));
        assert_eq!(body.is_end_stream(), left == 0);
    }
    drop(body);
    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), LARGE);
    let last = pieces.pop().unwrap();
    drop(pieces);
    assert_eq!(guard.stats().active_tasks, 1);
    assert!(last.iter().all(|&byte| byte == 7));
    drop(last);
    assert_empty(&guard);
}

#[tokio::test]
async fn a_stream_holds_the_permit_until_its_last_frame_is_taken() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (sender, stream) = sent();
    let mut body = respond(&layer, stream).await.into_body();
    sender.send(data("one")).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "1".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "one"
    );
    let trailers = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["checksum"], "1");
    // Nothing comes after trailers, and servers do not ask whether it does.
    assert_empty(&guard);
    drop(body);
    assert_eq!(guard.stats().completed_requests, 1);
}

#[tokio::test]
async fn a_body_that_the_head_says_is_empty_is_not_abandoned_if_nobody_asks_for_it() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let response = Response::builder().header("content-length", "0");
        Ok::<_, Infallible>(response.body(StreamBody::new(frames)).unwrap())
    }));
    drop(service.oneshot(Request::new(())).await.unwrap());
    assert_empty(&guard);
    let stats = guard.stats();
    assert_eq!((stats.completed_requests, stats.abandoned_requests), (1, 0));
}

#[tokio::test]
async fn an_error_ends_the_body_and_frees_the_permit() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let failing = service_fn(|_: Request<()>| async {
        let frames =
            futures_util::stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("broken"))]);
        Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
    });
    let mut body = layer
        .layer(failing)
        .oneshot(Request::new(()))
        .await
        .unwrap()
        .into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap_err().to_string(),
        "broken"
    );
    assert_empty(&guard);
}

#[tokio::test]
async fn an_answer_without_a_body_frees_the_permit_at_once() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let switching = service_fn(|_: Request<()>| async {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok::<_, Infallible>(response)
    });
    let response = layer
        .layer(switching)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_empty(&guard);
    drop(response);
}

#[tokio::test]
async fn work_behind_a_body_that_is_dropped_early_is_told() {
    let (layer, _) = counting(1);
    let guard = layer.guard().clone();
    let (keep, mut kept) = mpsc::channel(1);
    let (sender, stream) = sent();
    let stream = std::sync::Mutex::new(Some(stream));
    let service = service_fn(|request: Request<()>| {
        let permit = request.extensions().get::<Permit>().unwrap().clone();
        keep.try_send(permit).unwrap();
        let stream = stream.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(stream)) }
    });
    let mut body = layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap()
        .into_body();
    let permit = kept.recv().await.unwrap();
    sender.send(data("one")).unwrap();
    body.frame().await.unwrap().unwrap();
    assert!(!permit.cancelled());
    drop(body);
    assert!(permit.cancelled());
    drop(permit);
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_loses_the_budget_after_the_body_timeout() {
    let (layer, _) = with(|builder| builder.body_timeout(Duration::from_secs(5)));
    let guard = layer.guard().clone();
    let (sender, stream) = sent();
    let mut body = respond(&layer, stream).await.into_body();
    sender.send(data("one")).unwrap();
    sender.send(data("two")).unwrap();
    body.frame().await.unwrap().unwrap();
    // The next frame is ready, and nobody asks for it.
    guard.sample_now();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(2)).await;
        guard.sample_now();
        assert_eq!(guard.stats().active_tasks, 1);
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    guard.sample_now();
    assert_empty(&guard);
    assert_eq!(guard.stats().stalled_responses, 1);
    guard.sample_now();
    assert_eq!(guard.stats().stalled_responses, 1);
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.is::<PeerStalled>(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_large_last_frame_that_nobody_sends_loses_the_budget_too() {
    let (layer, _) = with(|builder| builder.body_timeout(Duration::from_secs(5)));
    let guard = layer.guard().clone();
    let body = respond(&layer, Full::new(Bytes::from(vec![7; 100 << 10])))
        .await
        .into_body();
    // The server has taken everything, and its peer reads nothing.
    let frames = body.collect().await.unwrap();
    guard.sample_now();
    for _ in 0..2 {
        assert_eq!(guard.stats().active_tasks, 1);
        tokio::time::advance(Duration::from_millis(2500)).await;
        guard.sample_now();
    }
    assert_empty(&guard);
    drop(frames);
    assert_empty(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_response_survives_that_its_process_stood_still_for_longer_than_the_body_timeout() {
    let (layer, _) = with(|builder| builder.body_timeout(Duration::from_secs(5)));
    let guard = layer.guard().clone();
    let (sender, stream) = sent();
    let mut body = respond(&layer, stream).await.into_body();
    for text in ["one", "two", "three"] {
        sender.send(data(text)).unwrap();
        body.frame().await.unwrap().unwrap();
        guard.sample_now();
        // Nobody is served, and nobody looks.
        tokio::time::advance(Duration::from_secs(600)).await;
        guard.sample_now();
    }
    let stats = guard.stats();
    assert_eq!((stats.active_tasks, stats.stalled_responses), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_lives_for_hours() {
    let (layer, _) = with(|builder| builder.body_timeout(Duration::from_secs(5)));
    let guard = layer.guard().clone();
    let (sender, stream) = sent();
    let mut body = pin!(respond(&layer, stream).await.into_body());
    sender.send(data("one")).unwrap();
    body.frame().await.unwrap().unwrap();
    for _ in 0..100 {
        // The server asks; it is the handler that has nothing to say.
        assert!(poll_once(pin!(body.frame())).is_pending());
        guard.sample_now();
        tokio::time::advance(Duration::from_secs(600)).await;
    }
    assert_eq!(
        (guard.stats().active_tasks, guard.stats().stalled_responses),
        (1, 0)
    );
    sender.send(data("two")).unwrap();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "two"
    );
}
