//! One evaluation: a QuickJS runtime with bounds on memory, time and stack.
//!
//! It runs in slices, from one wait for the host to the next. Each slice blocks a
//! thread made for that; what is polled in between is the request's future. Who does
//! not poll the request does not let the script go on, and its memory does not grow.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rquickjs::allocator::RustAllocator;
use rquickjs::context::EvalOptions;
use rquickjs::{
    AsyncContext, AsyncRuntime, CatchResultExt, CaughtError, CaughtResult, Ctx, Object, Promise,
    Value,
};
use tokio::sync::Notify;
use tokio::task::JoinError;
use tower_memory_guard::{Permit, account};

use crate::host::{self, Calls};
use crate::json::{self, Refusal};

const MEMORY_BYTES: usize = 256 << 20;
const STACK_BYTES: usize = 1 << 20;
/// From its start to its end, with all its waiting.
const LIFE: Duration = Duration::from_secs(30);

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The script's own fault: what it threw, or a bound it hit.
    Script(String),
    /// Its result is larger than results may be.
    TooLarge,
    /// Nobody waits for it any more.
    Cancelled,
    /// Not the script's fault.
    Panicked(JoinError),
}

type Outcome = Result<Vec<u8>, Failure>;

/// Evaluates `code` and gives its value as JSON, of at most `limit` bytes.
///
/// The script may run for `time`, in which its waiting for the host does not count.
/// It stops soon after `permit` is cancelled or this future is dropped.
pub(crate) async fn evaluate(
    code: String,
    limit: usize,
    time: Duration,
    permit: Option<Permit>,
) -> Outcome {
    let bounds = Arc::new(Bounds {
        stop_at: Mutex::new(Instant::now()),
        abandoned: AtomicBool::new(false),
        permit,
    });
    let _abandons = Abandons(bounds.clone());
    let calls = Arc::<Calls>::default();
    let mut script: Pin<Box<dyn Future<Output = Outcome> + Send>> =
        Box::pin(run(code, limit, bounds.clone(), calls.clone()));
    let bell = Arc::<Bell>::default();
    let end = tokio::time::Instant::now() + LIFE;
    let mut left = time;
    loop {
        let (bounds_of_slice, waker) = (bounds.clone(), Waker::from(bell.clone()));
        // The thread keeps the permit and its account: it goes on when its caller is
        // gone.
        let slice = account::spawn_blocking(move || {
            let started = Instant::now();
            bounds_of_slice.stop_at(started + left);
            let polled = script.as_mut().poll(&mut Context::from_waker(&waker));
            (script, polled, started.elapsed())
        });
        let (same, polled, took) = slice.await.map_err(Failure::Panicked)?;
        script = same;
        left = left.saturating_sub(took);
        let failure = match polled {
            Poll::Ready(Err(Failure::Script(error))) => Some(error),
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => None,
        };
        if bounds.cancelled() {
            return Err(Failure::Cancelled);
        }
        if left.is_zero() {
            let seconds = time.as_secs();
            let error = format!("the script ran for longer than {seconds} s");
            return Err(Failure::Script(error));
        }
        if let Some(error) = failure {
            return Err(Failure::Script(error));
        }
        let rung = bell.0.notified().now_or_never().is_some();
        if rung && tokio::time::Instant::now() < end {
            continue;
        }
        if calls.open() == 0 {
            return Err(Failure::Script("the script waits for nothing".into()));
        }
        if tokio::time::timeout_at(end, bell.0.notified())
            .await
            .is_err()
        {
            let seconds = LIFE.as_secs();
            let error = format!("the script took longer than {seconds} s");
            return Err(Failure::Script(error));
        }
    }
}

/// When a script that runs has to stop.
struct Bounds {
    stop_at: Mutex<Instant>,
    abandoned: AtomicBool,
    permit: Option<Permit>,
}

impl Bounds {
    fn stop_at(&self, instant: Instant) {
        *self.stop_at.lock().unwrap_or_else(PoisonError::into_inner) = instant;
    }

    fn cancelled(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
            || self.permit.as_ref().is_some_and(Permit::cancelled)
    }

    fn exceeded(&self) -> bool {
        let stop_at = *self.stop_at.lock().unwrap_or_else(PoisonError::into_inner);
        Instant::now() >= stop_at || self.cancelled()
    }
}

/// Dropped with the evaluation, whose slice may still run.
struct Abandons(Arc<Bounds>);

impl Drop for Abandons {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Rings also for who comes to listen later: the host may answer before the slice ends.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

async fn run(code: String, limit: usize, bounds: Arc<Bounds>, calls: Arc<Calls>) -> Outcome {
    let out_of_memory = |_| Failure::Script("no memory for a runtime".into());
    let runtime = AsyncRuntime::new_with_alloc(RustAllocator).map_err(out_of_memory)?;
    runtime.set_memory_limit(MEMORY_BYTES).await;
    runtime.set_max_stack_size(STACK_BYTES).await;
    let exceeded = Box::new(move || bounds.exceeded());
    runtime.set_interrupt_handler(Some(exceeded)).await;
    let context = AsyncContext::full(&runtime).await.map_err(out_of_memory)?;
    let evaluation = context.async_with(async move |ctx| {
        let value = value(&ctx, code, calls).await;
        let value = value.map_err(|error| Failure::Script(describe(&error)))?;
        json::export(&ctx, &value, limit).map_err(|refusal| match refusal {
            Refusal::TooLarge => Failure::TooLarge,
            Refusal::Value(what) => Failure::Script(what.into()),
            Refusal::Script(error) => Failure::Script(describe(&error)),
        })
    });
    evaluation.await
}

/// What the script's last statement gives, and what that promises, if it is a promise.
async fn value<'js>(
    ctx: &Ctx<'js>,
    code: String,
    calls: Arc<Calls>,
) -> CaughtResult<'js, Value<'js>> {
    host::install(ctx, calls).catch(ctx)?;
    let mut options = EvalOptions::default();
    options.promise = true;
    let promise: Promise<'js> = ctx.eval_with_options(code, options).catch(ctx)?;
    let last: Object<'js> = promise.into_future().await.catch(ctx)?;
    let value: Value<'js> = last.get("value").catch(ctx)?;
    match value.as_promise() {
        Some(promise) => promise.clone().into_future().await.catch(ctx),
        None => Ok(value),
    }
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
