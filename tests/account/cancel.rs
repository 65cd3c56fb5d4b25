//! Where accounts show what requests hold, nobody is cancelled whose memory that does not
//! free.

use std::future::pending;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_memory_guard::account;

use crate::support::{MIB, eventually, rush, serve_axum, with};

static HOLDING: AtomicUsize = AtomicUsize::new(0);

fn hold() -> Vec<u8> {
    let held = black_box(vec![1_u8; 8 << 20]);
    HOLDING.fetch_add(1, Ordering::Release);
    held
}

async fn holds() {
    let held = hold();
    pending::<()>().await;
    drop(held);
}

async fn holds_elsewhere() {
    account::spawn(holds()).await.unwrap();
}

async fn holds_on_a_thread(over: mpsc::Receiver<()>) {
    let work = move || {
        let held = hold();
        // Until the test is over.
        let _ = over.recv();
        drop(held);
    };
    account::spawn_blocking(work).await.unwrap();
}

#[tokio::test]
async fn whose_memory_is_held_elsewhere_goes_on() {
    let (layer, memory) = with(|builder| {
        let builder = builder.cancel(true);
        builder.estimated_bytes_per_request(100 * MIB)
    });
    let guard = layer.guard().clone();
    let (over, is_over) = mpsc::channel();
    let is_over = Arc::new(Mutex::new(Some(is_over)));
    let on_a_thread = move || holds_on_a_thread(is_over.lock().unwrap().take().unwrap());
    let app = Router::new()
        .route("/own", get(holds))
        .route("/elsewhere", get(holds_elsewhere))
        .route("/on-a-thread", get(on_a_thread))
        .layer(layer);
    let address = serve_axum(app).await;
    let mut connections = Vec::new();
    for path in ["/own", "/elsewhere", "/on-a-thread"] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        connections.push(connection);
    }
    let hold = || HOLDING.load(Ordering::Acquire) == 3;
    eventually("each holds its memory", hold).await;
    rush(&guard, &memory).await;
    let mut status = [0; 12];
    connections[0].read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 503");
    let stats = guard.stats();
    assert_eq!((stats.cancelled_requests, stats.active_tasks), (1, 2));
    drop(over);
}
