//! Writing no more than the limit.

use std::io;

use serde::Serialize;

use super::{Error, ResultTooLarge};

/// Writes `value` into a buffer that begins with `length` bytes of room.
pub(super) fn bounded<T: Serialize + ?Sized>(
    value: &T,
    limit: u64,
    length: u64,
) -> Result<Vec<u8>, Error> {
    let mut writer = Bounded {
        // What does not fit an address does not fit memory either.
        buffer: Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX)),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        over: None,
    };
    match serde_json::to_writer(&mut writer, value) {
        Ok(()) => Ok(writer.buffer),
        Err(error) => Err(match writer.over {
            Some(reached) => Error::TooLarge(ResultTooLarge::new(limit, reached)),
            None => Error::Serialize(error),
        }),
    }
}

struct Bounded {
    buffer: Vec<u8>,
    limit: usize,
    /// The length that was refused.
    over: Option<u64>,
}

impl io::Write for Bounded {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The buffer is never longer than the limit.
        if bytes.len() > self.limit - self.buffer.len() {
            self.over = Some(self.buffer.len() as u64 + bytes.len() as u64);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
