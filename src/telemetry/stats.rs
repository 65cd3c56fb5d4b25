//! Counters, and the [`Stats`] that are made of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::outcome::Outcomes;
use super::tally::Tally;
use super::wait_times::WaitTimes;
use crate::class::tag::Tag;
use crate::error::Reason;
use crate::limiter::MAX_COUNT;
use crate::pressure::Pressure;

/// What a guard is doing, at one moment.
///
/// With the `serde` feature it serialises with these names as keys, but that keys of sizes
/// end in `_mb`, as operators know them; what is `None` is null.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Requests that came, each once: those that are active or wait, and the sum of the
    /// outcomes, `completed_requests`, `failed_requests`, `abandoned_requests`,
    /// `abandoned_waiting_requests` and `rejected_requests`. It never falls.
    ///
    /// Work that [`acquire`](crate::Guard::acquire)d its permit is a request like others; so
    /// is what observe mode let pass, and in each of several guards what all of them
    /// admitted. What passes by the guard is none, nor is a service of the error flavour
    /// that was made ready and not called.
    pub total_requests: u64,
    /// Requests turned away, for whatever reason. One that had been admitted (it was
    /// [cancelled](crate::Reason::Cancelled), its body had been waited for, or its result
    /// was too large) is active until its work has ended, and counts once in the total.
    pub rejected_requests: u64,
    /// Requests that were answered, errors such as 500 included; work that is no request
    /// and has ended.
    pub completed_requests: u64,
    /// Requests whose service returned an error or panicked, or whose response's body did.
    pub failed_requests: u64,
    /// Requests whose callers were gone before the end of the response, those that did not
    /// read it for [`body_timeout`](crate::MemoryGuardBuilder::body_timeout) included.
    pub abandoned_requests: u64,
    /// Requests whose callers were gone while they waited for memory.
    pub abandoned_waiting_requests: u64,
    /// Requests that hold a permit.
    pub active_tasks: u64,
    /// Requests that had to wait for memory, those that still do included.
    pub queued_requests: u64,
    /// Requests that wait for memory, those included that have been told no and have not
    /// been polled since.
    pub waiting_requests: u64,
    /// Requests that may be active at the present level; `None`: any number.
    pub current_concurrency: Option<u64>,
    /// Requests that may be active at NORMAL; `None`: any number.
    pub base_concurrency: Option<u64>,
    /// Memory in use, in percent (0–100) of the limit, or of `memory.high` where that is
    /// lower, at the fullest level.
    pub memory_percent: f64,
    /// MiB that the process has allocated; without the tracking allocator, its
    /// resident memory.
    #[cfg_attr(feature = "serde", serde(rename = "memory_alloc_mb"))]
    pub memory_alloc_mib: f64,
    /// MiB that the limited group holds and cannot give back at once.
    #[cfg_attr(feature = "serde", serde(rename = "memory_sys_mb"))]
    pub memory_sys_mib: f64,
    /// MiB at which something is killed or, where nothing is, the kernel throttles
    /// (`memory.high`); `None` while no limit is known.
    #[cfg_attr(feature = "serde", serde(rename = "memory_limit_mb"))]
    pub memory_limit_mib: Option<f64>,
    /// MiB reserved for requests in flight, by all guards on the same ledger: those of
    /// this process, but for ones with a source of their own or another group's path.
    #[cfg_attr(feature = "serde", serde(rename = "reserved_mb"))]
    pub reserved_mib: f64,
    /// What one more request may expect to wait; 0 where it would be admitted at once.
    pub expected_wait_ms: f64,
    /// How long the oldest of those that wait has waited.
    pub oldest_waiter_ms: f64,
    /// How far the forecasts of waits were off lately, on average.
    pub wait_error_ms: f64,
    /// Forecasts of waits that were checked.
    pub checked_waits: u64,
    /// MiB that a request reserves, on average over the classes that came lately.
    #[cfg_attr(feature = "serde", serde(rename = "estimated_mem_per_req_mb"))]
    pub estimated_mem_per_req_mib: f64,
    /// How far requests' peaks were from what was expected when they began, on average
    /// over the last ones, as a share of the peak; `None` without accounting.
    pub estimate_error_ratio: Option<f64>,
    /// What would be in use if everybody could be served, over what may be: about 3 at
    /// three times what can be served. A guard that only observes has nobody wait, so it
    /// says 1 at most.
    pub demand_ratio: f64,
    /// For how long memory has had room for nobody, while nobody was admitted and nobody
    /// finished; else 0.
    pub latched_seconds: f64,
    /// The pressure level.
    pub level: Pressure,
    /// `false` while memory cannot be read.
    pub sensor_ok: bool,
    /// Requests that `observe` mode let pass and `enforce` would have held back.
    pub observed_requests: u64,
    /// Responses that were ended because their peer did not read.
    pub stalled_responses: u64,
    /// By how much usage is forecast to rise without another request, in MiB, as of the last sample.
    #[cfg_attr(feature = "serde", serde(rename = "outstanding_mb"))]
    pub outstanding_mib: f64,
    /// The margin of that forecast, in standard deviations; `None` without accounting.
    pub margin_deviations: Option<f64>,
    /// Forecasts that were checked against what requests went on to need.
    pub checked_forecasts: u64,
    /// Those of them that were exceeded.
    pub exceeded_forecasts: u64,
    /// Requests, bodies and followed work that are paused until there is room to grow,
    /// of all guards on the same ledger.
    pub paused_tasks: u64,
    /// How often one was paused, of all guards on the same ledger.
    pub pauses: u64,
    /// For how long requests were paused, all together, those that still are not counted,
    /// of all guards on the same ledger.
    pub paused_seconds_total: f64,
    /// Polls that `observe` mode let pass and `enforce` would have put off.
    pub observed_pauses: u64,
    /// Requests that were told to stop because their memory was needed.
    pub cancelled_requests: u64,
    /// How often memory was given back: by allocators, and by hooks.
    pub releases: u64,
    /// MiB that this brought, as far as usage showed it.
    #[cfg_attr(feature = "serde", serde(rename = "released_mb"))]
    pub released_mib: f64,
    /// Panics in code that the guard calls (a hook, a memory source, a responder, a
    /// classifier, a waker, the metrics recorder, the tracing subscriber) and that it has
    /// passed over, of all guards of this process.
    pub caught_panics: u64,
    /// The longest time that an allocator took for it, in milliseconds.
    pub longest_release_ms: f64,
}

