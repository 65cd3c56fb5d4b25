//! What a sampler's sources watch, in words.

use std::sync::{MutexGuard, PoisonError};

use super::{Reader, Sampler};
use crate::sync::foreign::{self, Code};

impl Sampler {
    /// What the source at this place watches. While a sample is taken, which may take long, that
    /// is what it said last, unless one `waits`.
    pub(crate) fn source_name(&self, place: usize, waits: bool) -> String {
        if self.is_lost() {
            return "nothing: the process was forked in the midst of a sample".into();
        }
        let reader = match waits {
            true => Some(self.reader()),
            false => self.free_reader(),
        };
        let says = |reader: MutexGuard<'_, Reader>| {
            let source = &reader.sources[place].source;
            foreign::call(Code::Source, || source.name()).unwrap_or_default()
        };
        let says = reader.map(says);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = (place + 1).checked_sub(names.len()) {
            // Most have one.
            names.reserve_exact(missing);
            names.resize(place + 1, String::new());
        }
        if let Some(says) = says {
            names[place] = says;
        }
        names[place].clone()
    }
}
