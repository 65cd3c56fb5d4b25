//! What is expected at each time in the next seconds, and who may grow meanwhile.

use std::time::Duration;

use super::Forecast;
use crate::forecast::Evidence;
use crate::forecast::book::Book;
use crate::forecast::outlook::Outlook;
use crate::running::Running;
use crate::running::brake::{self, STEPS};

/// Where requests are seen to touch less, nothing is learned from it.
const LEAST_TOUCHED_BYTES: f64 = (16u64 << 20) as f64;
/// Requests hold at most so many times what they are seen to touch.
const MOST_REUSE: f64 = 8.0;
/// What the newest look at that counts.
const REUSE_STEP: f64 = 0.02;
/// What stays allocated for longer is of no request: with this half-life.
const KEPT_HALF_LIFE: Duration = Duration::from_secs(60);
/// Parts up to so much of the limit the next sample corrects; of those twice as large, none.
const CORRECTED: f64 = 0.05;
/// Of what is reserved, so much may be for requests that no look has found yet.
const MOST_OTHERS: f64 = 0.5;

impl Forecast {
    /// All polls are seen.
    #[cfg(test)]
    pub(crate) fn look(&mut self, running: &'static Running, now: Duration) {
        self.look_since(Duration::ZERO, running, now);
    }

    /// Looks at what requests hold: before a full sample, so that the sample
    /// shows at least as much. `on_since`: of a request that began before, not all
    /// polls are seen.
    pub(crate) fn look_since(
        &mut self,
        on_since: Duration,
        running: &'static Running,
        now: Duration,
    ) {
        let hidden_bytes = self.unexplained_bytes();
        self.left = 1.0;
        if let Some(book) = &mut self.book {
            let kinds = book.kinds.without_hint();
            kinds.for_each(|kind| kind.profile.hidden_bytes = hidden_bytes);
            book.look(running, now);
            self.see_held();
        }
        if self.book.is_none() && self.brakes && running.has_begun() {
            let (prior_bytes, target) = self.configured;
            let made = || Box::new(Book::new(prior_bytes, target).of_polls());
            let book = self.touched.get_or_insert_with(made);
            book.see_polls_since(on_since);
            book.look(running, now);
        }
    }

    /// The requests in flight that can be paused.
    pub(crate) fn take_runners(&mut self) -> Vec<brake::Running> {
        let mut runners = self.runners();
        if self.limit_bytes > 0.0 {
            let limit_bytes = self.limit_bytes as f32;
            for running in &mut runners {
                running.runner.end_within(limit_bytes);
            }
        }
        self.pausing.observe(&runners, self.now);
        runners
    }

    fn runners(&mut self) -> Vec<brake::Running> {
        if let Some(book) = &mut self.book {
            return book.take_runners();
        }
        let Some(book) = &mut self.touched else {
            return Vec::new();
        };
        let mut runners = book.take_runners();
        // Those that live in what others left behind seem to need less than they will.
        let seen_bytes = (book.seen_bytes() * self.reuse) as f32;
        self.touched_growth = [0.0; STEPS];
        for running in &mut runners {
            if !self.polls_tell {
                running.runner.scale(self.reuse as f32);
                running.runner.need_at_least(seen_bytes);
            }
            let growth = running.runner.growth.iter();
            for (sum, &bytes) in self.touched_growth.iter_mut().zip(growth) {
                *sum += f64::from(bytes);
            }
        }
        runners
    }

    /// What requests are seen to touch is less than they hold, if they live in what others
    /// left behind: by how much, all together tell.
    pub(super) fn see_reuse(&mut self, evidence: &Evidence) {
        if self.book.is_some() {
            return;
        }
        self.hidden.see_added(evidence, self.limit_bytes);
        // Where nobody tells, it is at most what is resident.
        let Some(allocated) = evidence.allocated_bytes.max(evidence.anonymous_bytes) else {
            return;
        };
        let allocated = allocated as f64;
        // The counts may begin anew: after seven weeks.
        let now_ms = evidence.now.as_millis() as u32;
        let since_ms = evidence.seen_since.as_millis() as u32;
        let told_ms = std::mem::replace(&mut self.allocated_at_ms, now_ms);
        let was_off = since_ms.wrapping_sub(told_ms) as i32 > 0;
        if was_off {
            // What else has come to be allocated meanwhile is no request's.
            let touched = self
                .touched
                .as_ref()
                .map_or(0.0, |book| book.sums.held_bytes);
            self.beside_allocated = (allocated - touched).max(0.0);
        }
        if evidence.all_in_flight == 0 || self.beside_allocated > allocated {
            self.beside_allocated = allocated;
        }
        let elapsed = evidence.now.saturating_sub(self.now).as_secs_f64();
        let left = 0.5_f64.powf(elapsed / KEPT_HALF_LIFE.as_secs_f64());
        self.beside_allocated = allocated - (allocated - self.beside_allocated) * left;
        self.polls_tell = evidence.polls_tell;
        let Some(book) = &self.touched else {
            return;
        };
        let sums = &book.sums;
        let touched = sums.held_bytes;
        let held = allocated - self.beside_allocated;
        // Of those that no sweep has seen nothing is known.
        let all_seen = book.made.in_flight + 1 >= evidence.all_in_flight as usize;
        // What a poll under way touches shows when it is over.
        if all_seen && sums.in_polls == 0 {
            let beyond_bytes = held - touched * MOST_REUSE - sums.untold_bytes;
            let hidden = &mut self.hidden;
            hidden.see_beyond(evidence, beyond_bytes, self.limit_bytes);
        }
        if self.polls_tell {
            self.reuse = 1.0;
            return;
        }
        if touched > LEAST_TOUCHED_BYTES && all_seen {
            let ratio = (held / touched).clamp(1.0, MOST_REUSE);
            self.reuse += (ratio - self.reuse) * REUSE_STEP;
        }
    }

