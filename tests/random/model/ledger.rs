//! A slow and obviously right ledger and queue, as `docs/architecture.md` describes them.
//!
//! Where the documents leave a choice (which tenant of a lane is next, whether a sample is
//! taken by itself) the model is told what happened, and says whether it may.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tower_memory_guard::{Pressure, Priority, Reason};

pub(crate) type Id = usize;

/// One that no tenant sent, and three of a tier each.
pub(crate) const TENANTS: [Tenant; 4] = [
    Tenant::new("", 1, usize::MAX, 1.0),
    Tenant::new("plain", 1, usize::MAX, 1.0),
    Tenant::new("counted", 2, 2, 1.0),
    Tenant::new("shared", 3, usize::MAX, 0.3),
];
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Of those in a hurry. No sum of steps of ten milliseconds, nor half of one.
pub(crate) const HURRY: Duration = Duration::from_millis(25);
const CLAIM_WITHIN: Duration = Duration::from_millis(500);
/// θ lies so far below where CRITICAL begins, and a level ends so far below where it begins.
const BELOW_CRITICAL: f64 = 0.02;
const BAND: f64 = 0.02;

/// A tenant is in a tier of its own name.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: &'static str,
    pub(crate) weight: u32,
    pub(crate) max_in_flight: usize,
    pub(crate) max_share: f64,
}

impl Tenant {
    const fn new(name: &'static str, weight: u32, max_in_flight: usize, max_share: f64) -> Self {
        Self {
            name,
            weight,
            max_in_flight,
            max_share,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) kib: u64,
    pub(crate) priority: Priority,
    pub(crate) tenant: usize,
    pub(crate) hurried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Waiting,
    /// Reserved for it; since when a full sample has found it unclaimed.
    Granted(Option<Duration>),
    /// It was granted, and nobody came.
    PassedOn,
    Refused(Reason),
}

/// Somebody whose future is not done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    /// Rises with the order of arrival.
    pub(crate) id: Id,
    ask: Ask,
    until: Duration,
    pub(crate) place: Place,
}

/// Somebody whose permit lives.
#[derive(Clone, Copy, Debug)]
struct Active {
    id: Id,
    tenant: usize,
    kib: u64,
    reported_kib: u64,
}

/// What a sample finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) limit_bytes: u64,
    pub(crate) usage_bytes: u64,
    pub(crate) failing: bool,
    /// As the guard says afterwards.
    pub(crate) pressure: Pressure,
    pub(crate) is_full: bool,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) max_concurrent: usize,
    pub(crate) max_waiting: usize,
    pub(crate) critical: f64,
}

/// How many requests had which outcome.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) came: u64,
    pub(crate) completed: u64,
    pub(crate) rejected: u64,
    pub(crate) gave_up: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) settings: Settings,
    pub(crate) waiters: Vec<Waiter>,
    active: Vec<Active>,
    /// KiB of what has ended since the last sample.
    ended_kib: u64,
    /// The last sample.
    seen: Seen,
    is_blind: bool,
    pub(crate) is_closed: bool,
    met_high: bool,
    pub(crate) now: Duration,
    pub(crate) totals: Totals,
    next: Id,
}

/// Who is told something by an operation, in this order, as far as no rule has explained
/// it yet; and who comes with it and was let in, before or after them.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) woken: VecDeque<Id>,
    pub(crate) came: Option<Id>,
}

impl Told {
    pub(crate) fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.came.is_none()
    }

    /// Whom the next rule has to explain.
    fn next_of(&self, fitting: &[Id]) -> Option<Id> {
        let next = [self.woken.front(), self.came.as_ref()];
        let mut next = next.into_iter().flatten();
        next.find(|id| fitting.contains(id)).copied()
    }

    /// That was it. `false`: it was not told anything.
    pub(crate) fn take(&mut self, id: Id) -> bool {
        let before = self.woken.len();
        self.woken.retain(|&other| other != id);
        let came = self.came.take_if(|came| *came == id);
        came.is_some() || self.woken.len() < before
    }
}

impl Model {
    pub(crate) fn new(settings: Settings, seen: Seen) -> Self {
        Self {
            settings,
            waiters: Vec::new(),
            active: Vec::new(),
            ended_kib: 0,
            seen,
            is_blind: false,
            is_closed: false,
            met_high: false,
            now: Duration::ZERO,
            totals: Totals::default(),
            next: 0,
        }
    }

    fn granted(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters
            .iter()
            .filter(|waiter| matches!(waiter.place, Place::Granted(_)))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.active.len() + self.granted().count()
    }

