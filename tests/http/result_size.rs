//! Results are refused before they are built.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use crate::support::{counting, serve_axum, with};
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use tower_memory_guard::result_size::{
    Error, LimitedJson, ResultLimitLayer, ResultTooLarge, json_len, to_json, to_json_in_one_pass,
};
use tower_memory_guard::{Guard, Mode};

/// Every shape that serde knows and JSON can take.
#[derive(Clone, Debug, Serialize)]
struct Everything {
    unit: (),
    text: String,
    letter: char,
    small: (i8, u8, i16, u16),
    large: (i64, u64, i128, u128),
    floats: (f32, f64),
    option: Option<Box<Everything>>,
    list: Vec<Shape>,
    by_number: BTreeMap<i64, bool>,
    by_letter: BTreeMap<char, ()>,
    by_bool: BTreeMap<bool, u8>,
    by_variant: BTreeMap<Key, Newtype>,
    #[serde(flatten)]
    flattened: HashMap<String, f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Newtype(u32);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Key {
    First,
    #[serde(rename = "sec\"ond")]
    Second,
}

#[derive(Clone, Debug, Serialize)]
enum Shape {
    Unit,
    Newtype(String),
    Tuple(i32, f64),
    Struct { wide: u64, text: String },
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Unit),
        any::<String>().prop_map(Shape::Newtype),
        any::<(i32, f64)>().prop_map(|(n, x)| Shape::Tuple(n, x)),
        any::<(u64, String)>().prop_map(|(wide, text)| Shape::Struct { wide, text }),
    ]
}

prop_compose! {
    fn flat()(
        text in any::<String>(),
        letter in any::<char>(),
        small in any::<(i8, u8, i16, u16)>(),
        large in any::<(i64, u64, i128, u128)>(),
        floats in (prop::num::f32::ANY, prop::num::f64::ANY),
        list in prop::collection::vec(shape(), 0..4),
        by_number in prop::collection::btree_map(any::<i64>(), any::<bool>(), 0..3),
        by_letter in prop::collection::btree_map(any::<char>(), Just(()), 0..3),
        by_bool in prop::collection::btree_map(any::<bool>(), any::<u8>(), 0..3),
        number in any::<u32>(),
        flattened in prop::collection::hash_map(any::<String>(), prop::num::f64::ANY, 0..3),
    ) -> Everything {
        let by_variant = [(Key::First, Newtype(number)), (Key::Second, Newtype(7))].into();
        Everything {
            unit: (), text, letter, small, large, floats, option: None, list,
            by_number, by_letter, by_bool, by_variant, flattened,
        }
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\u{0}-\u{1f}\"\\\\/é𝄞]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn check<T: Serialize>(value: &T) {
    let expected = serde_json::to_vec(value).unwrap();
    let length = expected.len() as u64;
    assert_eq!(json_len(value, u64::MAX).unwrap(), length);
    let counted = to_json(value, length).unwrap();
    assert_eq!(
        counted.capacity(),
        counted.len(),
        "a buffer of exactly that size"
    );
    assert_eq!(counted, expected);
    assert_eq!(to_json_in_one_pass(value, length).unwrap(), expected);
    for result in [
        to_json(value, length - 1),
        to_json_in_one_pass(value, length - 1),
    ] {
        let Err(Error::TooLarge(error)) = result else {
            panic!("{result:?}");
        };
        assert_eq!(error.limit_bytes(), length - 1);
        assert!(error.reached_bytes() >= length);
    }
}

proptest! {
    #[test]
    fn the_count_is_the_length_of_what_serde_json_writes(
        value in json(), everything in flat(), inner in flat()
    ) {
        check(&value);
        let nested = Everything { option: Some(Box::new(inner)), ..everything };
        check(&nested);
    }
}

#[test]
fn raw_values_and_whatever_displays_itself_are_counted() {
    let raw = serde_json::value::RawValue::from_string("{ \"a\" : [1, 2.50] }".into()).unwrap();
    check(&(
        raw,
        std::net::Ipv4Addr::LOCALHOST,
        std::time::Duration::from_millis(1500),
    ));
    struct Displayed;
    impl Serialize for Displayed {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&format_args!("{:?}\n\u{1}", "quoted"))
        }
    }
    check(&[Displayed, Displayed]);
    check(&serde_json::json!({ "": "", "\u{7f}\u{1f}": i64::MIN }));
}

