//! A sampler whose guard is gone, and that is to sample for another.

use super::{Sampler, Subscribed};
use crate::memory::MemorySource;
use crate::memory::subscriber::Subscriber;
use crate::memory::watched::Watched;
use crate::sync::foreign::{self, Code};

impl Sampler {
    /// A thread samples such a source.
    pub(crate) fn background_of(source: &dyn MemorySource) -> bool {
        foreign::call(Code::Source, || source.in_background()).unwrap_or(true)
    }

    /// A guard is gone: no sample that begins from now on is told to it.
    pub(crate) fn unsubscribe(&self, subscriber: &dyn Subscriber) {
        let mut reader = self.reader();
        let subscribers = reader.subscribers.iter().copied();
        let others = |one: &Subscribed| !std::ptr::addr_eq(one.subscriber, subscriber);
        reader.subscribers = subscribers.filter(others).collect();
    }

    /// Its source is its user's, and may be another. Not where its clock would go back: each
    /// runtime of a test may have a clock of its own.
    pub(crate) fn may_be_given(&self, background: bool) -> bool {
        self.given && self.background == background && self.now() >= self.tick()
    }

    /// Samples this source from now on.
    pub(crate) fn give(&self, source: Box<dyn MemorySource>) {
        let new = Watched::new(None, source);
        let old = std::mem::replace(&mut self.reader().sources[0], new);
        foreign::call(Code::Source, || drop(old));
    }
}