    /// What requests touch has been seen of enough of them, and none hold much that their
    /// polls do not touch: on threads that may block, say.
    pub(super) fn touched(&self) -> Option<&Book> {
        self.touched_if_known().filter(|_| self.all_is_seen())
    }

    pub(super) fn touched_if_known(&self) -> Option<&Book> {
        let touched = self.touched.as_deref();
        touched.filter(|book| self.brakes && book.knows())
    }

    /// Nothing of what requests hold is hidden, as far as was seen lately.
    pub(super) fn all_is_seen(&self) -> bool {
        self.hidden.is_over(self.now)
    }

    /// By how much usage may rise at most, as far as is known, without another request.
    pub(crate) fn most_growth_bytes(&self, reserved_bytes: u64) -> i64 {
        let outstanding_bytes = self.outstanding_bytes(reserved_bytes);
        match (&self.book, &self.touched) {
            (Some(book), _) => {
                let sums = &book.sums;
                let more = sums.most_growth_bytes - sums.growth_bytes + sums.other_growth_bytes;
                outstanding_bytes.saturating_add(more.max(0.0) as i64)
            }
            (None, Some(book)) => outstanding_bytes.max(self.most_growth_unseen(book) as i64),
            (None, None) => outstanding_bytes,
        }
    }

    /// The same by what polls have shown: those that began with the brake off, which nobody
    /// has seen, may each come to as much as any. What usage shows beside the others is theirs.
    fn most_growth_unseen(&self, book: &Book) -> f64 {
        let sums = &book.sums;
        let unseen = (self.in_flight - book.made.in_flight as f64).max(0.0);
        let shown_bytes = self.usage.realised_bytes(u64::MAX) as f64;
        let theirs_bytes = (shown_bytes - sums.pausable_held_bytes * self.reuse).max(0.0);
        let unseen_bytes = (unseen * book.worst_bytes() - theirs_bytes).max(0.0);
        sums.most_growth_bytes * self.reuse + unseen_bytes
    }

    /// What a poll under way has added, if that is more than it was expected to.
    pub(crate) fn outgrown_bytes(&self) -> u64 {
        let book = self.book.as_ref();
        book.map_or(0, |book| book.sums.outgrown_bytes as u64)
    }

    /// One in flight gets on of whose growth nothing is known.
    pub(crate) fn unknown_get_on(&self) -> bool {
        let book = self.book.as_ref().or(self.touched.as_ref());
        book.is_some_and(|book| book.sums.unknown_get_on)
    }

    /// Few requests have been seen of a kind of those in flight.
    pub(crate) fn is_new(&self) -> bool {
        let book = self.book.as_ref().filter(|_| self.brakes);
        book.is_some_and(|book| book.sums.new || book.kinds.iter().next().is_none())
    }

    /// It is known what polls of requests add.
    pub(crate) fn knows_jumps(&self) -> bool {
        self.book
            .as_ref()
            .or(self.touched.as_ref())
            .is_some_and(|book| {
                let mut mix = book.kinds.mix().peekable();
                mix.peek().is_some() && mix.all(|(_, kind, _)| kind.profile.jumps().is_some())
            })
    }

    /// What is expected at each time in the next seconds. Where requests cannot be
    /// paused, all that they may need at once.
    pub(crate) fn outlook(&self, reserved_bytes: u64) -> Outlook {
        let touched = self.touched();
        let mut outlook =
            if let Some(book) = touched.filter(|book| self.are_pausable(book, reserved_bytes)) {
                self.touched_outlook(book, reserved_bytes)
            } else if let Some(book) = self.book.as_ref().filter(|_| self.may_expect_ends()) {
                self.accounted_outlook(book, reserved_bytes)
            } else {
                return Outlook::constant(self.outstanding_bytes(reserved_bytes));
            };
        let margin_bytes = self.pausing.margin() * self.limit_bytes;
        for bytes in &mut outlook.growth_bytes {
            *bytes += margin_bytes;
        }
        outlook
    }

