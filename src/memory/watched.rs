//! A source that is sampled.

use std::io;
use std::path::PathBuf;

use super::{Detail, MemorySource, Sample, Source};
use crate::sync::foreign::{self, Code};

/// What is measured, for guards that share it.
pub(crate) type Named = (Source, Option<PathBuf>);

/// A source, and what it said last.
pub(super) struct Watched {
    /// `None`: the user's own.
    pub(super) name: Option<Named>,
    pub(super) source: Box<dyn MemorySource>,
    pub(super) sample: Sample,
    pub(super) read: io::Result<()>,
}

impl Watched {
    pub(super) fn new(name: Option<Named>, source: Box<dyn MemorySource>) -> Self {
        Self {
            name,
            source,
            sample: Sample::default(),
            read: Ok(()),
        }
    }

    pub(super) fn read(&mut self, detail: Detail) {
        let Self { source, sample, .. } = self;
        sample.clear();
        // A source may be the user's.
        let read = foreign::call(Code::Source, || source.read(detail, sample));
        self.read = read.unwrap_or_else(|| Err(io::Error::other("the memory source panicked")));
    }
}
