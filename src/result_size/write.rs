//! Writing no more than the limit.

use std::io;

use serde::Serialize;

use super::{Error, ResultTooLarge};

/// Length of the result as JSON in bytes, if it is no more than `limit`.
///
/// The same as `serde_json::to_vec(value)?.len()`, without the vector.
///
/// # Errors
///
/// As [`to_json`].
pub fn json_len<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<u64, Error> {
    Ok(write(value, io::sink(), limit)?.reached)
}

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
    let buffer = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(write(value, buffer, limit)?.to)
}

/// The result as JSON, if it is no longer than `limit` bytes, without counting first.
///
/// # Errors
///
/// As [`to_json`]; up to `limit` bytes were written before it.
pub fn to_json_in_one_pass<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<Vec<u8>, Error> {
    Ok(write(value, Vec::with_capacity(128), limit)?.to)
}

fn write<T: Serialize + ?Sized, W: io::Write>(
    value: &T,
    to: W,
    limit: u64,
) -> Result<Bounded<W>, Error> {
    let mut bounded = Bounded {
        to,
        limit,
        reached: 0,
    };
    match serde_json::to_writer(&mut bounded, value) {
        _ if bounded.reached > limit => {
            let error = ResultTooLarge::new(limit, bounded.reached);
            Err(Error::TooLarge(error))
        }
        Ok(()) => Ok(bounded),
        Err(error) => Err(Error::Serialize(error)),
    }
}

struct Bounded<W> {
    /// Gets no more than the limit.
    to: W,
    limit: u64,
    /// What was refused included.
    reached: u64,
}

impl<W: io::Write> io::Write for Bounded<W> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reached += bytes.len() as u64;
        if self.reached > self.limit {
            // A kind alone allocates nothing.
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