    /// What others give back in time may be admitted into: if not, there are requests that
    /// nobody can hold back.
    fn may_expect_ends(&self) -> bool {
        self.brakes && !self.works_elsewhere()
    }

    fn accounted_outlook(&self, book: &Book, reserved_bytes: u64) -> Outlook {
        let mut outlook = Outlook::constant(self.outstanding_bytes(reserved_bytes));
        let sums = &book.sums;
        outlook.next_share = self.next_share(book, reserved_bytes);
        let seen_kib = sums.reserved_kib + self.others.reserved_kib;
        let unseen_bytes = reserved_bytes.saturating_sub(seen_kib * 1024) as f64;
        // The same but for when it comes.
        let peaks = sums.growth_bytes - sums.other_growth_bytes;
        let steps = outlook.growth_bytes.iter_mut().zip(&outlook.next_share);
        for ((bytes, share), growth) in steps.zip(&sums.growth) {
            *bytes += growth - peaks + unseen_bytes * (share - 1.0);
            *bytes = bytes.max(self.safe_bytes - self.retained.bytes());
            // What is kept is used again, whether it can be given back or not.
            *bytes -= (self.reusable_bytes(self.grown_bytes) - self.retained.bytes()).max(0.0);
        }
        outlook
    }

    /// The same by what requests touch. What is reserved for others, and for those that no
    /// look has found, counts in full, less what usage shows beside those that were seen.
    fn touched_outlook(&self, book: &Book, reserved_bytes: u64) -> Outlook {
        let sums = &book.sums;
        let mut outlook = Outlook::constant(0);
        outlook.next_share = self.next_share(book, reserved_bytes);
        let others_bytes = reserved_bytes.saturating_sub(sums.pausable_kib * 1024);
        let shown_bytes = self.usage.realised_bytes(reserved_bytes) as f64;
        let theirs_bytes = shown_bytes - sums.pausable_held_bytes * self.reuse;
        let to_come = (others_bytes as f64 - theirs_bytes.max(0.0)).max(0.0);
        for (bytes, growth) in outlook.growth_bytes.iter_mut().zip(&self.touched_growth) {
            let growth = growth * self.left;
            *bytes =
                (growth + to_come).max(self.safe_bytes) - self.reusable_bytes(self.grown_bytes);
        }
        outlook
    }

    /// Most of what is in flight can be paused.
    fn are_pausable(&self, book: &Book, reserved_bytes: u64) -> bool {
        let seen_kib = book.sums.pausable_kib + self.others.reserved_kib;
        let others_bytes = reserved_bytes.saturating_sub(seen_kib * 1024) as f64;
        others_bytes <= reserved_bytes as f64 * MOST_OTHERS
    }

    /// What the next request holds at each time, as a share of what it reserves. All of it
    /// where work is in flight that nobody polls, and that nobody can hold back: the next
    /// may be such.
    fn next_share(&self, book: &Book, reserved_bytes: u64) -> [f64; STEPS] {
        if !self.are_pausable(book, reserved_bytes) {
            return [1.0; STEPS];
        }
        // When the next comes to hold what no account shows is not known.
        let hidden_bytes = self.unexplained_bytes();
        let (mut shares, mut reserved) = ([0.0; STEPS], 0.0);
        for (_, kind, share) in book.kinds.mix() {
            let weight = kind.scale * share;
            let next_bytes = kind.profile.next().bytes;
            reserved += (next_bytes + hidden_bytes) * weight;
            let known = kind.profile.courses.mean_share().unwrap_or([1.0; STEPS]);
            for (sum, share) in shares.iter_mut().zip(known) {
                *sum += (next_bytes * f64::from(share) + hidden_bytes) * weight;
            }
        }
        match reserved > 0.0 {
            true => shares.map(|bytes| (bytes / reserved).min(1.0)),
            false => [1.0; STEPS],
        }
    }

    /// How much of the margin is needed: that for kinds of which it is not known yet what a
    /// poll adds, and so what could be held back in time; and of those that nobody may hold
    /// back, what comes in large parts. For as many as grow where nobody sees it, all of it is.
    pub(super) fn trusted(&self) -> f64 {
        let Some(book) = self.book.as_ref().filter(|_| self.brakes) else {
            return 1.0;
        };
        let (mut sum, mut all) = (0.0, 0.0);
        for (_, kind, share) in book.kinds.mix() {
            let part = match kind.profile.jumps() {
                None => 1.0,
                Some(known) if kind.is_unheld && self.limit_bytes > 0.0 => {
                    let part = known.largest * kind.scale / self.limit_bytes;
                    ((part - CORRECTED) / CORRECTED).clamp(0.0, 1.0)
                }
                Some(_) => 0.0,
            };
            sum += part * share;
            all += share;
        }
        let part = if all > 0.0 { sum / all } else { 1.0 };
        let unseen = match self.unexplained_bytes() > 0.0 {
            true => self.quiet.clamp(0.0, 1.0),
            false => 0.0,
        };
        part.max(unseen)
    }
}
