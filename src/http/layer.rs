//! [`MemoryGuardLayer`]: puts a guard in front of a service.

use tower_layer::Layer;

use super::error_service::MemoryGuardErrorLayer;
use super::respond::{HttpResponder, Respond};
use super::service::MemoryGuard;
use crate::class::Class;
use crate::classify::{ByRequest, Skip, Staged, Unclassified, Uniform};
use crate::config::MemoryGuardBuilder;
use crate::error::ConfigError;
use crate::guard::handle::Guard;

/// Admits a request only when its memory will fit.
///
/// The guard's state lives in the layer: every service that it makes, and
/// every clone of it, shares one guard. So it does not matter how often a
/// server applies the layer (axum does for each connection).
///
/// See the [crate](crate) page for an example.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is applied"]
pub struct MemoryGuardLayer<R = HttpResponder, C = Uniform> {
    guard: Guard,
    responder: R,
    classify: C,
}

impl MemoryGuardLayer {
    pub(crate) fn new(guard: Guard) -> Self {
        Self {
            guard,
            responder: HttpResponder::new(),
            classify: Uniform,
        }
    }

    /// A guard with the settings of the environment.
    ///
    #[doc = include_str!("../../docs/settings.md")]
    ///
    /// Called again with the same settings it gives the same guard, so that a
    /// service and a route may both use it, but the
    /// [error flavour](Self::into_error_layer) not inside of another one.
    ///
    /// # Panics
    ///
    /// With a report of every variable that cannot be used, its value, and what
    /// would be right. Meant for start-up; [`try_from_env`](Self::try_from_env)
    /// returns the report.
    pub fn from_env() -> Self {
        Self::try_from_env().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A guard with the settings of the environment; see [`from_env`](Self::from_env).
    ///
    /// # Errors
    ///
    /// Every variable that cannot be used, its value, and what would be right.
    pub fn try_from_env() -> Result<Self, ConfigError> {
        Guard::from_env().map(Self::new)
    }

    /// Settings from code; [`read_env`](MemoryGuardBuilder::read_env) mixes both.
    pub fn builder() -> MemoryGuardBuilder {
        MemoryGuardBuilder::default()
    }
}

impl MemoryGuardBuilder {
    /// Checks the settings and starts the guard.
    ///
    /// # Errors
    ///
    /// Lists every setting that cannot be used. A sensor that cannot be read is
    /// no error: [`on_sensor_failure`](Self::on_sensor_failure) says what happens then.
    pub fn build(self) -> Result<MemoryGuardLayer, ConfigError> {
        let (config, warnings) = self.settings.check()?;
        let guard = Guard::start(config, self.memory_source);
        crate::telemetry::logs::warnings(&warnings);
        if let Some(estimates) = self.estimates {
            guard.learn_from(&estimates);
        }
        Ok(MemoryGuardLayer::new(guard))
    }
}

impl From<Guard> for MemoryGuardLayer {
    /// A layer in front of a guard that exists.
    fn from(guard: Guard) -> Self {
        Self::new(guard)
    }
}

impl<R, U: Unclassified> MemoryGuardLayer<R, U> {
    /// Says what each request is: whose estimate it has, who goes first, on whose
    /// behalf, and how long it may wait. See [`Class`].
    ///
    /// Called once for each request, before anything else is decided. [`skip`](Self::skip)
    /// and [`stage_bodies`](Self::stage_bodies) may come before it or after it: what is
    /// skipped is not classified.
    ///
    /// In the error flavour `poll_ready` waits for memory before it knows the request, for
    /// what requests need on average. What it got is made to fit once `call` says what it is
    /// for; if that does not fit, the future waits in its class's turn. The inner service has
    /// been called by then, but its future is not polled before.
    pub fn classify<Req, F>(self, classify: F) -> MemoryGuardLayer<R, U::With<ByRequest<F>>>
    where
        F: Fn(&Req) -> Class,
    {
        self.classify_with(ByRequest::new(classify))
    }