    /// Of requests in flight; what has ended does not show.
    pub(crate) fn reserved_kib(&self) -> u64 {
        let active: u64 = self.active.iter().map(|active| active.kib).sum();
        active + self.granted().map(|waiter| waiter.ask.kib).sum::<u64>()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.all_waiting().count()
    }

    /// Those who have been told no count until they are polled.
    pub(crate) fn unanswered(&self) -> usize {
        self.waiters.len() - self.granted().count()
    }

    fn all_waiting(&self) -> impl Iterator<Item = &Waiter> {
        let waits = |waiter: &&Waiter| waiter.place == Place::Waiting;
        self.waiters.iter().filter(waits)
    }

    fn flow(&self, lane: Priority, tenant: usize) -> impl Iterator<Item = &Waiter> {
        self.all_waiting()
            .filter(move |waiter| (waiter.ask.priority, waiter.ask.tenant) == (lane, tenant))
    }

    pub(crate) fn kib_of(&self, id: Id) -> u64 {
        self.active.iter().find(|one| one.id == id).unwrap().kib
    }

    /// What may be reserved: Σr + (θ·L − F), and F is the usage and what is reserved, as
    /// long as usage shows nothing of that.
    pub(crate) fn allowance_kib(&self) -> u64 {
        let theta = self.settings.critical - BELOW_CRITICAL;
        let bytes = self.seen.limit_bytes as f64 * theta - self.seen.usage_bytes as f64;
        bytes.max(0.0) as u64 / 1024
    }

    fn fits(&self, kib: u64) -> bool {
        self.reserved_kib() + self.ended_kib + kib <= self.allowance_kib() || self.is_blind
    }

    /// With nothing in flight there is nothing to wait for.
    fn fits_alone(&self, kib: u64) -> bool {
        self.in_flight() == 0 && kib <= self.free_kib()
    }

    fn free_kib(&self) -> u64 {
        let free = self.seen.limit_bytes.saturating_sub(self.seen.usage_bytes);
        free / 1024
    }

    /// Nor would it if all that is reserved were free.
    fn is_hopeless(&self, kib: u64) -> bool {
        let reserved_kib = self.reserved_kib() + self.ended_kib;
        self.in_flight() == 0 || kib > self.free_kib() + reserved_kib
    }

    /// It may have been so before those that were let in just now.
    fn may_have_been_hopeless(&self, kib: u64) -> bool {
        let active_kib: u64 = self.active.iter().map(|active| active.kib).sum();
        kib > self.free_kib() + active_kib
    }

    /// What each request of a tenant has.
    fn held_by(&self, tenant: usize) -> Vec<u64> {
        let active = self.active.iter().map(|one| (one.tenant, one.kib));
        let granted = self.granted().map(|one| (one.ask.tenant, one.ask.kib));
        let theirs = active.chain(granted).filter(|(of, _)| *of == tenant);
        theirs.map(|(_, kib)| kib).collect()
    }

    fn is_within_share(&self, tenant: usize, more_kib: u64) -> bool {
        let max_share = TENANTS[tenant].max_share;
        let most_kib = (self.seen.limit_bytes as f64 / 1024.0 * max_share) as u64;
        let held_kib: u64 = self.held_by(tenant).iter().sum();
        max_share >= 1.0 || held_kib + more_kib <= most_kib
    }

    fn is_within_quota(&self, ask: &Ask) -> bool {
        let in_flight = self.held_by(ask.tenant).len();
        let within_count = in_flight < TENANTS[ask.tenant].max_in_flight;
        ask.tenant == 0
            || in_flight == 0
            || within_count && self.is_within_share(ask.tenant, ask.kib)
    }

    fn gate(&self) -> bool {
        self.is_closed || self.seen.pressure == Pressure::Critical
    }

    /// Lets in everybody who fits, in their order. Those who were told so must be among
    /// them, and nobody else.
    fn pump(&mut self, told: &mut Told) {
        let mut hopeless = BTreeSet::new();
        while let Some(id) = self.next_in_turn(told, &mut hopeless) {
            told.take(id);
            self.waiter(id).place = Place::Granted(None);
        }
    }

