//! Counting the key of a map: a text at once, anything else through serde_json.

use serde::ser::{Impossible, Serialize, Serializer};

use super::{Counter, Stop};

/// Takes a text, and says of everything else that it is none.
pub(super) struct Key<'a>(&'a mut Counter);

/// What became of a key.
pub(super) enum NoText {
    Other,
    Stop(Stop),
}

impl Key<'_> {
    #[inline]
    pub(super) fn count<T: Serialize + ?Sized>(counter: &mut Counter, key: &T) -> Result<(), Stop> {
        match key.serialize(Key(counter)) {
            Ok(()) => Ok(()),
            Err(NoText::Other) => counter.other_key(key),
            Err(NoText::Stop(stop)) => Err(stop),
        }
    }
}

impl std::fmt::Debug for NoText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoText")
    }
}

impl std::fmt::Display for NoText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a text")
    }
}

impl std::error::Error for NoText {}

impl serde::ser::Error for NoText {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        NoText::Stop(serde::ser::Error::custom(message))
    }
}

macro_rules! others {
    ($($method:ident($($type:ty),*) -> $ok:ty,)*) => {$(
        fn $method(self, $(_: $type),*) -> Result<$ok, NoText> {
            Err(NoText::Other)
        }
    )*};
}

impl Serializer for Key<'_> {
    type Ok = ();
    type Error = NoText;
    type SerializeSeq = Impossible<(), NoText>;
    type SerializeTuple = Impossible<(), NoText>;
    type SerializeTupleStruct = Impossible<(), NoText>;
    type SerializeTupleVariant = Impossible<(), NoText>;
    type SerializeMap = Impossible<(), NoText>;
    type SerializeStruct = Impossible<(), NoText>;
    type SerializeStructVariant = Impossible<(), NoText>;

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), NoText> {
        self.0.text(text).map_err(NoText::Stop)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), NoText> {
        Err(NoText::Other)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoText> {
        Err(NoText::Other)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoText> {
        Err(NoText::Other)
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, _: &T) -> Result<(), NoText> {
        Err(NoText::Other)
    }

    others! {
        serialize_bool(bool) -> (),
        serialize_i8(i8) -> (),
        serialize_i16(i16) -> (),
        serialize_i32(i32) -> (),
        serialize_i64(i64) -> (),
        serialize_i128(i128) -> (),
        serialize_u8(u8) -> (),
        serialize_u16(u16) -> (),
        serialize_u32(u32) -> (),
        serialize_u64(u64) -> (),
        serialize_u128(u128) -> (),
        serialize_f32(f32) -> (),
        serialize_f64(f64) -> (),
        serialize_char(char) -> (),
        serialize_bytes(&[u8]) -> (),
        serialize_none() -> (),
        serialize_unit() -> (),
        serialize_unit_struct(&'static str) -> (),
        serialize_unit_variant(&'static str, u32, &'static str) -> (),
        serialize_seq(Option<usize>) -> Self::SerializeSeq,
        serialize_tuple(usize) -> Self::SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant,
        serialize_map(Option<usize>) -> Self::SerializeMap,
        serialize_struct(&'static str, usize) -> Self::SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant,
    }
}
