//! Tells load balancers with each response how loaded this process is.
//!
//! The header and its formats are those of ORCA, as Envoy reads them:
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/load_balancing_policies/client_side_weighted_round_robin/v3/client_side_weighted_round_robin.proto>
//! and <https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto>.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::guard::handle::Guard;
use crate::guard::state::Loads;
use crate::http::body::GuardedBody;
use crate::http::layer::MemoryGuardLayer;
use crate::http::wraps;

const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// How a load report is written into the header `endpoint-load-metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadFormat {
    /// `TEXT mem_utilization=0.61, application_utilization=0.74, …`
    Text,
    /// `JSON {"mem_utilization":0.61,"application_utilization":0.74,…}`
    Json,
}

impl LoadFormat {
    fn write(self, loads: &Loads, cost_bytes: Option<u64>) -> String {
        let Loads {
            memory,
            utilisation,
            completed,
            turned_away,
            ..
        } = loads;
        // Validated by its readers to be at most 1.
        let memory = memory.clamp(0.0, 1.0);
        let mut report = String::with_capacity(160);
        let written = match self {
            Self::Text => write!(
                report,
                "TEXT mem_utilization={memory:.4}, application_utilization={utilisation:.4}, \
                 rps_fractional={completed:.3}, eps={turned_away:.3}"
            ),
            Self::Json => write!(
                report,
                "JSON {{\"mem_utilization\":{memory:.4},\"application_utilization\":{utilisation:.4},\
                 \"rps_fractional\":{completed:.3},\"eps\":{turned_away:.3}"
            ),
        };
        let written = written.and_then(|()| match (self, cost_bytes) {
            // Envoy refuses a report in this format that names `request_cost`.
            (Self::Text, Some(bytes)) => {
                write!(report, ", named_metrics.request_memory_bytes={bytes}")
            }
            (Self::Text, None) => Ok(()),
            (Self::Json, Some(bytes)) => {
                write!(report, ",\"request_cost\":{{\"memory_bytes\":{bytes}}}}}")
            }
            (Self::Json, None) => report.write_char('}'),
        });
        debug_assert!(written.is_ok(), "a string takes everything");
        report
    }
}

impl<R, C> MemoryGuardLayer<R, C> {
    /// Has every response, rejections included, tell load balancers how loaded this
    /// process is: the header `endpoint-load-metrics` (ORCA), which Envoy's client-side
    /// weighted round robin reads. Comes last; nothing is done for it if it is not called.
    ///
    /// | field | what |
    /// |---|---|
    /// | `mem_utilization` | memory in use, as a share of the limit |
    /// | `application_utilization` | what is admitted, as a share of what may be |
    /// | `rps_fractional` | requests finished in a second |
    /// | `eps` | requests turned away in a second for want of memory |
    /// | request cost `memory_bytes`; as text `named_metrics.request_memory_bytes` | what the request held at most, or reserves |
    ///
    /// `mem_utilization` is that of the last sample, at most 1; the three after it are
    /// means over the last 15 s. A response that has the header
    /// already keeps it.
    ///
    /// ```
    /// use tower_memory_guard::{LoadFormat, MemoryGuardLayer};
    ///
    /// let layer = MemoryGuardLayer::from_env().report_load(LoadFormat::Text);
    /// # let app: axum::Router = axum::Router::new().layer(layer);
    /// ```
    pub fn report_load(self, format: LoadFormat) -> LoadReportLayer<Self> {
        LoadReportLayer {
            guard: self.guard().clone(),
            layer: self,
            format,
        }
    }
}

/// A guard's layer whose responses tell balancers how loaded the process is; made by
/// [`MemoryGuardLayer::report_load`](crate::MemoryGuardLayer::report_load).
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is applied"]
pub struct LoadReportLayer<L> {
    layer: L,
    guard: Guard,
    format: LoadFormat,
}

impl<L> LoadReportLayer<L> {
    /// The guard behind the layer.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }
}

impl<S, L: Layer<S>> Layer<S> for LoadReportLayer<L> {
    type Service = LoadReport<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadReport {
            inner: self.layer.layer(inner),
            guard: self.guard.clone(),
            format: self.format,
        }
    }
}

/// A guarded service whose responses say how loaded the process is; made by
/// [`LoadReportLayer`].
#[derive(Clone, Debug)]
pub struct LoadReport<S> {
    inner: S,
    guard: Guard,
    format: LoadFormat,
}

wraps!(
    LoadReport<S>,
    "The guarded service, whose responses say nothing."
);

impl<S, Req, B> Service<Req> for LoadReport<S>
where
    S: Service<Req, Response = Response<GuardedBody<B>>>,
    B: Body<Data = Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LoadReportFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        LoadReportFuture {
            future: self.inner.call(request),
            guard: self.guard.clone(),
            format: self.format,
        }
    }
}

pin_project! {
    /// The future of [`LoadReport`].
    pub struct LoadReportFuture<F> {
        #[pin]
        future: F,
        guard: Guard,
        format: LoadFormat,
    }
}

impl<F, B, E> Future for LoadReportFuture<F>
where
    F: Future<Output = Result<Response<GuardedBody<B>>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        if !response.headers().contains_key(HEADER) {
            let cost_bytes = response.body().cost_bytes();
            let loads = this.guard.state().loads();
            let report = this.format.write(&loads, cost_bytes);
            if let Ok(report) = HeaderValue::try_from(report) {
                response.headers_mut().insert(HEADER, report);
            }
        }
        Poll::Ready(Ok(response))
    }
}

opaque_debug!(impl[F] LoadReportFuture<F>);

#[cfg(test)]
mod tests {
    use super::*;

    const LOADS: Loads = Loads {
        memory: 1.02,
        utilisation: 0.9512,
        demand: 2.0,
        completed: 12.5,
        turned_away: 3.0,
    };

    #[test]
    fn both_formats_say_the_same() {
        let text = LoadFormat::Text.write(&LOADS, Some(4096));
        assert_eq!(
            text,
            "TEXT mem_utilization=1.0000, application_utilization=0.9512, \
             rps_fractional=12.500, eps=3.000, named_metrics.request_memory_bytes=4096"
        );
        let json = LoadFormat::Json.write(&LOADS, Some(4096));
        assert_eq!(
            json,
            "JSON {\"mem_utilization\":1.0000,\"application_utilization\":0.9512,\
             \"rps_fractional\":12.500,\"eps\":3.000,\"request_cost\":{\"memory_bytes\":4096}}"
        );
        assert!(LoadFormat::Json.write(&LOADS, None).ends_with("3.000}"));
    }
}
