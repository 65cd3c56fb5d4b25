//! Requests whose bodies come first: admitted for the body, then for the work.
//!
//! The guard admits such a request for what its body will take (`admit`) and leaves a
//! `Stage` in its extensions; the [`StagedBodyLayer`] takes it from there and wraps the
//! body. At the body's end the [`StagedBody`] waits for the rest of the estimate.

mod body;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::deadline;
use crate::classify::labels::Demand;
use crate::guard::permit::Permit;
use crate::guard::staged::Stage;

pub use body::StagedBody;

/// The work of a request begins, or its body comes first. `since`: it waited from then on.
#[inline]
pub(crate) fn begin<B>(
    permit: &mut Permit,
    demand: Demand,
    request: &mut Request<B>,
    since: Option<Instant>,
) {
    match demand.is_for_body() {
        false => permit.start(),
        true => begin_staged(permit, demand, request, since),
    }
}

#[cold]
fn begin_staged<B>(
    permit: &mut Permit,
    demand: Demand,
    request: &mut Request<B>,
    since: Option<Instant>,
) {
    let config = permit.state().config();
    let left = deadline::of_caller(request.headers(), &config.deadline_headers);
    let callers = left.and_then(|left| since.unwrap_or_else(Instant::now).checked_add(left));
    if let Some(stage) = Stage::begin(permit, demand, callers) {
        request.extensions_mut().insert(stage);
    }
}

/// The stage of a request on its way to the layer.
pub(crate) fn of<B>(request: &Request<B>) -> Option<Arc<Stage>> {
    request.extensions().get().cloned()
}

/// Counts request bodies as they are read, and has requests wait for the rest of their
/// memory once their bodies are there.
///
/// For a guard that [stages bodies](crate::MemoryGuardLayer::stage_bodies), inside of it.
/// While a body is uploaded the request holds the body's size only. When the body's last
/// byte has been read, the request waits in its class's turn until what it is estimated
/// to need fits, and only then the handler sees the end of the body. Whoever waits here
/// goes before newcomers that are not critical: what it holds is free only after its turn.
///
/// - What is reserved before is the body's Content-Length, or for a body of unknown length
///   what `stage_bodies` was told.
/// - A body that grows past that has its reservation grow with it, without a wait. It
///   fails if it is larger than the memory limit, if all that is reserved would be, or if
///   memory is critical at that moment and its priority is not.
/// - What counts are the bytes that come through this layer. Place it inside of a layer
///   that decompresses, and it counts what was decompressed.
/// - The estimate is of the whole work with its body: the reservation grows to the
///   greater of the two.
/// - The wait has a deadline of its own: the least of
///   [`wait_timeout`](crate::MemoryGuardBuilder::wait_timeout), the class's deadline, and
///   what is left of the caller's. Where all that is in flight are bodies, the request
///   begins when what it is known to need at least is free beside them.
/// - A request that is turned away is answered by the guard, like one that was never
///   admitted; its handler is dropped. Whoever else reads the body gets a
///   [`Rejected`](crate::Rejected) as its error.
///
/// It is for handlers that read the whole body before they work. A body that is dropped
/// before its end has the reservation grow to the estimate without a wait, as soon as the
/// handler is polled again. A handler that works while it reads (a proxy, an upload to
/// disk) should not be behind it.
///
/// A client may announce a large body and send nothing: bound what it may announce, with
/// a layer such as tower-http's `RequestBodyLimitLayer` outside the guard, and how long it
/// may take.
///
/// The body's type changes, so axum needs one more layer that changes it back:
///
/// ```
/// use axum::{Router, body::Body, routing::post};
/// use tower::ServiceBuilder;
/// use tower_http::decompression::RequestDecompressionLayer;
/// use tower_http::map_request_body::MapRequestBodyLayer;
/// use tower_memory_guard::{MemoryGuardLayer, StagedBodyLayer};
///
/// async fn import(document: String) -> String {
///     format!("{} bytes", document.len())
/// }
///
/// let guarded = MemoryGuardLayer::builder().build()?.stage_bodies(64 << 10);
/// let app: Router = Router::new().route("/import", post(import)).layer(
///     ServiceBuilder::new()
///         .layer(guarded)
///         .layer(RequestDecompressionLayer::new())
///         .layer(StagedBodyLayer::new())
///         .layer(MapRequestBodyLayer::new(Body::new)),
/// );
///
/// # use tower::ServiceExt;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let request = http::Request::post("/import").body(Body::from("<a/>"))?;
/// let response = app.oneshot(request).await?;
/// assert_eq!(axum::body::to_bytes(response.into_body(), 100).await?, "4 bytes");
/// # Ok::<(), tower_memory_guard::BoxError>(())
/// # })?;
/// # Ok::<(), tower_memory_guard::BoxError>(())
/// ```
///
/// Requests that no guard has staged pass unchanged.
///
/// # Panics
///
/// The body, if it has to wait outside a tokio runtime with its timer enabled.
///
/// # Cancel safety
///
/// Dropping the body, or the response future around it, leaves the queue and gives back
/// what was reserved.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it is applied"]
pub struct StagedBodyLayer(());

impl StagedBodyLayer {
    /// Has no settings: those are the guard's.
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for StagedBodyLayer {
    type Service = StagedBodyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StagedBodyService { inner }
    }
}

/// A service that reads [`StagedBody`]s; made by [`StagedBodyLayer`].
#[derive(Clone, Copy, Debug)]
pub struct StagedBodyService<S> {
    inner: S,
}

wraps!(StagedBodyService<S>, "The service without it.");

impl<S, B> Service<Request<B>> for StagedBodyService<S>
where
    S: Service<Request<StagedBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let stage = request.extensions_mut().remove::<Arc<Stage>>();
        stage.iter().for_each(|stage| stage.is_taken());
        self.inner
            .call(request.map(|body| StagedBody::new(body, stage)))
    }
}
