//! Where the guard stands among other layers.
//!
//! ```text
//!   trace          sees every answer, rejections too
//!   └ timeout      bounds wait and work together
//!     └ guard      admits, or makes wait, or turns away
//!       └ work     runs only when its memory is there
//!
//!   buffer         callers of any thread; stays open when the guard rejects
//!   └ load_shed    turns away at once instead of waiting, if that is wanted
//!     └ guard      the error flavour: waits in poll_ready
//!       └ work
//! ```
//!
//! A timeout inside the guard would not bound the wait. A `load_shed` outside
//! turns every wait into a rejection. A buffer inside the guard would hold
//! requests that have their memory already.
//!
//! `cargo run --example tower_stack` runs both stacks and ends.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;
use tower_memory_guard::{MemoryGuardLayer, Rejected};

async fn render(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(Response::new(Full::from("rendered")))
}

async fn square(n: u64) -> Result<u64, Infallible> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(n * n)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let layer = MemoryGuardLayer::builder()
        .read_env()
        .max_concurrent(2)
        .build()
        .unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(2);
        });
    let guard = layer.guard().clone();

    // HTTP: rejections are responses, so trace and timeout treat them as such.
    let http = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .timeout(Duration::from_millis(250))
        .layer(layer.clone())
        .service_fn(render);
    let answers = (0..6).map(|_| tokio::spawn(http.clone().oneshot(Request::default())));
    for answer in answers.collect::<Vec<_>>() {
        match answer.await? {
            Ok(response) => println!("http: {}", response.status()),
            Err(error) => println!("http: {error}"),
        }
    }

    // Any service: rejections are errors that downcast.
    let squares = ServiceBuilder::new()
        .buffer(16)
        .load_shed()
        .layer(layer.into_error_layer())
        .service_fn(square);
    let answers = (0..6).map(|n| tokio::spawn(squares.clone().oneshot(n)));
    for answer in answers.collect::<Vec<_>>() {
        match answer.await? {
            Ok(square) => println!("any: {square}"),
            Err(error) if error.is::<Rejected>() => println!("any: rejected: {error}"),
            Err(error) => println!("any: {error}"),
        }
    }
    println!("{} requests completed", guard.stats().completed_requests);
    Ok(())
}
