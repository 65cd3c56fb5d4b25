//! What a request's trace says of the decision. A program of its own, since the
//! subscriber is the process's.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::{Router, routing::get};
use http::Request;
use support::{counting, eventually, fill};
use tower::ServiceExt;
use tower_http::trace::TraceLayer;
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Paths by the spans' numbers, and what was recorded as `memory_guard`, by path.
type Recorded = (BTreeMap<u64, String>, Vec<(String, String)>);

#[derive(Clone, Default)]
struct Decisions(Arc<Mutex<Recorded>>);

struct Text<'a>(&'static str, &'a mut Option<String>);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == self.0 {
            *self.1 = Some(format!("{value:?}").trim_matches('"').to_owned());
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Decisions {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut path = None;
        attributes.record(&mut Text("path", &mut path));
        if let Some(path) = path {
            self.0.lock().unwrap().0.insert(id.into_u64(), path);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        let mut decision = None;
        record.record(&mut Text("memory_guard", &mut decision));
        let mut spans = self.0.lock().unwrap();
        let path = spans.0.get(&id.into_u64()).cloned();
        if let (Some(path), Some(decision)) = (path, decision) {
            spans.1.push((path, decision));
        }
    }
}

#[tokio::test]
async fn the_span_of_a_request_tells_the_decision() {
    let decisions = Decisions::default();
    let subscriber = tracing_subscriber::registry().with(decisions.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (layer, memory) = counting(1);
    let guard = layer.guard().clone();
    let spans = TraceLayer::new_for_http().make_span_with(|request: &Request<_>| {
        tracing::info_span!("request", path = request.uri().path(), memory_guard = Empty)
    });
    let app = Router::new()
        .fallback(get(|| async { "ok" }))
        .layer(layer)
        .layer(spans);
    let ask = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        app.clone().oneshot(request)
    };
    ask("/at-once").await.unwrap();
    let held = guard.acquire(1024).await.unwrap();
    let waiting = tokio::spawn(ask("/waits"));
    eventually("it waits", || guard.stats().waiting_requests == 1).await;
    drop(held);
    waiting.await.unwrap().unwrap();
    fill(&guard, &memory, 90);
    ask("/too-late").await.unwrap();
    let told = std::mem::take(&mut decisions.0.lock().unwrap().1);
    let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(told[0], ("/at-once", "admitted"));
    assert_eq!(told[1].0, "/waits");
    assert!(told[1].1.starts_with("admitted after ") && told[1].1.ends_with(" ms"));
    assert_eq!(told[2], ("/too-late", "critical_pressure"));
    assert_eq!(told.len(), 3);
}