    /// As [`classify`](Self::classify), by what says it without a function:
    /// [`RequestClasses`](crate::RequestClasses), for HTTP.
    pub fn classify_with<C>(self, classify: C) -> MemoryGuardLayer<R, U::With<C>> {
        self.map(|unclassified| unclassified.with(classify))
    }
}

impl<R, C> MemoryGuardLayer<R, C> {
    /// The guard behind the layer: its statistics, and permits for work that is
    /// no request.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Answers rejections with `responder` instead of [`HttpResponder`]; a closure that
    /// takes a [`Rejected`](crate::Rejected) is one. See [`Respond`].
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_memory_guard::{HttpResponder, MemoryGuardLayer};
    ///
    /// // A mesh that ejects backends for 503 does not for 429.
    /// let responder = HttpResponder::new().status(StatusCode::TOO_MANY_REQUESTS);
    /// let layer = MemoryGuardLayer::builder().build()?.respond(responder);
    /// # Ok::<(), tower_memory_guard::ConfigError>(())
    /// ```
    pub fn respond<T: Respond>(self, responder: T) -> MemoryGuardLayer<T, C> {
        MemoryGuardLayer {
            guard: self.guard,
            responder,
            classify: self.classify,
        }
    }

    /// Requests for which `skips` says `true` pass by the guard, uncounted, at
    /// any pressure: health checks behind the same layer.
    ///
    /// In the error flavour such a request still waits where others do, since
    /// `poll_ready` does not know it yet, but it is never rejected. What `poll_ready`
    /// got for it is given back; if it waited, it counts among those queued.
    ///
    /// ```
    /// use http::Request;
    /// use tower_memory_guard::MemoryGuardLayer;
    ///
    /// let layer = MemoryGuardLayer::builder()
    ///     .build()?
    ///     .skip(|request: &Request<_>| request.uri().path() == "/health");
    /// # let app: axum::Router = axum::Router::new().layer(layer);
    /// # Ok::<(), tower_memory_guard::ConfigError>(())
    /// ```
    pub fn skip<Req, F>(self, skips: F) -> MemoryGuardLayer<R, Skip<C, F>>
    where
        F: Fn(&Req) -> bool,
    {
        self.map(|classify| Skip::new(classify, skips))
    }

    /// Admits a request for the size of its body first, and for what it is estimated to
    /// need once the body is there: while a slow client uploads, only the body is in
    /// memory. Default: requests are admitted for all that they need.
    ///
    /// A [`StagedBodyLayer`](crate::StagedBodyLayer) has to be inside of the guard: see
    /// there for what it does, and for an example. Without it requests would work on what
    /// was reserved for their bodies; that is logged once.
    ///
    /// `unknown_bytes` is what is reserved for a body that has no Content-Length and whose
    /// size is not known otherwise; 64 KiB does, since it grows as it is read. At least
    /// 1 KiB. A request whose body is empty is admitted at once for all that it needs, and
    /// so is one that a guard further out has reserved memory for.
    ///
    /// The error flavour waits in `poll_ready`, before it knows of a body: there it changes
    /// nothing.
    pub fn stage_bodies(self, unknown_bytes: u64) -> MemoryGuardLayer<R, Staged<C>> {
        self.map(|classify| Staged::new(classify, unknown_bytes))
    }

    fn map<D>(self, with: impl FnOnce(C) -> D) -> MemoryGuardLayer<R, D> {
        MemoryGuardLayer {
            guard: self.guard,
            responder: self.responder,
            classify: with(self.classify),
        }
    }

    /// The error flavour, for any `Service<Req>`: `poll_ready` waits, and a
    /// rejection is an `Err` that downcasts to [`Rejected`](crate::Rejected).
    ///
    /// It asks before there is a request. So inside of another layer of the same guard it
    /// does not know that a request was admitted, and reserves a second time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_memory_guard::BoxError> {
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    /// use tower_memory_guard::MemoryGuardLayer;
    ///
    /// let mut squares = ServiceBuilder::new()
    ///     .layer(MemoryGuardLayer::builder().build()?.into_error_layer())
    ///     .service_fn(|n: u64| async move { Ok::<_, std::io::Error>(n * n) });
    /// assert_eq!(squares.ready().await?.call(12).await?, 144);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_error_layer(self) -> MemoryGuardErrorLayer<C> {
        MemoryGuardErrorLayer::new(self.guard, self.classify)
    }
}

impl<S, R: Clone, C: Clone> Layer<S> for MemoryGuardLayer<R, C> {
    type Service = MemoryGuard<S, R, C>;

    fn layer(&self, inner: S) -> Self::Service {
        MemoryGuard::new(
            inner,
            self.guard.clone(),
            self.responder.clone(),
            self.classify.clone(),
        )
    }
}
