//! Tower middleware that admits a request only when its memory will fit, so
//! that the kernel never kills the process.
//!
//! Put [`MemoryGuardLayer`] in front of work whose memory is large and unknown
//! before it runs: a script, an image, a report. It watches the memory of the
//! control group (or the process), reserves what each request is expected to
//! need, makes requests wait that do not fit yet, and turns away at once what
//! cannot be served.
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::post};
//! use tower_memory_guard::MemoryGuardLayer;
//!
//! async fn render() -> &'static str {
//!     "…"
//! }
//!
//! // Settings come from the environment; everything has a default.
//! let guarded = MemoryGuardLayer::from_env();
//! let guard = guarded.guard().clone();
//!
//! let app: Router = Router::new()
//!     .route("/render", post(render))
//!     .layer(guarded)
//!     // Outside the guard: answers at any pressure.
//!     .route("/health", axum::routing::get(|| async { "ok" }));
//!
//! println!("{:?}", guard.stats());
//! # drop(app);
//! ```
//!
//! # Two flavours
//!
//! | | [`MemoryGuard`] (the default) | [`MemoryGuardErrorService`] |
//! |---|---|---|
//! | for | HTTP and gRPC: axum, tonic, hyper | any `Service<Request>` |
//! | a rejection is | `Ok(503 response)` or a gRPC status | `Err` that downcasts to [`Rejected`] |
//! | waits in | the response future | `poll_ready`, as tower's `ConcurrencyLimit` does |
//! | permit held until | the response's bytes are gone | the response future is done |
//! | made by | [`MemoryGuardLayer`] | [`MemoryGuardLayer::into_error_layer`] |
//!
//! Work that is no request at all (a queue consumer, a cron job) asks
//! [`Guard::acquire`].
//!
//! Requests that differ are told apart by [classes](Class); [`StagedBodyLayer`] has slow
//! uploads hold only what they have sent; a [`Policy`] says how much is admitted, with the
//! `account` feature's `TrackingAllocator` by what each request holds. For operators there
//! are [`Guard::readiness`], [`MemoryGuardLayer::report_load`] and [`Guard::reload`]. The
//! README says more of each, `docs/ordering.md` where the guard stands among other layers,
//! and `docs/architecture.md` by which formulas it decides.
//!
//! # Processes that fork
//!
//! Build the guard after forking: a child has no thread that samples. A guard that was
//! built before notices, within a second and some requests, and starts one; or, where the parent was
//! reading memory at that moment, goes by [`OnSensorFailure`]. What else to expect is in
//! `docs/platforms.md`.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `metrics` | yes | metrics through the `metrics` facade |
//! | `tracing` | yes | log events |
//! | `account` | no | `account`: memory per request, by a tracking allocator |
//! | `jemalloc` | no | jemalloc is asked what it and each thread have allocated, and purged when memory is short |
//! | `serde` | no | `Serialize` for [`Stats`], [`Pressure`] and [`Reason`]; [`Estimates`] can be saved and loaded |
//! | `json` | no | `result_size`: refuse an oversized result before it is built |
//! | `axum` | no | `result_size::LimitedJson`, an axum response |
//! | `agent-check` | no | `AgentCheck`: answers HAProxy's agent checks |
//! | `dashboard` | no | `Guard::dashboard`: a page for people on call |
//! | `test-util` | no | `Guard::rejection`: a [`Rejected`] for one's own tests |
//! | `full` | no | all of these but `jemalloc`, which builds that allocator, and `test-util` |
#![cfg_attr(docsrs, feature(doc_cfg))]
// What is said is nobody's without.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

/// What is inside of a future or a body is nobody's business.
macro_rules! opaque_debug {
    (impl[$($generics:tt)*] $name:ident $($rest:tt)*) => {
        impl<$($generics)*> std::fmt::Debug for $name $($rest)* {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

#[cfg(feature = "account")]
#[allow(unsafe_code)]
pub mod account;
mod class;
mod classify;
mod config;
mod error;
mod forecast;
mod guard;
mod http;
mod limiter;
mod memory;
mod operate;
mod policy;
mod pressure;
#[cfg(feature = "json")]
pub mod result_size;
mod running;
mod sync;
mod telemetry;
mod units;

pub use self::http::body::GuardedBody;
pub use self::http::error_future::ErrorFuture;
pub use self::http::error_service::{MemoryGuardErrorLayer, MemoryGuardErrorService};
pub use self::http::future::ResponseFuture;
pub use self::http::layer::MemoryGuardLayer;
pub use self::http::reply::ReplyBody;
pub use self::http::respond::{HttpResponder, RequestHead, Respond};
pub use self::http::service::MemoryGuard;
pub use self::http::staged::{StagedBody, StagedBodyLayer, StagedBodyService};
pub use class::{Class, Priority, Tier};
pub use classify::{
    ByRequest, Classify, RequestClasses, RequestClassesBuilder, Skip, Staged, Unclassified, Uniform,
};
pub use config::{Config, MemoryGuardBuilder, Mode, OnSensorFailure, Policy};
pub use error::{BoxError, Cancelled, ConfigError, PeerStalled, Problem, Reason, Rejected};
pub use forecast::Estimates;
pub use guard::cost::Cost;
pub use guard::handle::Guard;
pub use guard::permit::Permit;
pub use memory::release::PressureContext;
pub use memory::{Detail, ManualSource, MemoryLevel, MemorySource, Sample, Source};
#[cfg(feature = "agent-check")]
pub use operate::agent_check::AgentCheck;
#[cfg(feature = "dashboard")]
pub use operate::dashboard::{Dashboard, DashboardBody};
pub use operate::health::{Liveness, Readiness};
pub use operate::load_report::{LoadFormat, LoadReport, LoadReportFuture, LoadReportLayer};
pub use pressure::Pressure;
pub use telemetry::stats::Stats;