    /// `hopeless`: whom no release could help, a moment ago. Others may go on to pass them
    /// once more is in flight, and need not.
    fn next_in_turn(&self, told: &Told, hopeless: &mut BTreeSet<Id>) -> Option<Id> {
        if self.gate() || self.in_flight() >= self.settings.max_concurrent {
            return None;
        }
        let mut may_be_held_up = false;
        for lane in [Priority::High, Priority::Normal, Priority::Low] {
            let (mut fitting, mut is_held_up) = (Vec::new(), false);
            for tenant in 0..TENANTS.len() {
                for waiter in self.flow(lane, tenant) {
                    if !self.is_within_quota(&waiter.ask) {
                        break;
                    }
                    if self.fits(waiter.ask.kib) || self.fits_alone(waiter.ask.kib) {
                        fitting.push(waiter.id);
                        break;
                    }
                    if self.is_hopeless(waiter.ask.kib) {
                        hopeless.insert(waiter.id);
                    } else if hopeless.contains(&waiter.id)
                        || self.may_have_been_hopeless(waiter.ask.kib)
                    {
                        may_be_held_up = true;
                    } else {
                        is_held_up = true;
                        break;
                    }
                }
            }
            if let Some(id) = told.next_of(&fitting) {
                return Some(id);
            }
            // The turn may have been that of a tenant whose request does not fit.
            assert!(
                is_held_up || may_be_held_up || fitting.is_empty(),
                "one of {fitting:?} has to be let in, {told:?} were: {self:#?}"
            );
            if is_held_up {
                return None;
            }
        }
        None
    }

    fn waiter(&mut self, id: Id) -> &mut Waiter {
        self.waiters.iter_mut().find(|one| one.id == id).unwrap()
    }

    /// A sample was taken.
    pub(crate) fn sampled(&mut self, seen: Seen, told: &mut Told) {
        self.is_blind = seen.failing;
        match seen.failing {
            true => self.seen.pressure = seen.pressure,
            false => self.take(seen),
        }
        self.ended_kib = 0;
        self.pump(told);
        if seen.is_full && self.is_closed {
            self.refuse_all(told);
        }
        if seen.is_full {
            self.pass_on();
            self.pump(told);
        }
    }

    fn take(&mut self, seen: Seen) {
        let fraction = seen.usage_bytes as f64 / seen.limit_bytes as f64;
        let critical = seen.pressure == Pressure::Critical;
        let thresholds = self.settings.critical;
        assert!(critical || fraction < thresholds, "{fraction}: {seen:?}");
        assert!(
            !critical || fraction >= thresholds - BAND,
            "{fraction}: {seen:?}"
        );
        self.seen = seen;
    }

    fn pass_on(&mut self) {
        for waiter in &mut self.waiters {
            if let Place::Granted(since) = &mut waiter.place {
                let since = *since.get_or_insert(self.now);
                if self.now - since >= CLAIM_WITHIN {
                    waiter.place = Place::PassedOn;
                }
            }
        }
    }

    /// Somebody comes. Says who it is, whether it waits or has been admitted, or why not.
    /// `told` has it if it was admitted at once.
    pub(crate) fn comes(
        &mut self,
        ask: Ask,
        sample: Option<Seen>,
        told: &mut Told,
    ) -> Result<Id, Reason> {
        self.totals.came += 1;
        self.met_high |= ask.priority == Priority::High;
        let arrives = self.arrives(ask, sample, told);
        self.totals.rejected += u64::from(arrives.is_err());
        arrives
    }

    fn arrives(&mut self, ask: Ask, sample: Option<Seen>, told: &mut Told) -> Result<Id, Reason> {
        let sheds = ask.priority == Priority::Low && self.seen.pressure >= Pressure::Warning;
        if sheds {
            return Err(Reason::LowPriority);
        }
        // Near the limit an admission looks first.
        if let Some(seen) = sample {
            let came = told.came.take();
            self.sampled(seen, told);
            told.came = came;
        }
        if self.is_closed {
            return Err(Reason::Closed);
        }
        let at_once = self.waiting() == 0
            && self.in_flight() < self.settings.max_concurrent
            && self.is_within_quota(&ask)
            && (self.fits(ask.kib) || self.fits_alone(ask.kib));
        let is_let_in = at_once && !self.gate();
        if !is_let_in && ask.kib * 1024 > self.seen.limit_bytes {
            return Err(Reason::NeverFits);
        }
        if self.gate() {
            return Err(Reason::CriticalPressure);
        }
        let id = self.next;
        self.next += 1;
        let gives_way = ask.priority == Priority::Normal
            && self.seen.pressure >= Pressure::High
            && self.met_high;
        let patience = if ask.hurried { HURRY } else { WAIT_TIMEOUT };
        self.waiters.push(Waiter {
            id,
            ask,
            until: self.now + if gives_way { patience / 2 } else { patience },
            place: Place::Waiting,
        });
        self.pump(told);
        Ok(id)
    }

    /// The next that comes.
    pub(crate) fn next_id(&self) -> Id {
        self.next
    }

