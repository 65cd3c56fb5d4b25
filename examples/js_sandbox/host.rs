//! What a script may ask of its host: `await host.fetch(milliseconds)`, which stands
//! for a database or a remote service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rquickjs::prelude::Promised;
use rquickjs::{Ctx, Exception, Function, Object, Result};

/// What is on its way lies outside the script's heap and its bound.
const MOST_CALLS: usize = 64;

/// Calls of one script that are not answered yet.
#[derive(Default)]
pub(crate) struct Calls(AtomicUsize);

impl Calls {
    pub(crate) fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes `host` known to the script.
pub(crate) fn install<'js>(ctx: &Ctx<'js>, calls: Arc<Calls>) -> Result<()> {
    let fetch = move |ctx: Ctx<'js>, milliseconds: f64| {
        let time = Duration::try_from_secs_f64(milliseconds / 1000.0)
            .map_err(|_| Exception::throw_range(&ctx, "expected milliseconds"))?;
        if calls.open() >= MOST_CALLS {
            let error = format!("more than {MOST_CALLS} calls of the host at once");
            return Err(Exception::throw_message(&ctx, &error));
        }
        calls.0.fetch_add(1, Ordering::Relaxed);
        let calls = calls.clone();
        Ok(Promised(async move {
            tokio::time::sleep(time).await;
            calls.0.fetch_sub(1, Ordering::Relaxed);
        }))
    };
    let host = Object::new(ctx.clone())?;
    host.set("fetch", Function::new(ctx.clone(), fetch)?)?;
    ctx.globals().set("host", host)
}
