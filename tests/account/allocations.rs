//! Admission allocates nothing on the heap.

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body;
use support::inner::Inner;
use support::with;
use tower::{Layer, Service};
use tower_memory_guard::account::TrackingAllocator;
use tower_memory_guard::{Class, RequestClasses};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// With accounting, which takes a slot for each request.
#[global_allocator]
static COUNTING: TrackingAllocator<Counting> = TrackingAllocator::new(Counting);

#[allow(unsafe_code)]
// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

fn respond<S, B>(service: &S)
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    respond_to(service, Request::new(()));
}

fn respond_to<S, B>(service: &S, request: Request<()>)
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    // Cloned for each request, as axum does.
    let mut service = service.clone();
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(cx) else {
        panic!("not admitted at once");
    };
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        assert!(body.as_mut().poll_frame(cx).is_ready());
    }
}

#[test]
fn the_error_flavour_allocates_nothing() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(1024));
    let service = layer.clone().into_error_layer().layer(Inner);
    let run = || {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut service = service.clone();
        assert!(Service::<u64>::poll_ready(&mut service, cx).is_ready());
        assert!(pin!(service.call(1)).poll(cx).is_ready());
    };
    run();
    assert_eq!(allocations(|| (0..100).for_each(|_| run())), 0);
    assert_eq!(layer.guard().stats().completed_requests, 101);
}

#[test]
fn the_response_flavour_allocates_no_more_than_the_inner_service() {
    let (layer, _) = with(|builder| {
        builder
            .estimated_bytes_per_request(1024)
            .permit_in_extensions(false)
    });
    let service = layer.layer(Inner);
    let run = || respond(&service);
    run();
    assert_eq!(allocations(|| (0..100).for_each(|_| run())), 0);
    assert_eq!(layer.guard().stats().completed_requests, 101);
}

#[test]
fn classes_by_method_path_and_headers_allocate_nothing() {
    let (layer, _) = with(|builder| {
        builder
            .estimated_bytes_per_request(1024)
            .permit_in_extensions(false)
    });
    let classes = RequestClasses::builder()
        .route("/users/me", Class::new("me"))
        .route("GET /users/{id}", Class::new("user"))
        .route("/users/me/{part}/a", Class::new("part"))
        .route("/{*rest}", Class::new("rest"))
        .tenant_header(HeaderName::from_static("x-tenant"))
        .priority_header(HeaderName::from_static("x-priority"))
        .cost_per_content_byte(2.0)
        .build()
        .unwrap();
    let service = layer.classify_with(classes).layer(Inner);
    let requests = || -> Vec<Request<()>> {
        let paths = ["/users/me", "/users/7", "/users/me/x/a", "/users/me/x/b"];
        let request = |path: &str| {
            let request = Request::get(path).header("x-tenant", "acme");
            let request = request.header("x-priority", "high");
            request.header("content-length", "100").body(()).unwrap()
        };
        paths.map(request).into()
    };
    let run = |requests: Vec<Request<()>>| {
        for request in requests {
            respond_to(&service, request);
        }
    };
    run(requests());
    let requests = requests();
    assert_eq!(allocations(|| run(requests)), 0);
}

#[test]
fn a_permit_in_the_extensions_costs_what_http_allocates_for_it() {
    let (layer, _) = with(|builder| builder.estimated_bytes_per_request(1024));
    let service = layer.layer(Inner);
    respond(&service);
    // What the clones share, and `http`'s map, its table and the box in it.
    assert_eq!(allocations(|| respond(&service)), 4);
    // The map and its table are there if the server has put something in it.
    let mut request = Request::new(());
    request.extensions_mut().insert(7_u64);
    assert_eq!(allocations(|| respond_to(&service, request)), 2);
}

#[test]
fn a_guard_at_critical_pressure_allocates_only_the_answer() {
    let (layer, memory) = with(|builder| builder.estimated_bytes_per_request(1024));
    support::fill(layer.guard(), &memory, 95);
    let service = layer.layer(Inner);
    respond(&service);
    let rejections = allocations(|| (0..100).for_each(|_| respond(&service)));
    assert!(rejections / 100 <= 8, "{rejections} for 100 rejections");
}

#[test]
fn an_oversized_result_is_refused_before_anything_is_allocated_for_it() {
    let rows: Vec<String> = (0..100_000).map(|n| format!("row \"{n}\"")).collect();
    let refuse = || {
        let refused = tower_memory_guard::result_size::to_json(&rows, 1 << 20);
        assert!(refused.is_err());
    };
    // The error with which serde_json says that it was stopped.
    assert_eq!(allocations(refuse), 1);
}
