//! Requests in flight: what each holds, one slot per request.
//!
//! Slots live as long as their guard and are used again and again, so that a
//! request allocates nothing. A thread takes slots of its own shard: no other
//! thread writes there while it does, and admissions share no cache line. The
//! regulator looks through all slots at each full sample.

pub(crate) mod bins;
pub(crate) mod brake;
#[cfg(all(test, not(memory_guard_loom)))]
mod brake_tests;
#[cfg(feature = "account")]
pub(crate) mod charge;
/// Nobody counts.
#[cfg(not(feature = "account"))]
pub(crate) mod charge {
    pub(crate) fn thread_bytes() -> i64 {
        0
    }

    pub(crate) fn charges(_: &super::Slot) -> bool {
        false
    }

    pub(crate) fn allocated_bytes() -> Option<u64> {
        None
    }
}
#[cfg(all(test, not(memory_guard_loom)))]
mod growth_tests;
#[cfg(all(test, memory_guard_loom))]
mod look_loom_tests;
#[cfg(all(test, memory_guard_loom))]
mod loom_tests;
mod peaks;
pub(crate) mod place;
mod ranks;
mod slot;
mod slots;
#[cfg(all(test, not(memory_guard_loom)))]
mod stuck_tests;
#[cfg(test)]
mod test_support;
#[cfg(all(test, not(memory_guard_loom)))]
mod tests;
pub(crate) mod victims;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "account")]
pub(crate) use slot::Elsewhere;
pub(crate) use slot::{Fact, Holdings, IDLE_AFTER, Jump, KnownJumps, Slot, SlotRef, Status};
use slot::{JumpOfKind, Known};

use crate::class::Priority;
use crate::class::tag::{ClassKey, Tag};
use crate::sync::sharded::{ByShard, OWNED_SHARDS, shard};
use bins::BINS;
use slots::Shard;

/// Peaks of requests that no look found in flight, counted by the threads that
/// ended them. Counts only rise; the regulator takes differences.
#[derive(Debug)]
struct Finished {
    peaks: [AtomicU32; BINS],
    /// Of all of them together.
    hints_kib: AtomicU64,
}

impl Finished {
    fn new() -> Self {
        Self {
            peaks: [const { AtomicU32::new(0) }; BINS],
            hints_kib: AtomicU64::new(0),
        }
    }
}

/// The same, by kind of request.
type ByKind = Box<[OnceLock<Box<Finished>>]>;

/// The requests of one guard in flight.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Each is made when its thread is first served.
    shards: ByShard<Shard>,
    /// A bit for each kind that had critical requests.
    critical: [AtomicU64; ClassKey::COUNT / 64],
    /// By kind of request; made when the first is known.
    jumps: OnceLock<Box<[JumpOfKind]>>,
    /// What was reserved for those that the last look found, and that have ended since.
    gone_kib: AtomicU64,
}

impl Running {
    /// One has been taken so far.
    pub(crate) fn has_begun(&self) -> bool {
        self.shards.all().next().is_some()
    }

    /// A slot for a request that begins. `None` beyond two million per thread.
    #[inline]
    pub(crate) fn take(&self, reserved_kib: u64, tag: Tag, now: Duration) -> Option<&Slot> {
        let number = shard();
        let slot = self.shards.of(number).take(number)?;
        if tag.priority == Priority::Critical && !self.is_critical(tag.key) {
            let bit = 1 << (tag.key.index() % 64);
            self.critical[tag.key.index() / 64].fetch_or(bit, Ordering::Relaxed);
        }
        slot.begin(reserved_kib, tag, now.as_millis() as u64);
        Some(slot)
    }

    /// Polls of this kind of requests are seen to add so much, where their hint is the unit; and
    /// so much after one that is about as large, and at the end of such, if that is known.
    /// `scale`: how large they are beside that. `worst_bytes`: what such a request may need at
    /// the very worst, if its hint is the unit and that is known.
    pub(crate) fn set_jump(
        &self,
        key: ClassKey,
        known: KnownJumps,
        scale: f64,
        worst_bytes: Option<f64>,
    ) {
        let kib = |bytes: f64| u64::from((bytes / 1024.0).max(1.0) as u32);
        let jumps = &self.jumps()[key.index()];
        let unit_kib = kib(known.first.max(known.largest));
        let known = known.scaled(scale);
        for (of, bytes) in [
            (Known::Largest, Some(known.largest)),
            (Known::Once, Some(known.once.max(known.largest))),
            (Known::First, Some(known.first.max(known.largest))),
            (Known::Later, known.later),
            (Known::Ending, known.ending),
            (Known::Worst, worst_bytes),
        ] {
            jumps.set(of, bytes.map(kib));
        }
        jumps.set(Known::Unit, Some(unit_kib));
        // Else there is another one already.
        let record_kib = jumps.kib(Known::Record);
        jumps.set(Known::Record, record_kib.filter(|&kib| kib > unit_kib));
    }

