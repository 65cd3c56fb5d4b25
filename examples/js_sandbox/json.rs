//! A script's value as JSON, refused before it is exported if it is too large.
//!
//! The value is walked twice, inside the JavaScript heap: first to count, with
//! an early stop, then to write into a buffer of that size. There is no tree and
//! no JavaScript string in between. Getters and `toJSON` run in both walks and
//! may say something else the second time, so the second keeps to the limit too.
//!
//! Simpler than `JSON.stringify`: boxed primitives and proxies are written as
//! plain objects, and `toJSON` gets no key.

use std::io::Write;

use rquickjs::function::This;
use rquickjs::{CaughtError, CaughtResult, Ctx, Error, Filter, Function, Object, Value};

/// As deep as a value may be nested: each level takes native stack.
const DEEPEST: usize = 64;

pub(crate) enum Refusal<'js> {
    TooLarge,
    Value(&'static str),
    Script(CaughtError<'js>),
}

/// `value` as JSON of at most `limit` bytes.
pub(crate) fn export<'js>(
    ctx: &Ctx<'js>,
    value: &Value<'js>,
    limit: usize,
) -> Result<Vec<u8>, Refusal<'js>> {
    let mut count = Walk::new(ctx, Count(0), limit)?;
    count.value(value)?;
    let mut write = Walk::new(ctx, Vec::with_capacity(count.sink.0), limit)?;
    write.value(value)?;
    Ok(write.sink)
}

/// Where the JSON goes.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
    fn length(&self) -> usize;
}

struct Count(usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn length(&self) -> usize {
        self.0
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn length(&self) -> usize {
        self.len()
    }
}

struct Walk<'a, 'js, S> {
    ctx: &'a Ctx<'js>,
    sink: S,
    limit: usize,
    /// The objects around the present one, to find cycles.
    around: Vec<Object<'js>>,
    /// Length of a string in UTF-16 units, without a copy of it. Not the
    /// script's: made by us, of what it cannot replace.
    string_length: Function<'js>,
}

impl<'a, 'js, S: Sink> Walk<'a, 'js, S> {
    fn new(ctx: &'a Ctx<'js>, sink: S, limit: usize) -> Result<Self, Refusal<'js>> {
        Ok(Self {
            ctx,
            sink,
            limit,
            around: Vec::new(),
            string_length: caught(ctx, ctx.eval("(text) => text.length"))?,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Refusal<'js>> {
        if bytes.len() > self.limit - self.sink.length() {
            return Err(Refusal::TooLarge);
        }
        self.sink.put(bytes);
        Ok(())
    }

    fn value(&mut self, value: &Value<'js>) -> Result<(), Refusal<'js>> {
        if let Some(string) = value.as_string() {
            return self.string(string);
        }
        if let Some(truth) = value.as_bool() {
            return self.put(if truth { b"true" } else { b"false" });
        }
        if let Some(number) = value.as_number() {
            return self.number(number);
        }
        if value.is_big_int() {
            return Err(Refusal::Value("a BigInt has no JSON form"));
        }
        match value.as_object() {
            Some(object) if !value.is_function() => self.object(object),
            // null, undefined, functions, symbols
            _ => self.put(b"null"),
        }
    }

    fn number(&mut self, number: f64) -> Result<(), Refusal<'js>> {
        const WHOLE: f64 = (1_u64 << 53) as f64;
        let mut text = [0; 32];
        let mut rest = &mut text[..];
        let written = if !number.is_finite() {
            return self.put(b"null");
        } else if number.fract() == 0.0 && number.abs() < WHOLE {
            write!(rest, "{}", number as i64)
        } else {
            serde_json::to_writer(&mut rest, &number).map_err(Into::into)
        };
        let left = rest.len();
        written.map_err(|_| Refusal::Value("a number is too long"))?;
        let length = text.len() - left;
        self.put(&text[..length])
    }

    fn string(&mut self, string: &rquickjs::String<'js>) -> Result<(), Refusal<'js>> {
        // Each unit takes a byte at least: no need to look into a long one.
        let units: usize = caught(self.ctx, self.string_length.call((string.clone(),)))?;
        if units > self.limit - self.sink.length() {
            return Err(Refusal::TooLarge);
        }
        let text = match string.to_string() {
            Err(Error::Utf8(_)) => {
                return Err(Refusal::Value(
                    "a string is not Unicode (half of a surrogate pair)",
                ));
            }
            text => caught(self.ctx, text)?,
        };
        self.put(b"\"")?;
        let mut clean = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.put(&text.as_bytes()[clean..at])?;
            clean = at + 1;
            let code;
            self.put(match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                _ => {
                    code = format!("\\u{byte:04x}");
                    code.as_bytes()
                }
            })?;
        }
        self.put(&text.as_bytes()[clean..])?;
        self.put(b"\"")
    }

    fn object(&mut self, object: &Object<'js>) -> Result<(), Refusal<'js>> {
        if self.around.len() >= DEEPEST {
            return Err(Refusal::Value("the result is nested too deeply"));
        }
        if self.around.contains(object) {
            return Err(Refusal::Value("the result is circular"));
        }
        self.around.push(object.clone());
        // Dates, and whatever says how it wants to be written.
        let to_json: Value<'js> = caught(self.ctx, object.get("toJSON"))?;
        match to_json.as_function() {
            Some(to_json) => {
                let own_form: Value<'js> = caught(self.ctx, to_json.call((This(object.clone()),)))?;
                // What it gives is written as it is, without asking it again.
                match own_form.as_object() {
                    Some(form) if !own_form.is_function() => self.members(form)?,
                    _ => self.value(&own_form)?,
                }
            }
            None => self.members(object)?,
        }
        self.around.pop();
        Ok(())
    }

    fn members(&mut self, object: &Object<'js>) -> Result<(), Refusal<'js>> {
        if let Some(array) = object.as_array() {
            self.put(b"[")?;
            // `Array::len` panics above 2³¹ − 1.
            let length: Value<'js> = caught(self.ctx, object.get("length"))?;
            for index in 0..length.as_number().unwrap_or(0.0) as usize {
                if index > 0 {
                    self.put(b",")?;
                }
                let value: Value<'js> = caught(self.ctx, array.get(index))?;
                self.value(&value)?;
            }
            return self.put(b"]");
        }
        self.put(b"{")?;
        let mut first = true;
        for key in object.own_keys::<rquickjs::String<'js>>(Filter::new().string().enum_only()) {
            let key = caught(self.ctx, key)?;
            let value: Value<'js> = caught(self.ctx, object.get(key.clone()))?;
            if value.is_undefined() || value.is_function() || value.is_symbol() {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.put(b",")?;
            }
            self.string(&key)?;
            self.put(b":")?;
            self.value(&value)?;
        }
        self.put(b"}")
    }
}

fn caught<'js, T>(ctx: &Ctx<'js>, result: Result<T, Error>) -> Result<T, Refusal<'js>> {
    let caught: CaughtResult<'js, T> = rquickjs::CatchResultExt::catch(result, ctx);
    caught.map_err(Refusal::Script)
}
