//! For those who operate a service: probes, load for balancers, a dashboard.

/// A service that answers at once, as its `answer` says.
macro_rules! answers {
    ($service:ty => $body:ty) => {
        impl<B> tower_service::Service<http::Request<B>> for $service {
            type Response = http::Response<$body>;
            type Error = std::convert::Infallible;
            type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<B>) -> Self::Future {
                std::future::ready(Ok(self.answer(request.method(), request.uri().path())))
            }
        }
    };
}

pub(crate) mod agent_check;
#[cfg(feature = "dashboard")]
pub(crate) mod dashboard;
pub(crate) mod health;
pub(crate) mod load_report;