    /// A poll of a request has added so much; says whether that is more than any of its kind
    /// is known to.
    pub(crate) fn saw_jump(&self, slot: &Slot, bytes: u64) -> bool {
        let jumps = &self.jumps()[slot.class_key().index()];
        let kib = (bytes as f64 / 1024.0 / slot.scale()) as u64;
        let is_record = Some(kib) > jumps.kib(Known::Unit).max(jumps.kib(Known::Record));
        if is_record {
            jumps.set(Known::Record, Some(kib));
        }
        is_record
    }

    /// The kinds of which a poll has added more than was known, and by one whose hint is the
    /// unit how much. To be told by [`set_jump`](Self::set_jump).
    pub(crate) fn records(&self) -> impl Iterator<Item = (ClassKey, f64)> {
        let jumps = self.jumps.get().into_iter().flatten();
        let by_key = ClassKey::all().zip(jumps);
        by_key.filter_map(|(key, jumps)| {
            let kib = jumps.kib(Known::Record)?;
            Some((key, kib as f64 * 1024.0))
        })
    }

    fn jumps(&self) -> &[JumpOfKind] {
        let unknown = std::iter::repeat_with(JumpOfKind::default);
        let made = || unknown.take(ClassKey::COUNT).collect();
        self.jumps.get_or_init(made)
    }

    /// The most that a poll of any kind of requests is seen to add.
    pub(crate) fn largest_jump_bytes(&self) -> u64 {
        self.most_bytes(Known::Largest)
    }

    /// The most that one may add of a request of which nothing was seen.
    pub(crate) fn largest_first_jump_bytes(&self) -> u64 {
        self.most_bytes(Known::First)
    }

    fn most_bytes(&self, known: Known) -> u64 {
        let jumps = self.jumps.get().into_iter().flatten();
        let most_kib = jumps.filter_map(|jumps| jumps.kib(known)).max();
        most_kib.unwrap_or(0) << 10
    }

    /// What the next poll of a request may add.
    pub(crate) fn jump_bytes(&self, slot: &Slot) -> u64 {
        let jumps = self.jumps.get();
        let of_kind = jumps.map(|jumps| &jumps[slot.class_key().index()]);
        slot.jump_bytes(of_kind.unwrap_or(&JumpOfKind::default()))
    }

    /// Of this kind there were critical requests.
    pub(crate) fn is_critical(&self, key: ClassKey) -> bool {
        let bits = self.critical[key.index() / 64].load(Ordering::Relaxed);
        bits & (1 << (key.index() % 64)) != 0
    }

    /// A request is over.
    #[inline]
    pub(crate) fn end(&self, slot: &Slot) {
        let peak_bytes = slot.peak_bytes();
        let unseen = match slot.end() {
            Ok(unseen) => unseen,
            Err(reserved_kib) => {
                // The next look takes note, and frees it.
                self.gone_kib.fetch_add(reserved_kib, Ordering::Relaxed);
                return;
            }
        };
        // Work that no account shows would look as if it needed nothing.
        let shows_all = peak_bytes > 0 && !unseen.is(Fact::Untold);
        if shows_all && !(unseen.was_cut_short() || unseen.says_nothing()) {
            // As it would be with the unit for its hint.
            let unscaled = (peak_bytes as f64 / slot.scale()) as u64;
            self.count(slot.tag(), unscaled);
        }
        self.free(slot);
    }

    fn free(&self, slot: &Slot) {
        let shard = self.shards.of(usize::from(slot.shard));
        shard.free(slot.index as usize);
    }

