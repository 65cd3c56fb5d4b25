//! The guard in a tonic server, in front of the standard health service.
//!
//! ```text
//! cargo run --example tonic
//! grpcurl -plaintext -d '{}' 127.0.0.1:50051 grpc.health.v1.Health/Check
//! ```
//!
//! A call that is turned away gets `RESOURCE_EXHAUSTED` and, in
//! `grpc-retry-pushback-ms`, when to come back.

use std::net::SocketAddr;

#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tower_memory_guard::MemoryGuardLayer;

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
    let (_reporter, health) = tonic_health::server::health_reporter();

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:50051".into());
    let listener = tokio::net::TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Server::builder()
        .layer(layer)
        .add_service(health)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            told_to_stop().await;
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
