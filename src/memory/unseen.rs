//! Systems whose memory the guard cannot see: it counts and queues there.

use std::io;

use super::{Detail, MemorySource, Sample};

#[derive(Debug)]
pub(super) struct Unseen;

impl MemorySource for Unseen {
    fn read(&mut self, _: Detail, _: &mut Sample) -> io::Result<()> {
        let message = "memory cannot be seen on this system; give a memory_source of your own";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    fn name(&self) -> String {
        "none".into()
    }
}
