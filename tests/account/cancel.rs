//! Where accounts show what requests hold, nobody is cancelled whose memory that does not
//! free.

use std::future::pending;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_memory_guard::{ManualSource, MemoryGuardLayer, account};

use crate::support::{MIB, eventually, rush, serve_axum, with};

/// How many hold their memory.
#[derive(Clone, Default)]
struct Holding(Arc<AtomicUsize>);

impl Holding {
    fn hold(&self) -> Vec<u8> {
        let held = black_box(vec![1_u8; 8 << 20]);
        self.0.fetch_add(1, Ordering::Release);
        held
    }

    async fn is(&self, count: usize) {
        let holds = || self.0.load(Ordering::Acquire) == count;
        eventually("each holds its memory", holds).await;
    }
}

async fn holds(State(holding): State<Holding>) {
    let held = holding.hold();
    pending::<()>().await;
    drop(held);
}

async fn holds_elsewhere(holding: State<Holding>) {
    account::spawn(holds(holding)).await.unwrap();
}

async fn holds_on_a_thread(holding: Holding, over: mpsc::Receiver<()>) {
    let work = move || {
        let held = holding.hold();
        // Until the test is over.
        let _ = over.recv();
        drop(held);
    };
    account::spawn_blocking(work).await.unwrap();
}

async fn holds_for_a_thread(State(holding): State<Holding>) {
    let held = holding.hold();
    account::spawn_blocking(move || drop(held)).await.unwrap();
}

fn cancelling() -> (MemoryGuardLayer, ManualSource) {
    with(|builder| {
        let builder = builder.cancel(true);
        builder.estimated_bytes_per_request(100 * MIB)
    })
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn is_turned_away(connection: &mut TcpStream) {
    let mut status = [0; 12];
    connection.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 503");
}

#[tokio::test]
async fn whose_memory_is_held_elsewhere_goes_on() {
    let (layer, memory) = cancelling();
    let guard = layer.guard().clone();
    let (over, is_over) = mpsc::channel();
    let is_over = Arc::new(Mutex::new(Some(is_over)));
    let on_a_thread = move |State(holding): State<Holding>| {
        holds_on_a_thread(holding, is_over.lock().unwrap().take().unwrap())
    };
    let holding = Holding::default();
    let app = Router::new()
        .route("/own", get(holds))
        .route("/elsewhere", get(holds_elsewhere))
        .route("/on-a-thread", get(on_a_thread))
        .layer(layer);
    let address = serve_axum(app.with_state(holding.clone())).await;
    let mut own = ask(address, "/own").await;
    let _others = [
        ask(address, "/elsewhere").await,
        ask(address, "/on-a-thread").await,
    ];
    holding.is(3).await;
    rush(&guard, &memory).await;
    is_turned_away(&mut own).await;
    let stats = guard.stats();
    assert_eq!((stats.cancelled_requests, stats.active_tasks), (1, 2));
    drop(over);
}

#[test]
fn whose_memory_waits_for_a_thread_goes_on() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let (layer, memory) = cancelling();
        let guard = layer.guard().clone();
        let (over, is_over) = mpsc::channel::<()>();
        // There is no other one.
        tokio::task::spawn_blocking(move || is_over.recv());
        let holding = Holding::default();
        let app = Router::new()
            .route("/own", get(holds))
            .route("/queued", get(holds_for_a_thread))
            .layer(layer);
        let address = serve_axum(app.with_state(holding.clone())).await;
        let mut own = ask(address, "/own").await;
        holding.is(1).await;
        // It would be the first, as less of its work is lost.
        let _queued = ask(address, "/queued").await;
        holding.is(2).await;
        rush(&guard, &memory).await;
        is_turned_away(&mut own).await;
        let stats = guard.stats();
        assert_eq!((stats.cancelled_requests, stats.active_tasks), (1, 1));
        drop(over);
    });
}