#[test]
fn a_value_without_a_json_form_is_no_size_error() {
    let lists: HashMap<Vec<u8>, u8> = [(vec![1], 2)].into();
    for result in [to_json(&lists, 100), to_json_in_one_pass(&lists, 100)] {
        let Err(Error::Serialize(error)) = result else {
            panic!("{result:?}");
        };
        assert!(
            error.to_string().contains("key must be a string"),
            "{error}"
        );
    }
}

#[test]
fn a_value_that_grows_between_the_passes_is_caught_by_the_second() {
    struct Grows(std::cell::Cell<usize>);
    impl Serialize for Grows {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.set(self.0.get() * 10);
            serializer.serialize_str(&"x".repeat(self.0.get()))
        }
    }
    let result = to_json(&Grows(std::cell::Cell::new(1)), 50);
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
}

#[test]
fn the_count_stops_at_the_limit() {
    struct Endless;
    impl Serialize for Endless {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(std::iter::repeat(7))
        }
    }
    let Err(Error::TooLarge(error)) = json_len(&Endless, 1_000_000) else {
        panic!("it has no end");
    };
    assert_eq!(error.reached_bytes(), 1_000_001);
    let text = error.to_string();
    assert!(
        text.contains("at least 1000001 bytes, more than the limit of 1000000"),
        "{text}"
    );
}

async fn read(response: Response<Body>) -> (StatusCode, String, String) {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let content_type = head.headers["content-type"].to_str().unwrap().to_string();
    (
        head.status,
        content_type,
        String::from_utf8(bytes.to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn limited_json_answers_or_refuses() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(10));
    let guard = layer.guard();
    let fits = LimitedJson::new(guard, [1, 2, 3]).into_response();
    let (status, content_type, body) = read(fits).await;
    assert_eq!(
        (status, &*content_type, &*body),
        (StatusCode::OK, "application/json", "[1,2,3]")
    );

    let (status, content_type, body) =
        read(LimitedJson::new(guard, [1000; 9]).into_response()).await;
    assert_eq!(
        (status, &*content_type),
        (StatusCode::PAYLOAD_TOO_LARGE, "application/problem+json")
    );
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["reason"], "result_too_large");
    assert_eq!(guard.stats().rejected_requests, 1);

    let other = LimitedJson::new(guard, [1000; 9]).status(StatusCode::INSUFFICIENT_STORAGE);
    let (status, _, body) = read(other.into_response()).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&problem["status"], &problem["title"]),
        (&507.into(), &"Insufficient Storage".into())
    );
    let wider = LimitedJson::new(guard, [1000; 9]).limit(100);
    assert_eq!(wider.into_response().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_refused_result_is_one_request() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(10));
    let guard = layer.guard().clone();
    let export = guard.clone();
    let app = Router::new()
        .route(
            "/",
            get(move || async move { LimitedJson::new(&export, [1000; 9]) }),
        )
        .layer(layer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(response);
    assert_eq!(counts(&guard), (1, 0, 1));
}

/// How many came, were answered, and were turned away.
fn counts(guard: &Guard) -> (u64, u64, u64) {
    let stats = guard.stats();
    (
        stats.total_requests,
        stats.completed_requests,
        stats.rejected_requests,
    )
}

#[tokio::test]
async fn what_one_guard_refuses_was_answered_for_another() {
    let (outer, _) = counting(1);
    let (inner, _) = with(|builder| builder.max_result_size_bytes(10));
    let guards = (outer.guard().clone(), inner.guard().clone());
    let export = inner.guard().clone();
    let app = Router::new()
        .route(
            "/",
            get(move || async move { LimitedJson::new(&export, [1000; 9]) }),
        )
        .layer(inner)
        .layer(outer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(counts(&guards.0).0, 1);
    response.into_body().collect().await.unwrap();
    assert_eq!(counts(&guards.0), (1, 1, 0));
    assert_eq!(counts(&guards.1), (1, 0, 1));
}

#[tokio::test]
async fn a_refused_result_where_nobody_was_admitted_is_one_request_too() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(10));
    let guard = layer.guard().clone();
    drop(LimitedJson::new(&guard, [1000; 9]).into_response());
    assert_eq!(counts(&guard), (1, 0, 1));
    let long = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![7; 11]))))
    });
    let service = ResultLimitLayer::new(&guard).layer(long);
    drop(service.oneshot(Request::new(())).await.unwrap());
    assert_eq!(counts(&guard), (2, 0, 2));
}