    /// The queue was full and took one that came in the place of another, or of nobody
    /// (`None`).
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() > self.settings.max_waiting
    }

    /// It came to a full queue, and was taken in the place of `displaced`.
    pub(crate) fn displaces(&mut self, came: Id, displaced: Id, told: &mut Told) {
        assert!(
            self.may_displace(came).contains(&displaced),
            "{displaced} in the place of {came}: {self:#?}"
        );
        self.waiter(displaced).place = Place::Refused(Reason::QueueFull);
        self.pump(told);
    }

    /// The newest of each flow that is in a lane behind, or in its lane longer for its
    /// tenant's weight.
    pub(crate) fn may_displace(&self, came: Id) -> Vec<Id> {
        let came = self.waiters.iter().find(|one| one.id == came).unwrap();
        let lane = came.ask.priority;
        let length = |lane, tenant| self.flow(lane, tenant).count() as u32;
        let own = (lane, came.ask.tenant);
        let mut newest = Vec::new();
        for other in [Priority::High, Priority::Normal, Priority::Low] {
            for (tenant, Tenant { weight, .. }) in TENANTS.iter().enumerate() {
                let is_longer =
                    length(other, tenant) * TENANTS[own.1].weight > length(own.0, own.1) * weight;
                if other < lane || other == lane && tenant != own.1 && is_longer {
                    newest.extend(self.flow(other, tenant).last().map(|one| one.id));
                }
            }
        }
        newest
    }

    /// It does not wait after all. Since it came it may be another's turn.
    pub(crate) fn turned_away(&mut self, id: Id, told: &mut Told) {
        self.remove(id);
        self.totals.rejected += 1;
        self.pump(told);
    }

    fn remove(&mut self, id: Id) -> Waiter {
        let at = self.waiters.iter().position(|one| one.id == id).unwrap();
        self.waiters.remove(at)
    }

    /// Its future is polled: what it says.
    pub(crate) fn polled(&mut self, id: Id, told: &mut Told) -> Option<Result<(), Reason>> {
        if self.waiter(id).place == Place::PassedOn {
            self.waiter(id).place = Place::Waiting;
            self.pump(told);
        }
        let waiter = *self.waiter(id);
        let answer = match waiter.place {
            Place::Granted(_) => {
                self.active.push(Active {
                    id,
                    tenant: waiter.ask.tenant,
                    kib: waiter.ask.kib,
                    reported_kib: 0,
                });
                Ok(())
            }
            Place::Refused(reason) => Err(reason),
            _ if self.is_closed => Err(Reason::Closed),
            _ if self.now >= waiter.until => Err(Reason::WaitTimeout),
            _ => return None,
        };
        self.remove(id);
        self.totals.rejected += u64::from(answer.is_err());
        self.pump(told);
        Some(answer)
    }

    /// Its future is dropped.
    pub(crate) fn gives_up(&mut self, id: Id, told: &mut Told) {
        self.remove(id);
        self.totals.gave_up += 1;
        self.pump(told);
    }

    /// The last clone of its permit is dropped.
    pub(crate) fn ends(&mut self, id: Id, told: &mut Told) {
        let at = self.active.iter().position(|one| one.id == id).unwrap();
        let active = self.active.remove(at);
        if !self.is_blind {
            // The allocator may keep it.
            self.ended_kib += active.kib;
        }
        self.totals.completed += 1;
        self.pump(told);
    }

    /// It asks for more. Near the limit it looks first, and if it is alone of its tenant,
    /// the share of that does not hold it back.
    pub(crate) fn grows(
        &mut self,
        id: Id,
        kib: u64,
        sample: Option<Seen>,
        told: &mut Told,
    ) -> Result<(), Reason> {
        let total_bytes = (self.kib_of(id) + kib) * 1024;
        if total_bytes > self.seen.limit_bytes {
            return Err(Reason::NeverFits);
        }
        if let Some(seen) = sample {
            self.sampled(seen, told);
        }
        let tenant = self.active_one(id).tenant;
        let within_share =
            self.held_by(tenant).len() <= 1 || self.is_within_share(tenant, kib) || tenant == 0;
        if !within_share || !self.fits(kib) {
            return Err(Reason::NoRoom);
        }
        self.active_one(id).kib += kib;
        Ok(())
    }

    pub(crate) fn reports(&mut self, id: Id, kib: u64) {
        let active = self.active_one(id);
        active.reported_kib = active.reported_kib.max(kib);
        active.kib = active.kib.max(active.reported_kib);
    }

    fn active_one(&mut self, id: Id) -> &mut Active {
        self.active.iter_mut().find(|one| one.id == id).unwrap()
    }

    pub(crate) fn closes(&mut self, told: &mut Told) {
        self.is_closed = true;
        self.refuse_all(told);
    }

    fn refuse_all(&mut self, told: &mut Told) {
        for waiter in &mut self.waiters {
            if waiter.place == Place::Waiting {
                waiter.place = Place::Refused(Reason::Closed);
                told.take(waiter.id);
            }
        }
    }
}
