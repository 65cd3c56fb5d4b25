//! What may stand in front of the work.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_memlim::layer::MemoryLimitLayer;
use tower_memlim::memory::{AvailableMemory, Threshold};
use tower_memory_guard::{BoxError, Class, Estimates, Guard, MemoryGuardLayer};

use super::LIMIT_BYTES;
use super::cage;

/// Chosen knowing what a request needs: twenty of 20 MiB fit well.
const FIXED_LIMIT: usize = 20;
/// What tells the classes apart.
const LARGE_MIB: f64 = 50.0;
const MEMLIM_FRACTION: f64 = 0.8;
/// What callers wait, less the longest work and some time to travel.
const WAIT_TIMEOUT_SECONDS: &str = "8.5";
const MAX_WAITING: &str = "2000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardKind {
    None,
    Fixed,
    Shed,
    Memlim,
    Ladder,
    Predictive,
    /// Predictive, and told which requests are large.
    Classified,
    Unaccounted,
}

impl GuardKind {
    pub(crate) const ALL: [GuardKind; 8] = [
        GuardKind::None,
        GuardKind::Fixed,
        GuardKind::Shed,
        GuardKind::Memlim,
        GuardKind::Ladder,
        GuardKind::Predictive,
        GuardKind::Classified,
        GuardKind::Unaccounted,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            GuardKind::None => "none",
            GuardKind::Fixed => "fixed",
            GuardKind::Shed => "shed",
            GuardKind::Memlim => "memlim",
            GuardKind::Ladder => "ladder",
            GuardKind::Predictive => "predictive",
            GuardKind::Classified => "classified",
            GuardKind::Unaccounted => "unaccounted",
        }
    }

    /// Its server's allocations are counted.
    pub(crate) fn is_accounted(self) -> bool {
        matches!(self, GuardKind::Predictive | GuardKind::Classified)
    }

    /// What its server finds in the environment beside what this process has.
    pub(crate) fn environment(self) -> Vec<(&'static str, &'static str)> {
        let policy = match self {
            GuardKind::Ladder => "ladder",
            GuardKind::Predictive | GuardKind::Classified | GuardKind::Unaccounted => "predictive",
            _ => return Vec::new(),
        };
        vec![
            ("MEMORY_GUARD_POLICY", policy),
            ("MEMORY_GUARD_WAIT_TIMEOUT_SEC", WAIT_TIMEOUT_SECONDS),
            ("MEMORY_GUARD_MAX_WAITING", MAX_WAITING),
        ]
    }

    /// It is one of ours, and learns.
    pub(crate) fn learns(self) -> bool {
        matches!(
            self,
            GuardKind::Ladder
                | GuardKind::Predictive
                | GuardKind::Classified
                | GuardKind::Unaccounted
        )
    }

    /// Puts it in front of `app`; with the guard, if it is one of ours.
    pub(crate) fn protect(
        self,
        app: Router,
        group: &Path,
        estimates: Option<Estimates>,
    ) -> Result<(Router, Option<Guard>), BoxError> {
        let fixed = GlobalConcurrencyLimitLayer::new(FIXED_LIMIT);
        let app = match self {
            GuardKind::None => app,
            GuardKind::Fixed => app.layer(fixed),
            GuardKind::Shed => app.layer(
                ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(rejected))
                    .layer(LoadShedLayer::new())
                    .layer(fixed),
            ),
            GuardKind::Memlim => {
                let least = (LIMIT_BYTES as f64 * (1.0 - MEMLIM_FRACTION)) as u64;
                app.layer(
                    ServiceBuilder::new()
                        .layer(HandleErrorLayer::new(rejected))
                        .layer(MemoryLimitLayer::new(
                            Threshold::MinAvailableBytes(least),
                            GroupMemory(group.into()),
                        )),
                )
            }
            GuardKind::Ladder
            | GuardKind::Predictive
            | GuardKind::Classified
            | GuardKind::Unaccounted => {
                let mut builder = MemoryGuardLayer::builder().read_env();
                if let Some(estimates) = estimates {
                    builder = builder.estimates(estimates);
                }
                let layer = builder.build()?;
                let guard = layer.guard().clone();
                if self == GuardKind::Classified {
                    return Ok((app.layer(layer.classify(class)), Some(guard)));
                }
                return Ok((app.layer(layer), Some(guard)));
            }
        };
        Ok((app, None))
    }
}

impl FromStr for GuardKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let mut all = GuardKind::ALL.into_iter();
        all.find(|known| known.word() == word).ok_or_else(|| {
            let words = GuardKind::ALL.map(GuardKind::word).join(", ");
            format!("{word}: expected one of {words}")
        })
    }
}

/// As two routes would be.
fn class(request: &Request) -> Class {
    let mib = request.uri().query().and_then(|query| {
        let mut pairs = query.split('&');
        pairs.find_map(|pair| pair.strip_prefix("mib=")?.parse::<f64>().ok())
    });
    match mib {
        Some(mib) if mib > LARGE_MIB => Class::new("large"),
        _ => Class::new("small"),
    }
}

async fn rejected(_: BoxError) -> impl IntoResponse {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(CONTENT_TYPE, "application/problem+json")],
        r#"{"reason":"overloaded"}"#,
    )
}

/// What tower-memlim's own provider for Linux takes as available: the limit less
/// all of usage, page cache included. That provider reads fixed paths, which are
/// not this group's, and prints what it reads.
#[derive(Clone)]
struct GroupMemory(Arc<Path>);

impl AvailableMemory for GroupMemory {
    fn available_memory(&self) -> Result<usize, BoxError> {
        let file = cage::usage_file(&self.0);
        let usage_bytes: u64 = fs::read_to_string(file)?.trim().parse()?;
        Ok(LIMIT_BYTES.saturating_sub(usage_bytes) as usize)
    }
}
