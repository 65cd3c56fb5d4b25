//! Counting lists and objects: their brackets, commas and colons.

use serde::ser::{self, Serialize, SerializeMap, SerializeStruct, Serializer};

use super::key::Key;
use super::{Counter, Stop};

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
    fn comma(&mut self) -> Result<(), Stop> {
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
            type Error = Stop;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
                self.comma()?;
                value.serialize(&mut *self.counter)
            }

            #[inline]
            fn end(self) -> Result<(), Stop> {
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
    type Error = Stop;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Stop> {
        self.comma()?;
        Key::count(self.counter, key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
        self.counter.add(1)?;
        value.serialize(&mut *self.counter)
    }

    #[inline]
    fn end(self) -> Result<(), Stop> {
        self.counter.add(self.end)
    }
}

impl SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = Stop;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        if let Some(name) = self.magic {
            return self.counter.written(&Magic { name, key, value });
        }
        self.comma()?;
        self.counter.text(key)?;
        self.serialize_value(value)
    }

    #[inline]
    fn end(self) -> Result<(), Stop> {
        self.counter.add(self.end)
    }
}

impl ser::SerializeStructVariant for Compound<'_> {
    type Ok = ();
    type Error = Stop;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        SerializeStruct::serialize_field(self, key, value)
    }

    fn end(self) -> Result<(), Stop> {
        self.counter.add(self.end)
    }
}

/// A struct of one field, as it came.
struct Magic<'a, T: ?Sized> {
    name: &'static str,
    key: &'static str,
    value: &'a T,
}

impl<T: Serialize + ?Sized> Serialize for Magic<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut magic = serializer.serialize_struct(self.name, 1)?;
        magic.serialize_field(self.key, self.value)?;
        magic.end()
    }
}
