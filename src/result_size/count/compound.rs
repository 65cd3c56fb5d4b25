//! Counting lists and objects: their brackets, commas and colons.

use std::fmt;

use serde::ser::{self, Serialize, SerializeMap, SerializeStruct, Serializer};

use super::Counter;

/// A list or an object that has begun.
pub(super) struct Compound<'a> {
    counter: &'a mut Counter,
    any: bool,
    /// Bytes that end it.
    end: usize,
    /// It is one of serde_json's own, which only serde_json can write.
    magic: Option<&'static str>,
}

impl<'a> Compound<'a> {
    #[inline]
    pub(super) fn new(counter: &'a mut Counter, end: usize) -> Self {
        Self {
            counter,
            any: false,
            end,
            magic: None,
        }
    }

    pub(super) fn magic(counter: &'a mut Counter, name: &'static str) -> Self {
        Self {
            magic: Some(name),
            ..Self::new(counter, 0)
        }
    }

    #[inline]
    fn comma(&mut self) -> fmt::Result {
        if std::mem::replace(&mut self.any, true) {
            self.counter.add(1)
        } else {
            Ok(())
        }
    }
}

macro_rules! lists {
    ($($kind:ident: $method:ident,)*) => {$(
        impl ser::$kind for Compound<'_> {
            type Ok = ();
            type Error = fmt::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
                self.comma()?;
                value.serialize(&mut *self.counter)
            }

            #[inline]
            fn end(self) -> fmt::Result {
                self.counter.add(self.end)
            }
        }
    )*};
}

lists! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

impl SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = fmt::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> fmt::Result {
        self.comma()?;
        self.counter.key(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
        self.counter.add(1)?;
        value.serialize(&mut *self.counter)
    }

    #[inline]
    fn end(self) -> fmt::Result {
        self.counter.add(self.end)
    }
}

impl SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = fmt::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> fmt::Result {
        if let Some(name) = self.magic {
            let mut json = serde_json::Serializer::new(&mut *self.counter);
            let mut magic = json.serialize_struct(name, 1).map_err(|_| fmt::Error)?;
            let written = SerializeStruct::serialize_field(&mut magic, key, value);
            return written.map_err(|_| fmt::Error);
        }
        self.comma()?;
        self.counter.text(key)?;
        self.serialize_value(value)
    }

    #[inline]
    fn end(self) -> fmt::Result {
        self.counter.add(self.end)
    }
}

impl ser::SerializeStructVariant for Compound<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> fmt::Result {
        SerializeStruct::serialize_field(self, key, value)
    }

    fn end(self) -> fmt::Result {
        self.counter.add(self.end)
    }
}
