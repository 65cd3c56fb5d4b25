//! The guard in front of a bare hyper server, HTTP/1 and HTTP/2.
//!
//! ```text
//! cargo run --example hyper
//! curl -i http://127.0.0.1:3001/
//! curl -i --http2-prior-knowledge http://127.0.0.1:3001/
//! ```

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tower::{Layer, service_fn};
use tower_memory_guard::MemoryGuardLayer;

async fn report(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let rows = vec![b'.'; 10 << 20];
    Ok(Response::new(Full::from(format!("{} bytes\n", rows.len()))))
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
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:3001".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut stop = pin!(told_to_stop());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Too many files are open, say: those who wait for a connection go on waiting.
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // A service for each connection; all share the layer's one guard.
        let service = TowerToHyperService::new(layer.layer(service_fn(report)));
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        });
    }
    // Waiters are told at once; what is active finishes, if it does.
    drop(listener);
    layer.guard().close();
    let _ = tokio::time::timeout(Duration::from_secs(45), graceful.shutdown()).await;
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
