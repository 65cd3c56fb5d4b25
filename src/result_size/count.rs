//! Counting what serde_json would write, without writing it.
//!
//! Texts are scanned for what must be escaped, whole numbers have as many digits
//! as their logarithm says, and the rest (fractions, keys that are no strings,
//! raw values) is written by serde_json itself into a writer that only counts.

mod compound;
mod key;

use std::fmt;
use std::io;

use serde::ser::{self, Serialize, SerializeMap, Serializer};

use compound::Compound;

use super::{Error, ResultTooLarge, escape};

pub(super) fn json_len<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<u64, Error> {
    let mut counter = Counter { length: 0, limit };
    match value.serialize(&mut counter) {
        Ok(()) => Ok(counter.length),
        Err(Stop::TooLarge) => Err(Error::TooLarge(ResultTooLarge::new(limit, counter.length))),
        Err(Stop::Serialize(error)) => Err(Error::Serialize(error)),
    }
}

/// Why the count ended early.
#[derive(Debug)]
enum Stop {
    TooLarge,
    Serialize(serde_json::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::TooLarge => f.write_str("larger than the limit"),
            Stop::Serialize(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Stop {}

impl ser::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Stop::Serialize(ser::Error::custom(message))
    }
}

struct Counter {
    length: u64,
    limit: u64,
}

impl Counter {
    #[inline]
    fn add(&mut self, bytes: usize) -> Result<(), Stop> {
        self.length += bytes as u64;
        if self.length > self.limit {
            Err(Stop::TooLarge)
        } else {
            Ok(())
        }
    }

    /// A text in quotes.
    #[inline]
    fn text(&mut self, text: &str) -> Result<(), Stop> {
        self.add(text.len() + 2)?;
        self.escapes(text)
    }

    /// What escaping adds to a text.
    #[inline]
    fn escapes(&mut self, text: &str) -> Result<(), Stop> {
        match escape::added(text) {
            0 => Ok(()),
            bytes => self.add(bytes),
        }
    }

    /// A key that is no text, as serde_json writes it.
    fn other_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Stop> {
        struct Entry<'a, T: ?Sized>(&'a T);
        impl<T: Serialize + ?Sized> Serialize for Entry<'_, T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(self.0, &())?;
                map.end()
            }
        }
        const AROUND: u64 = "{:null}".len() as u64;
        let mut alone = Counter {
            length: 0,
            limit: (self.limit - self.length).saturating_add(AROUND),
        };
        if let Err(stop) = alone.written(&Entry(key)) {
            self.length += alone.length;
            return Err(stop);
        }
        self.add((alone.length - AROUND) as usize)
    }

    /// Counts what serde_json writes.
    fn written<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        let written = serde_json::to_writer(&mut *self, value);
        if self.length > self.limit {
            return Err(Stop::TooLarge);
        }
        written.map_err(Stop::Serialize)
    }

    fn begin(&mut self, bytes: usize, end: usize) -> Result<Compound<'_>, Stop> {
        self.add(bytes)?;
        Ok(Compound::new(self, end))
    }

    /// `{"variant":` and what else begins; the braces are among `end`.
    fn variant(&mut self, name: &str, bytes: usize) -> Result<(), Stop> {
        self.text(name)?;
        self.add(2 + bytes)
    }
}

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.add(bytes.len()) {
            Ok(()) => Ok(bytes.len()),
            // A kind alone allocates nothing.
            Err(_) => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.len())
            .and_then(|()| self.escapes(text))
            .map_err(|_| fmt::Error)
    }
}

macro_rules! whole_numbers {
    ($($method:ident: $type:ty,)*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), Stop> {
            #[allow(unused_comparisons)]
            let sign = usize::from(value < 0);
            // abs_diff: the magnitude, also of the least value.
            let digits = value.abs_diff(0).checked_ilog10().unwrap_or(0) as usize + 1;
            self.add(sign + digits)
        }
    )*};
}

impl<'a> Serializer for &'a mut Counter {
    type Ok = ();
    type Error = Stop;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Compound<'a>;
    type SerializeTupleVariant = Compound<'a>;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Compound<'a>;

    whole_numbers! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Stop> {
        self.add(if value { "true".len() } else { "false".len() })
    }

    fn serialize_f32(self, value: f32) -> Result<(), Stop> {
        self.written(&value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Stop> {
        self.written(&value)
    }

    fn serialize_char(self, value: char) -> Result<(), Stop> {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Stop> {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Stop> {
        self.collect_seq(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Stop> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stop> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Stop> {
        self.add("null".len())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Stop> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Stop> {
        self.text(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        self.variant(variant, 1)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, Stop> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Compound<'a>, Stop> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, Stop> {
        self.begin(1, 1)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, Stop> {
        self.variant(variant, 0)?;
        self.begin(1, 2)
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a>, Stop> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Compound<'a>, Stop> {
        // How serde_json passes raw values and long numbers on to itself.
        if name.starts_with("$serde_json::private::") {
            return Ok(Compound::magic(self, name));
        }
        self.begin(1, 1)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, Stop> {
        self.variant(variant, 0)?;
        self.begin(1, 2)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Stop> {
        self.add(2)?;
        fmt::write(&mut *self, format_args!("{value}")).map_err(|_| {
            if self.length > self.limit {
                Stop::TooLarge
            } else {
                ser::Error::custom("a value could not be displayed")
            }
        })
    }
}
