//! The service: `/execute` behind a guard or something else, the rest in front.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tower_memory_guard::{BoxError, Guard, MemoryGuardLayer, Permit, Pressure};

use crate::script::{self, Failure};

const SCRIPT_TIME: Duration = Duration::from_secs(5);

/// What scripts are bounded by.
#[derive(Clone)]
pub(crate) struct Sandbox {
    /// Without a guard there is no permit, and results have no bound.
    pub(crate) guard: Option<Guard>,
    pub(crate) script_time: Duration,
}

/// `POST /execute`, with nothing in front of it.
pub(crate) fn execute_route(sandbox: Sandbox) -> Router {
    Router::new()
        .route("/execute", post(execute))
        .with_state(sandbox)
}

async fn execute(
    State(sandbox): State<Sandbox>,
    permit: Option<axum::Extension<Permit>>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    let code = match body {
        Ok(Json(body)) => body["code"].as_str().map(str::to_owned),
        Err(rejection) => return failure(rejection.status(), &rejection.body_text()),
    };
    let Some(code) = code else {
        return failure(StatusCode::BAD_REQUEST, r#"expected {"code": "…"}"#);
    };
    let limit = sandbox
        .guard
        .as_ref()
        .map_or(u64::MAX, |guard| guard.config().max_result_size_bytes);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let permit = permit.map(|axum::Extension(permit)| permit);
    let result = match script::evaluate(code, limit, sandbox.script_time, permit).await {
        Ok(result) => result,
        Err(Failure::Script(error)) => return failure(StatusCode::UNPROCESSABLE_ENTITY, &error),
        Err(Failure::Cancelled) => return failure(StatusCode::SERVICE_UNAVAILABLE, "cancelled"),
        Err(Failure::TooLarge) => {
            let rejected = sandbox.guard.map(|guard| guard.reject_result().to_string());
            return failure(StatusCode::PAYLOAD_TOO_LARGE, &rejected.unwrap_or_default());
        }
        Err(Failure::Panicked(error)) => {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        }
    };
    // Around it, without a copy of the whole.
    let frames = [
        Bytes::from_static(b"{\"result\":"),
        result.into(),
        Bytes::from_static(b"}"),
    ];
    let length: usize = frames.iter().map(Bytes::len).sum();
    let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
    let head = [
        (header::CONTENT_TYPE, "application/json".to_string()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (head, Body::from_stream(frames)).into_response()
}

fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// Everything: `/execute` behind the guard, the rest outside it.
pub(crate) fn app(layer: MemoryGuardLayer, script_time: Duration) -> Router {
    let guard = layer.guard().clone();
    let sandbox = Sandbox {
        guard: Some(guard.clone()),
        script_time,
    };
    execute_route(sandbox)
        .layer(layer)
        .route("/health", get(|| async { "ok" }))
        .route_service("/ready", guard.readiness())
        .route_service("/live", guard.liveness())
        .route("/stats", get(move || async move { Json(guard.stats()) }))
}

/// `/metrics`, for Prometheus.
fn metrics_route() -> Result<Router, BoxError> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("memory_guard_wait_seconds".into()),
            &[0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
        )?
        .install_recorder()?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let show = move || async move { (kind, metrics.render()) };
    Ok(Router::new().route("/metrics", get(show)))
}

async fn listen_on(address: SocketAddr, option: &str) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another with {option} ADDRESS").into()
    })
}

pub(crate) async fn serve(
    listen: SocketAddr,
    admin: Option<SocketAddr>,
) -> Result<ExitCode, BoxError> {
    let layer = MemoryGuardLayer::try_from_env()?;
    let guard = layer.guard().clone();
    let listener = listen_on(listen, "--listen").await?;
    let app = app(layer, SCRIPT_TIME).merge(metrics_route()?);
    greet(&guard, listener.local_addr()?);
    if let Some(admin) = admin {
        let listener = listen_on(admin, "--admin").await?;
        println!("  page     http://{}/guard", listener.local_addr()?);
        let page = Router::new().nest_service("/guard", guard.dashboard());
        tokio::spawn(async move { axum::serve(listener, page).await });
    }
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            told_to_stop().await;
            eprintln!("stopping: no new work, what is active finishes");
            guard.close();
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

/// By Ctrl-C, or by what stops containers.
async fn told_to_stop() {
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    #[cfg(unix)]
    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        tokio::select! {
            () = interrupted => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    interrupted.await;
}

fn greet(guard: &Guard, address: SocketAddr) {
    let stats = guard.stats();
    let limit = match stats.memory_limit_mib {
        Some(mib) => format!("{mib:.0} MiB, {:.1} % in use", stats.memory_percent),
        None => "none found; set MEMORY_GUARD_MEMORY_LIMIT, such as 512M".into(),
    };
    let at_once = match (stats.current_concurrency, stats.memory_limit_mib) {
        (Some(most), _) => format!("{most} at a time"),
        (None, Some(_)) => "as many at a time as fit".into(),
        (None, None) => "any number at a time".into(),
    };
    println!(
        "JavaScript sandbox on http://{address}
  source   {source}
  limit    {limit}
  policy   {policy}: {at_once}, each expected to need {each:.0} MiB at first

try:
  curl -s http://{address}/execute -H 'content-type: application/json' -d '{{\"code\": \"6 * 7\"}}'
  curl -s http://{address}/execute -H 'content-type: application/json' -d '{{\"code\": \"Array.from({{length: 1e5}}, (_, i) => ({{i}})).length\"}}'
  curl -s http://{address}/stats",
        source = guard.source(),
        policy = guard.policy(),
        each = stats.estimated_mem_per_req_mib,
    );
    if guard.pressure() == Pressure::Critical {
        println!("\nmemory is critical already: new work will be rejected");
    }
}
