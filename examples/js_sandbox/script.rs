//! One evaluation: a QuickJS runtime with bounds on memory, time and stack.

use std::time::{Duration, Instant};

use rquickjs::allocator::RustAllocator;
use rquickjs::{CatchResultExt, CaughtError, Context, Runtime, Value};
use tower_memory_guard::Permit;

use crate::json::{self, Refusal};

const MEMORY_BYTES: usize = 256 << 20;
const STACK_BYTES: usize = 1 << 20;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The script's own fault: what it threw, or a bound it hit.
    Script(String),
    /// Its result is larger than results may be.
    TooLarge,
    /// Nobody waits for it any more.
    Cancelled,
}

/// Evaluates `code` and gives its value as JSON, of at most `limit` bytes.
///
/// Blocks, for as long as the script runs. Stops soon after `permit` is
/// cancelled.
pub(crate) fn evaluate(
    code: &str,
    limit: usize,
    time: Duration,
    permit: Option<Permit>,
) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + time;
    let out_of_memory = |_| Failure::Script("no memory for a runtime".into());
    let runtime = Runtime::new_with_alloc(RustAllocator).map_err(out_of_memory)?;
    runtime.set_memory_limit(MEMORY_BYTES);
    runtime.set_max_stack_size(STACK_BYTES);
    let gone = permit.clone();
    runtime.set_interrupt_handler(Some(Box::new(move || {
        Instant::now() >= deadline || gone.as_ref().is_some_and(Permit::cancelled)
    })));
    let context = Context::full(&runtime).map_err(out_of_memory)?;
    let result = context.with(|ctx| {
        let value = ctx.eval::<Value<'_>, _>(code).catch(&ctx);
        let value = value.map_err(|error| Failure::Script(describe(&error)))?;
        json::export(&ctx, &value, limit).map_err(|refusal| match refusal {
            Refusal::TooLarge => Failure::TooLarge,
            Refusal::Value(what) => Failure::Script(what.into()),
            Refusal::Script(error) => Failure::Script(describe(&error)),
        })
    });
    result.map_err(|failure| match failure {
        Failure::Script(_) if permit.as_ref().is_some_and(Permit::cancelled) => Failure::Cancelled,
        Failure::Script(_) if Instant::now() >= deadline => Failure::Script(format!(
            "the script ran for longer than {} s",
            time.as_secs()
        )),
        other => other,
    })
}

fn describe(error: &CaughtError<'_>) -> String {
    match error {
        CaughtError::Exception(exception) => match exception.message() {
            Some(message) if message == "out of memory" => {
                format!("the script needed more than {} MiB", MEMORY_BYTES >> 20)
            }
            Some(message) => short(message),
            None => "the script threw an error without a message".into(),
        },
        // Without memory for an error object, QuickJS throws null.
        CaughtError::Value(value) if value.is_null() => {
            format!(
                "the script needed more than {} MiB, or threw null",
                MEMORY_BYTES >> 20
            )
        }
        CaughtError::Value(value) => match value.as_string().and_then(|s| s.to_string().ok()) {
            Some(text) => short(text),
            None => format!("the script threw {}", value.type_name()),
        },
        CaughtError::Error(error) => error.to_string(),
    }
}

/// As much of a message as an answer needs: a script may throw megabytes.
fn short(text: String) -> String {
    match text.char_indices().nth(1000) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}
