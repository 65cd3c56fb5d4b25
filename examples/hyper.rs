//! The guard in front of a bare hyper server, HTTP/1 and HTTP/2.
//!
//! ```text
//! cargo run --example hyper
//! curl -i http://127.0.0.1:3001/
//! curl -i --http2-prior-knowledge http://127.0.0.1:3001/
//! ```

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
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
    loop {
        let (stream, _) = tokio::select! {
            connection = listener.accept() => connection?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        // A service for each connection; all share the layer's one guard.
        let service = TowerToHyperService::new(layer.layer(service_fn(report)));
        tokio::spawn(async move {
            let connection = auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(stream);
            if let Err(error) = connection.serve_connection_with_upgrades(io, service).await {
                eprintln!("connection: {error}");
            }
        });
    }
}