#[tokio::test]
async fn a_guard_that_only_observes_or_is_off_refuses_no_result() {
    let observing = with(|builder| builder.max_result_size_bytes(10).mode(Mode::Observe)).0;
    let off = with(|builder| builder.max_result_size_bytes(10).enabled(false)).0;
    for (layer, observed) in [(observing, 2), (off, 0)] {
        let guard = layer.guard();
        let json = LimitedJson::new(guard, [1000; 9]).into_response();
        let (status, _, body) = read(json).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 46));

        let echo = |request: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        };
        let service = ResultLimitLayer::new(guard).layer(service_fn(echo));
        let frames = futures_util::stream::iter([Ok::<_, Infallible>("more than ten")]);
        for body in [Body::from("more than ten"), Body::from_stream(frames)] {
            let answer = service.clone().oneshot(Request::new(body)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let read = answer.into_body().collect().await.unwrap();
            assert_eq!(read.to_bytes(), "more than ten");
        }
        let stats = guard.stats();
        let counts = (stats.rejected_requests, stats.observed_requests);
        assert_eq!(counts, (0, observed));
    }
}

#[tokio::test]
async fn a_body_that_says_its_length_is_refused_before_its_first_byte() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(10));
    let limit = ResultLimitLayer::new(layer.guard());
    let echo = |request: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    };
    let service = limit.layer(service_fn(echo));
    let answer = |length| {
        service
            .clone()
            .oneshot(Request::new(Full::from(vec![b'x'; length])))
    };
    let fits = answer(10).await.unwrap();
    assert_eq!(
        fits.into_body().collect().await.unwrap().to_bytes().len(),
        10
    );
    let refused = answer(11).await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(body.windows(16).any(|part| part == b"result_too_large"));
}

#[tokio::test]
async fn a_stream_over_the_limit_is_an_error_that_its_client_sees() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(1_000_000));
    let limit = ResultLimitLayer::new(layer.guard());
    let stream = |frames: usize| {
        let frame = || Ok::<_, Infallible>(Bytes::from_static(&[7; 1000]));
        Body::from_stream(futures_util::stream::iter(
            (0..frames).map(move |_| frame()),
        ))
    };
    let app = Router::new()
        .route("/fits", get(move || async move { stream(1000) }))
        .route("/over", get(move || async move { stream(1001) }))
        .layer(limit)
        .layer(layer);
    let address = serve_axum(app).await;
    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Body>();
        let get = |path| client.get(format!("http://{address}{path}").parse().unwrap());
        let fits = get("/fits")
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(fits.to_bytes().len(), 1_000_000);
        let broken = get("/over").await.unwrap().into_body().collect().await;
        assert!(broken.is_err(), "a short answer must not look whole");
    }
}

#[tokio::test]
async fn the_error_of_a_stream_says_what_and_where() {
    let (layer, _) = counting(1);
    let limit = ResultLimitLayer::new(layer.guard()).limit(5);
    let frames = [Ok::<_, Infallible>("abc"), Ok("def")];
    let service = service_fn(move |_: Request<()>| async move {
        let frames = frames.map(|frame| frame.map(Bytes::from));
        Ok::<_, Infallible>(Response::new(Body::from_stream(
            futures_util::stream::iter(frames),
        )))
    });
    let mut body = limit
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap()
        .into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "abc"
    );
    let error = body.frame().await.unwrap().unwrap_err();
    let error = error.downcast_ref::<ResultTooLarge>().unwrap();
    assert_eq!((error.limit_bytes(), error.reached_bytes()), (5, 6));
}

#[tokio::test]
async fn the_layers_limit_follows_the_guards_settings() {
    let (layer, _) = with(|builder| builder.max_result_size_bytes(10));
    let guard = layer.guard().clone();
    let echo = |request: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    };
    let service = ResultLimitLayer::new(&guard).layer(service_fn(echo));
    let own = ResultLimitLayer::new(&guard)
        .limit(10)
        .layer(service_fn(echo));
    let body = || Request::new(Full::from(vec![b'x'; 15]));
    let refused = service.clone().oneshot(body()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let mut config = tower_memory_guard::Config::clone(&guard.config());
    config.max_result_size_bytes = 20;
    guard.reload(config).unwrap();
    assert_eq!(
        service.oneshot(body()).await.unwrap().status(),
        StatusCode::OK
    );
    let refused = own.oneshot(body()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
