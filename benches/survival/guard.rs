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
use tower_memory_guard::{BoxError, Class, Guard, MemoryGuardLayer};

use super::LIMIT_BYTES;
use super::cage;

/// Chosen knowing what a request needs: nine of 48 MiB fit well.
const FIXED_LIMIT: usize = 9;
/// What tells the classes apart.
const LARGE_MIB: f64 = 50.0;
const MEMLIM_FRACTION: f64 = 0.8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardKind {
    /// Sees what each request holds, and was told what one may need.
    Accounted,
    /// As it comes: nothing installed, nothing configured.
    Default,
    /// Accounted, with the other policy.
    Ladder,
    /// Accounted, and told which requests are large.
    Classified,
    None,
    Fixed,
    Shed,
    Memlim,
}

impl GuardKind {
    pub(crate) const ALL: [GuardKind; 8] = [
        GuardKind::Accounted,
        GuardKind::Default,
        GuardKind::Ladder,
        GuardKind::Classified,
        GuardKind::None,
        GuardKind::Fixed,
        GuardKind::Shed,
        GuardKind::Memlim,
    ];

    /// Those that run unless others are named.
    pub(crate) fn usual() -> Vec<GuardKind> {
        GuardKind::ALL[..3].to_vec()
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            GuardKind::Accounted => "accounted",
            GuardKind::Default => "default",
            GuardKind::Ladder => "ladder",
            GuardKind::Classified => "classified",
            GuardKind::None => "none",
            GuardKind::Fixed => "fixed",
            GuardKind::Shed => "shed",
            GuardKind::Memlim => "memlim",
        }
    }

    /// Its server's allocations are counted.
    pub(crate) fn is_accounted(self) -> bool {
        matches!(
            self,
            GuardKind::Accounted | GuardKind::Ladder | GuardKind::Classified
        )
    }

    /// What its server finds in the environment beside what this process has.
    pub(crate) fn environment(self) -> &'static [(&'static str, &'static str)] {
        const ESTIMATE: (&str, &str) = ("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "48");
        match self {
            GuardKind::Accounted | GuardKind::Classified => &[ESTIMATE],
            GuardKind::Ladder => &[ESTIMATE, ("MEMORY_GUARD_POLICY", "ladder")],
            _ => &[],
        }
    }

    /// Puts it in front of `app`; with the guard, if it is one of ours.
    pub(crate) fn protect(
        self,
        app: Router,
        group: &Path,
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
            GuardKind::Accounted | GuardKind::Default | GuardKind::Ladder => {
                let layer = MemoryGuardLayer::try_from_env()?;
                let guard = layer.guard().clone();
                return Ok((app.layer(layer), Some(guard)));
            }
            GuardKind::Classified => {
                let layer = MemoryGuardLayer::try_from_env()?;
                let guard = layer.guard().clone();
                return Ok((app.layer(layer.classify(class)), Some(guard)));
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