/// A concurrency that binds; `None`: any number may be active.
pub(crate) fn bound(concurrency: u32) -> Option<u64> {
    (concurrency < MAX_COUNT).then_some(u64::from(concurrency))
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) outcomes: Outcomes,
    /// That were found to have come.
    pub(crate) most_came: AtomicU64,
    pub(crate) observed: AtomicU64,
    pub(crate) queued: AtomicU64,
    pub(crate) stalled: AtomicU64,
    /// Waits of services that are to become ready, those included that are granted and not
    /// told yet: they wait or are active, and are no requests so far.
    pub(crate) not_yet: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    /// Polls that would have been put off, in observe mode.
    pub(crate) would_pause: AtomicU64,
    /// Times that memory was to be given back, and what that brought.
    pub(crate) releases: AtomicU64,
    pub(crate) released_bytes: AtomicU64,
    /// That an allocator took for it.
    pub(crate) longest_release_us: AtomicU64,
    pub(crate) tally: Tally,
    pub(crate) waited_then_admitted: WaitTimes,
    pub(crate) waited_then_rejected: WaitTimes,
    rejected: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    /// As if no request had come so far.
    pub(crate) fn forget(&self) {
        macro_rules! forget {
            ($($part:ident)*; $($count:ident)*) => {
                let Self { $($part,)* $($count,)* rejected } = self;
                $($part.forget();)*
                for count in [$($count),*].into_iter().chain(rejected) {
                    count.store(0, Ordering::Relaxed);
                }
            };
        }
        forget!(
            outcomes tally waited_then_admitted waited_then_rejected;
            most_came observed queued stalled not_yet cancelled would_pause releases released_bytes
            longest_release_us
        );
    }

    pub(crate) fn reject(&self, reason: Reason, tag: Tag) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.tally.rejected(reason, tag);
    }

    pub(crate) fn stalled(&self, responses: usize) {
        self.stalled.fetch_add(responses as u64, Ordering::Relaxed);
    }

    /// Something was tried to have memory given back.
    pub(crate) fn released(&self, freed_bytes: u64) {
        self.releases.fetch_add(1, Ordering::Relaxed);
        self.released_bytes
            .fetch_add(freed_bytes, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, reason: Reason) -> u64 {
        self.rejected[reason as usize].load(Ordering::Relaxed)
    }

    /// Those that more memory would have served.
    pub(crate) fn rejected_for_memory(&self) -> u64 {
        let all = Reason::ALL.into_iter();
        let for_memory = all.filter(|reason| reason.is_for_memory());
        for_memory.map(|reason| self.rejected(reason)).sum()
    }

    pub(crate) fn all_rejected(&self) -> u64 {
        Reason::ALL.map(|reason| self.rejected(reason)).iter().sum()
    }
}
