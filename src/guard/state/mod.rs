//! What requests touch: all that an admission, a wait and a permit need of their guard.
//!
//! Samples drive the other half, which knows this one and publishes here what follows from
//! them. This one does not know it: who needs it has the sampler take a sample.

mod forked;
mod growth;
mod handles;
mod live;
mod rejections;
mod seldom;
mod shown;
mod stats;
mod work;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use handles::Handles;
use live::Live;
pub(super) use seldom::REPORT_INTERVAL;
use seldom::Seldom;
pub(crate) use shown::Loads;
use shown::Shown;
pub(super) use shown::Summary;
pub(super) use work::Reservation;

use super::pool::Shared;
use super::ready::{Cell, Ready};
use super::stalls::{Deliveries, Stalls};
use crate::class::Priority;
use crate::classify::labels::Labels;
use crate::classify::tenants::Tenants;
use crate::config::Config;
use crate::limiter::{Bounds, Caps, Limiter};
use crate::memory::Sampler;
use crate::pressure::Pressure;
use crate::running::Running;
use crate::running::brake::Brake;
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Published;
use crate::telemetry::recent::RecentEvents;
use crate::telemetry::stats::Counters;
use crate::units::MAX_KIB;

/// Longest time between samples while somebody waits.
pub(super) const WAITING_INTERVAL: Duration = Duration::from_millis(50);

/// The half of a guard that requests touch. [`renew`](Self::renew) makes it another's.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) name: Option<String>,
    /// What each request allocates is known.
    accounted: bool,
    pub(super) live: Live,
    pub(super) sampler: Arc<Sampler>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) brake: &'static Brake,
    pub(super) labels: Labels,
    pub(super) running: Running,
    ready: Ready,
    pub(super) deliveries: Deliveries,
    pub(super) counters: Counters,
    #[cfg(feature = "metrics")]
    pub(super) published: Published,
    pub(super) handles: Handles,
    pub(super) shown: Shown,
    recent: RecentEvents,
    rejection_lines: Seldom,
    pause_lines: Seldom,
    /// A bit for each priority that requests have had.
    priorities: AtomicU8,
    closed: AtomicBool,
    /// Closed, and nobody who is paused would go on otherwise.
    lets_go: AtomicBool,
    /// The process was forked, and memory cannot be seen in this one.
    is_lost: AtomicBool,
}

/// What accounts show; `None`: accounting is not installed.
pub(super) fn allocated_bytes() -> Option<u64> {
    crate::running::charge::allocated_bytes()
}

impl State {
    /// Of no guard yet: [`renew`](Self::renew) makes it one's.
    pub(super) fn new(config: &Config, shared: &Shared) -> Self {
        let holdings = &shared.holdings;
        let tenants = Tenants::new(config.tiers.clone());
        Self {
            name: config.name.clone(),
            accounted: allocated_bytes().is_some(),
            live: Live::new(config.clone()),
            sampler: Arc::clone(&holdings.sampler),
            bounds: holdings.limiter.join(Arc::clone(tenants.accounts())),
            limiter: Arc::clone(&holdings.limiter),
            brake: holdings.brake,
            labels: Labels::new(tenants),
            running: Running::default(),
            ready: Ready::default(),
            deliveries: Deliveries::default(),
            counters: Counters::default(),
            #[cfg(feature = "metrics")]
            published: Published::default(),
            handles: Handles::default(),
            shown: Shown::default(),
            recent: RecentEvents::default(),
            rejection_lines: Seldom::default(),
            pause_lines: Seldom::default(),
            priorities: AtomicU8::new(0),
            closed: AtomicBool::new(false),
            lets_go: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
        }
    }

    /// A guard begins, here or in the place of one that is gone. Names of classes keep their
    /// numbers.
    pub(super) fn renew(&self, config: Config) {
        self.live.set(config);
        self.counters.forget();
        #[cfg(feature = "metrics")]
        self.published.forget();
        self.shown.forget();
        self.recent.forget();
        self.rejection_lines.forget();
        self.pause_lines.forget();
        self.deliveries.begin();
        self.priorities.store(0, Ordering::Relaxed);
        self.closed.store(false, Ordering::Release);
        self.lets_go.store(false, Ordering::Release);
        self.is_lost.store(false, Ordering::Release);
    }

    /// Nothing about it that cannot be changed is another than `config` says, and it has
    /// numbers left for classes.
    pub(super) fn suits(&self, config: &Config) -> bool {
        self.sampler.is_here()
            && self.accounted == allocated_bytes().is_some()
            && self.name == config.name
            && self.config().tiers == config.tiers
            && self.labels.has_room()
    }

