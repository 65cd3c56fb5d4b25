//! The guard in an axum router.
//!
//! ```text
//! cargo run --example axum
//! curl -i http://127.0.0.1:3000/render?mb=100
//! curl -s http://127.0.0.1:3000/stats
//! ```

use std::time::Duration;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use tower_memory_guard::MemoryGuardLayer;

/// Work whose memory is not known before it runs.
async fn render(Query(query): Query<Value>) -> Result<String, (StatusCode, &'static str)> {
    let mb = query["mb"].as_str().and_then(|mb| mb.parse::<usize>().ok());
    let mb = mb
        .filter(|mb| *mb <= 1000)
        .ok_or((StatusCode::BAD_REQUEST, "try ?mb=100\n"))?;
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
            let _ = tokio::signal::ctrl_c().await;
            // Waiters are told at once; what is active finishes.
            guard.close();
        })
        .await?;
    Ok(())
}
