//! What polls add: of a request, and of those of its kind.

use crate::sync::optional::AtomicOption;

/// What polls of a request were seen to add, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Jump {
    /// At most.
    pub(crate) largest: f64,
    /// At most, after the first that added something.
    pub(crate) later: f64,
    /// At most, of those that began when it seemed to be about to end; `None`: there was
    /// none such.
    pub(crate) ending: Option<f64>,
}

impl Jump {
    pub(crate) fn scaled(self, by: f64) -> Self {
        Self {
            largest: self.largest * by,
            later: self.later * by,
            ending: self.ending.map(|ending| ending * by),
        }
    }
}

/// What one poll of a kind of requests may add, in bytes, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct KnownJumps {
    pub(crate) largest: f64,
    /// The same of many more requests.
    pub(crate) once: f64,
    /// Of one of which no poll has added anything yet.
    pub(crate) first: f64,
    /// After one that is about as large.
    pub(crate) later: Option<f64>,
    /// And when such a request seems to be about to end.
    pub(crate) ending: Option<f64>,
}

impl KnownJumps {
    pub(crate) fn scaled(self, by: f64) -> Self {
        let scale = |bytes: f64| bytes * by;
        Self {
            largest: scale(self.largest),
            once: scale(self.once),
            first: scale(self.first),
            later: self.later.map(scale),
            ending: self.ending.map(scale),
        }
    }
}

/// The same, to be read by polls; and the most that a request may need, if its hint is the
/// unit.
#[derive(Debug, Default)]
pub(in crate::running) struct JumpOfKind {
    pub(in crate::running) largest_kib: AtomicOption,
    pub(in crate::running) once_kib: AtomicOption,
    pub(in crate::running) first_kib: AtomicOption,
    pub(in crate::running) later_kib: AtomicOption,
    pub(in crate::running) ending_kib: AtomicOption,
    pub(in crate::running) worst_kib: AtomicOption,
}
