//! The guard in an axum router.
//!
//! ```text
//! cargo run --example axum
//! curl -i 'http://127.0.0.1:3000/render?mb=100'
//! curl -s http://127.0.0.1:3000/stats
//! ```

use std::time::Duration;

use axum::extract::{Extension, Query};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tower_memory_guard::{MemoryGuardLayer, Permit};

/// Work whose memory is not known before it runs.
async fn render(
    Query(query): Query<Value>,
    Extension(permit): Extension<Permit>,
) -> Result<String, (StatusCode, &'static str)> {
    let mb = query["mb"].as_str().and_then(|mb| mb.parse::<usize>().ok());
    let mb = mb
        .filter(|mb| *mb <= 1000)
        .ok_or((StatusCode::BAD_REQUEST, "try ?mb=100\n"))?;
    // What is reserved is an estimate. For what is known to need more, all at once, ask.
    let more = ((mb as u64) << 20).saturating_sub(permit.bytes());
    if permit.try_grow(more).is_err() {
        let told = "not so much at the moment\n";
        return Err((StatusCode::SERVICE_UNAVAILABLE, told));
    }
    let image = vec![1_u8; mb << 20];
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(format!("rendered {} bytes\n", image.len()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let layer = MemoryGuardLayer::try_from_env().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let guard = layer.guard().clone();
    let stats = guard.clone();
    let app = Router::new()
        .route("/render", get(render))
        .layer(layer)
        // Outside the guard: they answer at any pressure.
        .route("/health", get(|| async { "ok\n" }))
        .route("/stats", get(move || async move { Json(stats.stats()) }));

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            told_to_stop().await;
            // Waiters are told at once; what is active finishes.
            guard.close();
        })
        .await?;
    Ok(())
}

/// By Ctrl-C, or by what stops containers.
async fn told_to_stop() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut terminated) = signal(SignalKind::terminate()) {
        tokio::select! {
            _ = interrupted => {}
            _ = terminated.recv() => {}
        }
        return;
    }
    let _ = interrupted.await;
}
