//! Counting what serde_json would write.
//!
//! serde_json itself walks the value, so that the count is right for every value
//! that it can write: escapes, keys that are no strings, raw values. Only what
//! it writes is replaced: numbers whose length can be told without their digits
//! are not formatted, and nothing is kept.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Error, ResultTooLarge};

pub(super) fn json_len<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<u64, Error> {
    let mut counter = Counter { length: 0, limit };
    let mut serializer = Serializer::with_formatter(&mut counter, Lengths);
    match value.serialize(&mut serializer) {
        Ok(()) => Ok(counter.length),
        Err(error) => Err(counter.explain(error)),
    }
}

struct Counter {
    length: u64,
    limit: u64,
}

impl Counter {
    fn explain(&self, error: serde_json::Error) -> Error {
        if self.length > self.limit {
            Error::TooLarge(ResultTooLarge::new(self.limit, self.length))
        } else {
            Error::Serialize(error)
        }
    }
}

impl io::Write for Counter {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        if self.length > self.limit {
            // A kind alone allocates nothing.
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As many bytes as there may be digits and a sign.
const DIGITS: &[u8; 20] = b"00000000000000000000";

/// Writes something of the right length instead of the number.
struct Lengths;

fn unsigned<W: io::Write + ?Sized>(writer: &mut W, value: u64) -> io::Result<()> {
    let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
    writer.write_all(&DIGITS[..digits])
}

fn signed<W: io::Write + ?Sized>(writer: &mut W, value: i64) -> io::Result<()> {
    let digits = value.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
    writer.write_all(&DIGITS[..digits + usize::from(value < 0)])
}

macro_rules! integers {
    ($($method:ident: $type:ty => $count:ident,)*) => {$(
        #[inline]
        fn $method<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: $type) -> io::Result<()> {
            $count(writer, value.into())
        }
    )*};
}

impl Formatter for Lengths {
    integers! {
        write_i8: i8 => signed,
        write_i16: i16 => signed,
        write_i32: i32 => signed,
        write_i64: i64 => signed,
        write_u8: u8 => unsigned,
        write_u16: u16 => unsigned,
        write_u32: u32 => unsigned,
        write_u64: u64 => unsigned,
    }
}