    /// It is known which requests are in flight, one by one.
    #[inline]
    pub(crate) fn tracks(&self) -> bool {
        self.accounted || self.live.may_cancel()
    }

    pub(crate) fn is_accounted(&self) -> bool {
        self.accounted
    }

    /// Its own among the guards of a process.
    pub(crate) fn board_key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Its own requests.
    pub(super) fn in_flight(&self) -> u32 {
        self.limiter.in_flight(&self.bounds)
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.live.get()
    }

    #[inline]
    pub(crate) fn turns_away(&self) -> bool {
        self.bounds.caps().is_shut() && !self.live.only_observes()
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.shown.pressure()
    }

    #[inline]
    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Takes note of a priority; says whether such work is not taken at the moment.
    pub(super) fn sheds_priority(&self, priority: Priority) -> bool {
        let bit = 1 << priority as u8;
        if self.priorities.load(Ordering::Relaxed) & bit == 0 {
            self.priorities.fetch_or(bit, Ordering::Relaxed);
            // What it is entitled to is published with the next sample.
            self.sampler.wake_if_older(WAITING_INTERVAL);
        }
        let sheds = self.would_shed(priority);
        if sheds && self.live.only_observes() {
            self.observe("reject: low_priority");
            return false;
        }
        sheds
    }

    /// Enforcing, it would not take such work at the moment.
    pub(super) fn would_shed(&self, priority: Priority) -> bool {
        priority == Priority::Low && self.live.sheds_low_at(self.pressure())
    }

    pub(super) fn has_seen(&self, priority: Priority) -> bool {
        self.priorities.load(Ordering::Relaxed) & 1 << priority as u8 != 0
    }

    /// What is set aside for critical work.
    pub(super) fn slice_kib(&self) -> u64 {
        let fraction = self.config().critical_reserve_fraction;
        match self.shown.limit_bytes() {
            Some(bytes) if !self.is_closed() => ((bytes / 1024) as f64 * fraction) as u64,
            _ => 0,
        }
    }

    /// What of that other work may not have: there is critical work.
    pub(super) fn kept_off_kib(&self) -> u64 {
        match self.has_seen(Priority::Critical) {
            true => self.slice_kib(),
            false => 0,
        }
    }

    #[inline]
    pub(crate) fn put_ready(&self, kib: u64) -> Option<&Cell> {
        self.ready.put(kib)
    }

    /// Watches a response from now on, if any is: where it stands.
    pub(crate) fn watch(&self, delivery: Weak<dyn Stalls>) -> Option<usize> {
        let watches = self.config().body_timeout.is_some();
        watches.then(|| self.deliveries.watch(delivery))
    }

    pub(crate) fn unwatch(&self, place: usize) {
        self.deliveries.forget(place);
    }

    /// What a response's frames hold is kept track of, or those that poll for it are paused.
    pub(crate) fn watches_frames(&self) -> bool {
        self.tracks() || self.brake.is_on()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nobody is paused any more, whatever there is room for.
    pub(super) fn let_all_go(&self) {
        self.lets_go.store(true, Ordering::Release);
    }

    pub(super) fn lets_all_go(&self) -> bool {
        self.lets_go.load(Ordering::Acquire)
    }

    /// Says whether it was not closed before.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn shut(&self) {
        self.bounds.set_slice(0);
        // What is active may still grow into what is free.
        let allowance_kib = self.bounds.caps().kib();
        let caps = Caps::new(true, 0, allowance_kib);
        self.bounds.publish(caps, MAX_KIB, 0);
    }

    /// For how long nobody could be admitted for want of memory, and nobody finished.
    pub(super) fn latched_for(&self) -> Duration {
        let since = self.shown.summary().latched_since;
        since.map_or(Duration::ZERO, |since| {
            self.sampler.tick().saturating_sub(since)
        })
    }

    /// Why requests should go elsewhere, if they should.
    pub(crate) fn unready(&self, latched_after: Duration) -> Option<String> {
        if self.is_closed() {
            return Some("closing: no new work is taken".into());
        }
        self.look_for_fork();
        let latched = self.latched_for();
        (latched > latched_after && !self.live.only_observes()).then(|| {
            let seconds = latched.as_secs_f64();
            format!("latched: for {seconds:.0} s memory has had room for nobody")
        })
    }
}