    fn count(&self, tag: Tag, peak_bytes: u64) {
        let number = shard();
        let made = || (0..ClassKey::COUNT).map(|_| OnceLock::new()).collect();
        let by_kind = self.shards.of(number).finished.get_or_init(made);
        let counts = by_kind[tag.key.index()].get_or_init(|| Box::new(Finished::new()));
        if let Some(hint_kib) = tag.hint_kib {
            let hint_kib = u64::from(hint_kib.get());
            counts.hints_kib.fetch_add(hint_kib, Ordering::Relaxed);
        }
        let count = &counts.peaks[bins::of(peak_bytes)];
        if number < OWNED_SHARDS {
            // No other thread writes here, so this loses nothing.
            let next = count.load(Ordering::Relaxed).wrapping_add(1);
            count.store(next, Ordering::Relaxed);
        } else {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests of one kind ended unseen so far, by the bin of their peak.
    /// `false`: none ever did.
    pub(crate) fn finished(&self, key: ClassKey, totals: &mut [u32; BINS]) -> bool {
        let mut any = false;
        for finished in self.finished_of(key) {
            if !std::mem::replace(&mut any, true) {
                totals.fill(0);
            }
            for (total, count) in totals.iter_mut().zip(&finished.peaks) {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        any
    }

    /// The hints of those together.
    pub(crate) fn finished_hints_kib(&self, key: ClassKey) -> u64 {
        let hints = self.finished_of(key).map(|finished| &finished.hints_kib);
        hints.map(|kib| kib.load(Ordering::Relaxed)).sum()
    }

    fn finished_of(&self, key: ClassKey) -> impl Iterator<Item = &Finished> {
        let known = self.by_kind().map(move |by_kind| &by_kind[key.index()]);
        known.filter_map(|finished| finished.get().map(Box::as_ref))
    }

    fn by_kind(&self) -> impl Iterator<Item = &ByKind> {
        let shards = self.shards.all();
        shards.filter_map(|(_, shard)| shard.finished.get())
    }

    /// None is in flight: as if none had ever been.
    pub(crate) fn forget(&self) {
        self.look(|_| {});
        let zero = |count: &AtomicU32| count.store(0, Ordering::Relaxed);
        for finished in self.by_kind().flatten().filter_map(OnceLock::get) {
            finished.peaks.iter().for_each(zero);
            finished.hints_kib.store(0, Ordering::Relaxed);
        }
        for jumps in self.jumps.get().into_iter().flatten() {
            jumps.forget();
        }
        for critical in &self.critical {
            critical.store(0, Ordering::Relaxed);
        }
    }

    /// Frees the slots of those that ended since the look before, where none comes any more. Only
    /// the regulator does.
    pub(crate) fn free_ended(&self) {
        let slots = self.shards.all().flat_map(|(_, shard)| shard.taken());
        for (_, slot) in slots.filter(|(_, slot)| slot.life.get().has_ended()) {
            slot.free();
            self.free(slot);
        }
    }

    /// What was reserved for those that the last look found, and that have ended since.
    pub(crate) fn gone_kib(&self) -> u64 {
        self.gone_kib.load(Ordering::Relaxed)
    }

    /// Looks at every request in flight, and at those that ended since the look
    /// before. Only the regulator does, one look at a time.
    pub(crate) fn look<'a>(&'a self, mut visit: impl FnMut(Look<'a>)) {
        self.gone_kib.store(0, Ordering::Relaxed);
        for (number, shard) in self.shards.all() {
            for (index, slot) in shard.taken() {
                let Some(life) = slot.life.found() else {
                    continue;
                };
                visit(Look {
                    key: (number, index),
                    slot,
                    held: slot.look(),
                    life,
                });
                if life.has_ended() {
                    slot.free();
                    self.free(slot);
                }
            }
        }
    }
}

/// One request, as a look found it.
pub(crate) struct Look<'a> {
    /// Shard and place, which the next request in this slot will have too.
    pub(crate) key: (usize, usize),
    pub(crate) slot: &'a Slot,
    pub(crate) held: Holdings,
    /// If it is over, no look will find it again.
    pub(crate) life: Status,
}

impl Look<'_> {
    /// Some of its work nobody could hold back.
    pub(crate) fn is_unheld(&self) -> bool {
        self.life.is(Fact::Unheld)
    }

    /// An account shows what it does.
    pub(crate) fn is_visible(&self) -> bool {
        self.held.peak_bytes > 0 || self.slot.allocations() > 0
    }
}
