//! [`Polling`]: a poll under way, and what it adds if nobody asked for that.

use super::mark::unasked_bytes;
use super::{Growth, UNDER_WAY};
use crate::guard::permit::Permit;
use crate::guard::scope::Scope;

/// A poll under way. To be dropped before what it adds is counted, so that what the thread
/// allocated is charged by then.
pub(crate) struct Polling<'a> {
    scope: Option<Scope<'a>>,
    /// Of one for which nobody asked for room, and from where: nobody else counts what it adds.
    unasked: Option<(&'a Permit, i64)>,
}

/// What such a poll adds is told from here on.
const TOLD_FROM_BYTES: i64 = 64 << 10;

impl<'a> Polling<'a> {
    /// The thread works for the request from here on.
    #[inline(always)]
    pub(crate) fn begin(permit: Option<&'a Permit>, growth: &Option<Growth>) -> Self {
        let mut polling = Self::within(permit);
        if let Some((permit, scope)) = permit.zip(polling.scope.as_ref()) {
            if scope.begin_poll() && growth.is_none() {
                polling.unasked = Some((permit, unasked_bytes()));
            }
        }
        polling
    }

    /// The same within a poll of the same request, which counts what both add.
    #[inline(always)]
    pub(super) fn within(permit: Option<&'a Permit>) -> Self {
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        Self {
            scope: permit.map(Permit::enter),
            unasked: None,
        }
    }
}

impl Drop for Polling<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get() - 1);
        if let Some(scope) = &self.scope {
            scope.end_poll();
        }
        if let Some((permit, from_bytes)) = self.unasked {
            // So far; less than nothing if some was freed.
            let added_bytes = unasked_bytes().wrapping_sub(from_bytes);
            if added_bytes >= TOLD_FROM_BYTES || permit.brakes() {
                self.scope = None;
                tell_growth(permit, added_bytes);
            }
        }
    }
}

/// A poll for which nobody had to ask has added so much: with the brake on, such polls will.
/// Or that came on meanwhile, and somebody waits for its end.
#[cold]
#[inline(never)]
fn tell_growth(permit: &Permit, added_bytes: i64) {
    if let Some((state, slot)) = permit.holder().braked(false) {
        if state.is_accounted() && added_bytes >= TOLD_FROM_BYTES {
            state.grew_unasked(slot, added_bytes as u64);
        }
        state.has_polled();
    }
}
