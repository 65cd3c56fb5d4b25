//! [`ResultLimitLayer`]: the limit for response bodies of any kind.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::LimitedBody;
use crate::error::BoxError;
use crate::guard::handle::Guard;
use crate::http::respond::{HttpResponder, answer};
use crate::http::wraps;

/// Refuses responses whose body is longer than the guard's
/// [`max_result_size_bytes`](crate::Config::max_result_size_bytes).
///
/// A body that says its length is refused before its first byte, with a 413 and
/// the reason `result_too_large`. One that does not is counted as it is sent; at
/// the first frame that passes the limit it ends in an error, so that the client
/// sees a broken response and never a short one.
///
/// What is cut off while it is being sent is not counted as a rejection. In observe mode, or
/// if the guard is not enabled, every response passes. The layer belongs inside of the guard's:
/// outside, what it refuses counts as a request of its own.
///
/// The body exists already, so this bounds what is sent, not what is built; for
/// that see [`to_json`](super::to_json).
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_memory_guard::MemoryGuardLayer;
/// use tower_memory_guard::result_size::ResultLimitLayer;
///
/// let layer = MemoryGuardLayer::builder().max_result_size_bytes(1 << 20).build()?;
/// let limit = ResultLimitLayer::new(layer.guard());
/// let app: Router = Router::new()
///     .route("/export", get(|| async { "rows" }))
///     .layer(limit)
///     .layer(layer);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is applied"]
pub struct ResultLimitLayer {
    guard: Guard,
    /// `None`: as the guard is set.
    limit_bytes: Option<u64>,
}

impl ResultLimitLayer {
    /// The limit of the guard's settings, as they are when a response begins.
    pub fn new(guard: &Guard) -> Self {
        Self {
            guard: guard.clone(),
            limit_bytes: None,
        }
    }

    /// Another limit in bytes.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit_bytes = Some(bytes);
        self
    }

    fn limit_bytes(&self) -> u64 {
        let configured = || self.guard.config().max_result_size_bytes;
        self.limit_bytes.unwrap_or_else(configured)
    }
}

impl<S> Layer<S> for ResultLimitLayer {
    type Service = ResultLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResultLimit {
            inner,
            limit: self.clone(),
        }
    }
}

/// A service whose responses are limited; made by [`ResultLimitLayer`].
#[derive(Clone, Debug)]
pub struct ResultLimit<S> {
    inner: S,
    limit: ResultLimitLayer,
}

wraps!(ResultLimit<S>, "The service without it.");

impl<S, B, ResB> Service<Request<B>> for ResultLimit<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<LimitedBody<ResB>>;
    type Error = S::Error;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // What the answer depends on is gone with the request.
        let mut asked = Request::new(());
        *asked.method_mut() = request.method().clone();
        if let Some(content_type) = request.headers().get(CONTENT_TYPE) {
            asked
                .headers_mut()
                .insert(CONTENT_TYPE, content_type.clone());
        }
        LimitFuture {
            future: self.inner.call(request),
            limit: self.limit.clone(),
            asked,
        }
    }
}

pin_project! {
    /// The future of [`ResultLimit`].
    pub struct LimitFuture<F> {
        #[pin]
        future: F,
        limit: ResultLimitLayer,
        asked: Request<()>,
    }
}

impl<F, ResB, E> Future for LimitFuture<F>
where
    F: Future<Output = Result<Response<ResB>, E>>,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Output = Result<Response<LimitedBody<ResB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let ResultLimitLayer { guard, .. } = &*this.limit;
        let mut limit = this.limit.limit_bytes();
        if response.body().size_hint().lower() > limit {
            let refusal = |rejected: &_| answer(&HttpResponder::new(), rejected, this.asked);
            if let Some(refusal) = guard.refuse_result(refusal) {
                return Poll::Ready(Ok(refusal.map(LimitedBody::refusal)));
            }
        }
        if guard.only_observes() {
            limit = u64::MAX;
        }
        Poll::Ready(Ok(response.map(|body| LimitedBody::new(body, limit))))
    }
}

opaque_debug!(impl[F] LimitFuture<F>);
