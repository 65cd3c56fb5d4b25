//! The server that may be killed: this binary again, inside a control group.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use axum::Json;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_memory_guard::{BoxError, Guard};

use super::beside;
use super::door::{self, Door, DoorReport};
use super::group;
use super::guard::GuardKind;
use super::lifeline;
use super::pattern::Pattern;
use super::work;
use crate::allocator::Allocator;

const WORKERS: usize = 2;

/// How a server is started; the parent makes the same words.
pub(crate) struct ServerArguments {
    pub(crate) pattern: Pattern,
    pub(crate) guard: GuardKind,
    pub(crate) group: PathBuf,
    /// Chosen before it can read any of this.
    pub(crate) allocator: Allocator,
    /// Bounds its processor time.
    pub(crate) cpu_group: Option<PathBuf>,
    /// What to fill the page cache with.
    pub(crate) file: Option<PathBuf>,
}

/// Names the group that bounds processor time.
pub(crate) const CPU_GROUP: &str = "SURVIVAL_CPU_GROUP";

impl ServerArguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut next = || arguments.next().ok_or("--serve PATTERN GUARD GROUP [FILE]");
        Ok(Self {
            pattern: next()?.parse()?,
            guard: next()?.parse()?,
            group: next()?.into(),
            allocator: Allocator::chosen(),
            cpu_group: std::env::var_os(CPU_GROUP).map(PathBuf::from),
            file: next().ok().map(PathBuf::from),
        })
    }
}

/// What a server tells at the end of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) door: DoorReport,
    /// Of our guard, if it has one.
    pub(crate) stats: Option<serde_json::Value>,
}

pub(crate) fn main(arguments: impl Iterator<Item = String>) -> Result<(), BoxError> {
    let arguments = ServerArguments::parse(arguments)?;
    crate::ACCOUNTED.store(arguments.guard.is_accounted(), Ordering::Relaxed);
    group::enter(&arguments.group)?;
    if let Some(group) = &arguments.cpu_group {
        group::enter(group)?;
    }
    lifeline::exit_with_parent();
    if let Some(file) = arguments.file.clone() {
        thread::spawn(move || beside::fill_page_cache(&file));
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?
        .block_on(serve(&arguments))
}

async fn serve(arguments: &ServerArguments) -> Result<(), BoxError> {
    let door = Arc::new(Door::new());
    let work = work::router(arguments.pattern);
    let (work, guard) = arguments.guard.protect(work, &arguments.group)?;
    let waiting = guard.clone();
    let app = work
        .layer(from_fn_with_state(Arc::clone(&door), door::watch))
        .route(
            "/light",
            get(move || async move { waiting_requests(waiting.as_ref()) }),
        )
        .route(
            "/report",
            get(move || async move { Json(report(&door, guard.as_ref())) }),
        );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// Of our guards; else nothing.
fn waiting_requests(guard: Option<&Guard>) -> String {
    guard.map_or_else(String::new, |guard| {
        guard.stats().waiting_requests.to_string()
    })
}

fn report(door: &Door, guard: Option<&Guard>) -> Report {
    Report {
        door: door.report(),
        stats: guard.and_then(|guard| serde_json::to_value(guard.stats()).ok()),
    }
}
