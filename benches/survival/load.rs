//! Drives a server: an open loop, which sends whether or not it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tower_memory_guard::Reason;

use super::MIB;
use super::door;
use super::oracle;
use super::pattern::Arrival;
use super::server::Report;

/// How long a caller waits before it hangs up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What an answer in time may have waited, beside some more than the request's own time.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);
const WORK_STRETCH: f64 = 1.2;
const TRAVEL: Duration = Duration::from_millis(200);
const LIGHT_INTERVAL: Duration = Duration::from_millis(50);
const LIGHT_PATIENCE: Duration = Duration::from_secs(1);
const LIGHT_IN_TIME: Duration = Duration::from_millis(250);
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// Those of them that were too late.
    pub(crate) late: u64,
    /// Of those answered.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) rejected: u64,
    pub(crate) given_up: u64,
    pub(crate) lost: u64,
    pub(crate) goodput_byte_seconds: f64,
    /// Told that their wait would be too long, although the oracle answers them.
    pub(crate) misjudged_byte_seconds: f64,
    pub(crate) light_sent: u64,
    pub(crate) light_in_time: u64,
}

enum Outcome {
    Answered { latency: Duration },
    Rejected { waits_too_long: bool },
    GivenUp,
    Lost,
}

impl Tally {
    fn count(&mut self, arrival: &Arrival, answerable: bool, outcome: &Outcome) {
        match outcome {
            Outcome::Answered { latency } => {
                self.answered += 1;
                self.latencies.push(*latency);
                if *latency <= LONGEST_WAIT + arrival.work.mul_f64(WORK_STRETCH) + TRAVEL {
                    self.goodput_byte_seconds += oracle::work_byte_seconds(arrival);
                } else {
                    self.late += 1;
                }
            }
            Outcome::Rejected { waits_too_long } => {
                self.rejected += 1;
                if *waits_too_long && answerable {
                    self.misjudged_byte_seconds += oracle::work_byte_seconds(arrival);
                }
            }
            Outcome::GivenUp => self.given_up += 1,
            Outcome::Lost => self.lost += 1,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Empty<Bytes>>,
    /// `None` while the server is not there.
    address: watch::Receiver<Option<SocketAddr>>,
    /// How many wait at the guard, as far as it was told lately.
    waiting: Arc<AtomicU64>,
}

impl Caller {
    pub(crate) fn new(
        address: watch::Receiver<Option<SocketAddr>>,
        waiting: Arc<AtomicU64>,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            address,
            waiting,
        }
    }

    /// Sends all of it, and returns when all of it is answered or given up.
    ///
    /// `answerable` says of each whether the oracle answers it.
    pub(crate) async fn drive(
        &mut self,
        arrivals: &[Arrival],
        answerable: &[bool],
    ) -> Result<Tally, JoinError> {
        // An error means that nobody starts the server any more.
        let _ = self.address.wait_for(Option::is_some).await;
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut requests = JoinSet::new();
        let mut lights = JoinSet::new();
        let mut light = interval(LIGHT_INTERVAL);
        let both = arrivals.iter().copied().zip(answerable.iter().copied());
        let mut coming = both.peekable();
        while coming.peek().is_some() || !requests.is_empty() {
            let due = started + coming.peek().map_or(Duration::ZERO, |(next, _)| next.at);
            tokio::select! {
                () = sleep_until(due), if coming.peek().is_some() => {
                    let now = started.elapsed();
                    while let Some((arrival, answerable)) = coming.next_if(|(next, _)| next.at <= now) {
                        let caller = self.clone();
                        requests.spawn(async move {
                            (arrival, answerable, caller.work(&arrival).await)
                        });
                    }
                }
                _ = light.tick() => {
                    tally.light_sent += 1;
                    let caller = self.clone();
                    lights.spawn(async move { caller.light().await });
                }
                Some(done) = requests.join_next() => {
                    let (arrival, answerable, outcome) = done?;
                    tally.count(&arrival, answerable, &outcome);
                }
            }
        }
        while let Some(latency) = lights.join_next().await {
            let in_time = latency?.is_some_and(|latency| latency <= LIGHT_IN_TIME);
            tally.light_in_time += u64::from(in_time);
        }
        Ok(tally)
    }

    /// `None` if the server does not tell.
    pub(crate) async fn report(&self) -> Option<Report> {
        let answer = timeout(REPORT_PATIENCE, self.get("/report")).await;
        let (_, body) = answer.ok()??;
        serde_json::from_slice(&body).ok()
    }

    async fn work(&self, arrival: &Arrival) -> Outcome {
        let mib = arrival.bytes as f64 / MIB;
        let path = format!("/work?mib={mib}&ms={}", arrival.work.as_millis());
        let sent = Instant::now();
        match timeout(PATIENCE, self.get(&path)).await {
            Ok(Some((StatusCode::OK, _))) => Outcome::Answered {
                latency: sent.elapsed(),
            },
            Ok(Some((status, body))) if door::is_rejection(status) => {
                let reason = Reason::WaitTooLong.as_str().as_bytes();
                let waits_too_long = body.windows(reason.len()).any(|part| part == reason);
                Outcome::Rejected { waits_too_long }
            }
            Ok(_) => Outcome::Lost,
            Err(_) => Outcome::GivenUp,
        }
    }

    /// Its latency, if it was answered.
    async fn light(&self) -> Option<Duration> {
        let sent = Instant::now();
        let answer = timeout(LIGHT_PATIENCE, self.get("/light")).await;
        let latency = sent.elapsed();
        let answer = answer.ok().flatten();
        let told = answer
            .as_ref()
            .and_then(|(_, body)| std::str::from_utf8(body).ok()?.parse().ok());
        self.waiting.store(told.unwrap_or(0), Ordering::Relaxed);
        answer
            .is_some_and(|(status, _)| status == StatusCode::OK)
            .then_some(latency)
    }

    /// `None` if no answer came, or not all of it.
    async fn get(&self, path: &str) -> Option<(StatusCode, Bytes)> {
        let address = (*self.address.borrow())?;
        let uri: Uri = format!("http://{address}{path}").parse().ok()?;
        let response = self.client.get(uri).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?;
        Some((status, body.to_bytes()))
    }
}
