//! Writing no more than the limit.

use std::io;

use serde::Serialize;

use super::{Error, ResultTooLarge, json_len};

/// The result as JSON, if it is no longer than `limit` bytes.
///
/// Two passes: the first counts, the second writes into a buffer of that size.
/// The second keeps to the limit too, since a value may change in between.
/// Where results seldom pass the limit,
/// [`to_json_in_one_pass`] is the faster one.
///
/// # Errors
///
/// [`Error::TooLarge`] at the first byte over the limit; next to nothing was
/// allocated before it. [`Error::Serialize`] if the value has no JSON form.
pub fn to_json<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<Vec<u8>, Error> {
    let length = json_len(value, limit)?;
    let mut writer = Exact {
        // Zeroed memory costs nothing: the system's pages are.
        buffer: vec![0; usize::try_from(length).unwrap_or(usize::MAX)],
        at: 0,
    };
    match serde_json::to_writer(&mut writer, value) {
        Ok(()) => {
            writer.buffer.truncate(writer.at);
            Ok(writer.buffer)
        }
        // Longer than it was: what matters then is the limit.
        Err(error) if error.is_io() => to_json_in_one_pass(value, limit),
        Err(error) => Err(Error::Serialize(error)),
    }
}

/// The result as JSON, if it is no longer than `limit` bytes, without counting first.
///
/// # Errors
///
/// As [`to_json`]; up to `limit` bytes were written before it.
pub fn to_json_in_one_pass<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<Vec<u8>, Error> {
    let mut writer = Bounded {
        buffer: Vec::with_capacity(128),
        // What does not fit an address does not fit memory either.
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

/// Writes over a buffer that is there: one comparison for each piece, where to
/// append to a vector takes one for the limit and one for its capacity.
struct Exact {
    buffer: Vec<u8>,
    at: usize,
}

impl io::Write for Exact {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.at + bytes.len();
        let room = self.buffer.get_mut(self.at..end);
        room.ok_or(io::ErrorKind::FileTooLarge)?
            .copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bounded {
    /// Never longer than the limit.
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
