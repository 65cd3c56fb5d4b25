//! Counting what serde_json would write, without writing it.
//!
//! Texts are scanned for what must be escaped, whole numbers have as many digits
//! as their logarithm says, and the rest (fractions, keys that are no strings,
//! raw values) is written by serde_json itself into a writer that only counts.

mod compound;

use std::fmt;
use std::io;

use serde::ser::{Serialize, Serializer};

use compound::Compound;

use super::{Error, ResultTooLarge, escape};

/// Length of the result as JSON in bytes, if it is no more than `limit`.
///
/// The same as `serde_json::to_vec(value)?.len()`, without the vector.
///
/// # Errors
///
/// As [`to_json`](super::to_json).
pub fn json_len<T: Serialize + ?Sized>(value: &T, limit: u64) -> Result<u64, Error> {
    let mut counter = Counter::new(limit);
    let mut counted = value.serialize(&mut counter).map_err(|_| None);
    if counted.is_err() && counter.length <= limit {
        // Why it has no JSON form, in serde_json's words.
        counter = Counter::new(limit);
        counted = serde_json::to_writer(&mut counter, value).map_err(Some);
    }
    match counted {
        Ok(()) => Ok(counter.length),
        Err(Some(error)) if counter.length <= limit => Err(Error::Serialize(error)),
        Err(_) => Err(Error::TooLarge(ResultTooLarge::new(limit, counter.length))),
    }
}

/// Stops with an error that says nothing: above the limit, or at what has no JSON form.
struct Counter {
    length: u64,
    limit: u64,
    /// As far as it is of texts.
    texts: u64,
}

impl Counter {
    fn new(limit: u64) -> Self {
        Self {
            length: 0,
            limit,
            texts: 0,
        }
    }

    #[inline]
    fn add(&mut self, bytes: usize) -> fmt::Result {
        self.length += bytes as u64;
        if self.length > self.limit {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }

    /// A text in quotes, with what escaping adds to it.
    #[inline]
    fn text(&mut self, text: &str) -> fmt::Result {
        let begin = self.length;
        self.add(text.len() + 2)?;
        self.add(escape::added(text))?;
        self.texts += self.length - begin;
        Ok(())
    }

    /// The key of a map.
    #[inline]
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> fmt::Result {
        let (length, texts) = (self.length, self.texts);
        let counted = key.serialize(&mut *self);
        if self.length - length == self.texts - texts {
            return counted;
        }
        self.length = length;
        self.other_key(key)
    }

    /// A key that is no text, as serde_json writes it.
    fn other_key<T: Serialize + ?Sized>(&mut self, key: &T) -> fmt::Result {
        const AROUND: u64 = "{:null}".len() as u64;
        let mut alone = Counter::new((self.limit - self.length).saturating_add(AROUND));
        let written = serde_json::Serializer::new(&mut alone).collect_map([(key, ())]);
        self.length += alone.length.saturating_sub(AROUND);
        written.map_err(|_| fmt::Error)
    }

    /// Counts what serde_json writes.
    fn written<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
        serde_json::to_writer(self, value).map_err(|_| fmt::Error)
    }

    fn begin(&mut self, bytes: usize, end: usize) -> Result<Compound<'_>, fmt::Error> {
        self.add(bytes)?;
        Ok(Compound::new(self, end))
    }

    /// `{"variant":` and what else begins; the braces are among `end`.
    fn variant(&mut self, name: &str, bytes: usize) -> fmt::Result {
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

macro_rules! whole_numbers {
    ($($method:ident: $type:ty,)*) => {$(
        #[inline]
        fn $method(self, value: $type) -> fmt::Result {
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
    type Error = fmt::Error;
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
    fn serialize_bool(self, value: bool) -> fmt::Result {
        self.add(if value { "true".len() } else { "false".len() })
    }

    fn serialize_f32(self, value: f32) -> fmt::Result {
        self.written(&value)
    }

    fn serialize_f64(self, value: f64) -> fmt::Result {
        self.written(&value)
    }

    fn serialize_char(self, value: char) -> fmt::Result {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> fmt::Result {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> fmt::Result {
        self.collect_seq(value)
    }

    #[inline]
    fn serialize_none(self) -> fmt::Result {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> fmt::Result {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> fmt::Result {
        self.add("null".len())
    }

    fn serialize_unit_struct(self, _: &'static str) -> fmt::Result {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> fmt::Result {
        self.text(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> fmt::Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> fmt::Result {
        self.variant(variant, 1)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, fmt::Error> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Compound<'a>, fmt::Error> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, fmt::Error> {
        self.begin(1, 1)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, fmt::Error> {
        self.variant(variant, 0)?;
        self.begin(1, 2)
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a>, fmt::Error> {
        self.begin(1, 1)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Compound<'a>, fmt::Error> {
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
    ) -> Result<Compound<'a>, fmt::Error> {
        self.variant(variant, 0)?;
        self.begin(1, 2)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> fmt::Result {
        self.written(&format_args!("{value}"))
    }
}
