//! How a payload becomes the bytes of a message.
//!
//! A document or an array is published as plain JSON, the way a consumer in any language expects
//! it: ids and UUIDs as strings, dates as RFC 3339, 128-bit decimals as strings, 64-bit integers as
//! numbers, binary as base64. There is no `{"$oid": …}`. A string or binary payload goes out byte
//! for byte.
//!
//! Doubles are written as JavaScript's `JSON.stringify` writes them: the shortest digits that name
//! the number, and a whole number without `.0`. A writer whose language has only doubles, such as
//! Node, means an integer by a whole one, and a consumer with integers must be able to read it.
//!
//! Types without a plain form in JSON (code, regular expressions, min and max key, …) are refused
//! rather than guessed: a consumer could not tell what they were. So are NaN and the infinities,
//! as doubles and as decimals. The error names the path of the value.
//!
//! Only binary of subtype 4 is a UUID. The byte order of subtype 3 depends on the driver that wrote
//! it, so it is published as bytes, like any other binary.

use std::fmt;
use std::io::Write;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::{Bson, Decimal128, RawArray, RawBsonRef, RawDocument};

use crate::field;

/// Deepest nesting of documents and arrays in a payload: MongoDB's own limit for a document is 100
/// levels.
pub const MAX_DEPTH: usize = 100;

/// The dates that RFC 3339 can write, in milliseconds since 1970: the years 0 to 9999.
const RFC_3339_MILLIS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;
const BAD_DATE: &str = "a date outside the years 0 to 9999";
/// About how long a path in an error may be. Of a longer one, the outer part is left out.
const MAX_PATH_BYTES: usize = 256;
/// Characters of one name in a path.
const MAX_NAME_CHARS: usize = 64;

/// Why a payload can't be turned into bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Neither a document, an array, a string nor binary.
    #[error("it is of type {0}; a payload is a document, an array, a string or binary")]
    Kind(&'static str),
    /// A value inside it has no plain form in JSON.
    #[error("{path} is {what}; it has no plain form in JSON")]
    NotJson {
        /// Where the value is, such as `payload.items[3].price`.
        path: String,
        /// What the value is, such as `NaN` or `of type regex`.
        what: &'static str,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("it is nested deeper than 100 levels")]
    TooDeep,
    /// Longer, as published, than the limit that [`to_bytes_within`] was given.
    #[error("it is longer than {0} bytes as published")]
    TooLong(usize),
    /// Not valid BSON, or could not be serialised to BSON.
    #[error("not valid BSON")]
    Bson(#[from] bson::error::Error),
}

/// One step of a path: into a field, or into an array.
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

impl PayloadError {
    fn not_json(what: &'static str) -> Self {
        Self::NotJson { path: String::new(), what }
    }

    /// The same error, seen from the document or array that the value is in. Called on the way out
    /// of a refused value, so that a payload without one pays nothing.
    #[cold]
    fn within(self, step: &Step<'_>) -> Self {
        match self {
            Self::NotJson { path, what } if path.len() < MAX_PATH_BYTES => {
                Self::NotJson { path: format!("{step}{path}"), what }
            }
            Self::NotJson { path, what } if !path.starts_with('…') => {
                Self::NotJson { path: format!("…{path}"), what }
            }
            other => other,
        }
    }

    /// The same error with the name of the payload's field at the start of the path.
    #[cold]
    fn of_field(self, field: &str) -> Self {
        match self {
            Self::NotJson { path, what } => {
                Self::NotJson { path: format!("{}{path}", Name(field)), what }
            }
            other => other,
        }
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Name(name) if is_plain(name) => write!(f, ".{name}"),
            Self::Name(name) => write!(f, "[{}]", Name(name)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A field's name in a path: in quotes, escaped and shortened, where it could be misread.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_plain(self.0) {
            return f.write_str(self.0);
        }
        write!(f, "{:?}", self.0.chars().take(MAX_NAME_CHARS).collect::<String>())
    }
}

fn is_plain(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b'$';
    name.len() <= MAX_NAME_CHARS
        && name.bytes().next().is_some_and(is_letter)
        && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// The bytes that the payload in `field` is published as.
///
/// # Errors
/// [`PayloadError`]; never panics, whatever the bytes of `payload` are.
pub fn to_bytes(payload: RawBsonRef<'_>, field: &str) -> Result<Vec<u8>, PayloadError> {
    to_bytes_within(payload, field, usize::MAX)
}

/// The same, unless that is more than `most` bytes. Never has more than about that in memory: the
/// JSON of a document may be six times as long as its BSON.
///
/// # Errors
/// [`PayloadError`]; never panics, whatever the bytes of `payload` are.
pub fn to_bytes_within(
    payload: RawBsonRef<'_>,
    field: &str,
    most: usize,
) -> Result<Vec<u8>, PayloadError> {
    write_payload(payload, most).map_err(|error| error.of_field(field))
}

fn write_payload(payload: RawBsonRef<'_>, most: usize) -> Result<Vec<u8>, PayloadError> {
    let copied = |bytes: &[u8]| match bytes.len() {
        len if len > most => Err(PayloadError::TooLong(most)),
        _ => Ok(bytes.to_vec()),
    };

    match payload {
        RawBsonRef::String(text) => copied(text.as_bytes()),
        RawBsonRef::Binary(binary) => copied(binary.bytes),
        RawBsonRef::Document(document) => {
            let mut out = Json::new(document.as_bytes().len(), most);
            write_document(&mut out, document, 1)?;
            Ok(out.bytes)
        }
        RawBsonRef::Array(array) => {
            let mut out = Json::new(array.as_bytes().len(), most);
            write_array(&mut out, array, 1)?;
            Ok(out.bytes)
        }
        other => Err(PayloadError::Kind(type_name(other))),
    }
}

/// JSON of at most so many bytes.
struct Json {
    bytes: Vec<u8>,
    most: usize,
}

impl Json {
    /// JSON of typical events is about as long as their BSON.
    fn new(bson_len: usize, most: usize) -> Self {
        Self { bytes: Vec::with_capacity(bson_len.min(most)), most }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PayloadError> {
        if bytes.len() > self.most - self.bytes.len() {
            return Err(PayloadError::TooLong(self.most));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn write_display(&mut self, text: fmt::Arguments<'_>) -> Result<(), PayloadError> {
        // Nothing that is written so fails to be formatted.
        self.write_fmt(text).map_err(|_| PayloadError::TooLong(self.most))
    }

    fn write_string(&mut self, text: &str) -> Result<(), PayloadError> {
        let most = self.most;
        serde_json::to_writer(self, text).map_err(|_| PayloadError::TooLong(most))
    }
}

impl Write for Json {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::write(self, bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The length of a payload as published, in bytes.
pub fn published_len(payload: &Bson) -> Result<usize, PayloadError> {
    match payload {
        Bson::String(text) => Ok(text.len()),
        Bson::Binary(binary) => Ok(binary.bytes.len()),
        Bson::Document(document) => {
            let raw = bson::serialize_to_raw_document_buf(document)?;
            Ok(to_bytes(RawBsonRef::Document(&raw), field::PAYLOAD)?.len())
        }
        Bson::Array(_) => {
            let raw = bson::serialize_to_raw_document_buf(&bson::doc! { "array": payload })?;
            match raw.get("array") {
                Ok(Some(array)) => Ok(to_bytes(array, field::PAYLOAD)?.len()),
                _ => Err(PayloadError::Kind("array")),
            }
        }
        other => Err(PayloadError::Kind(bson_type_name(other))),
    }
}

fn write_document(
    out: &mut Json,
    document: &RawDocument,
    depth: usize,
) -> Result<(), PayloadError> {
    if depth > MAX_DEPTH {
        return Err(PayloadError::TooDeep);
    }

    out.write(b"{")?;
    for (i, element) in document.iter().enumerate() {
        let (name, value) = element?;
        if i > 0 {
            out.write(b",")?;
        }

        out.write_string(name.as_str())?;
        out.write(b":")?;
        write_value(out, value, depth).map_err(|error| error.within(&Step::Name(name.as_str())))?;
    }

    out.write(b"}")?;
    Ok(())
}

fn write_array(out: &mut Json, array: &RawArray, depth: usize) -> Result<(), PayloadError> {
    if depth > MAX_DEPTH {
        return Err(PayloadError::TooDeep);
    }

    out.write(b"[")?;
    for (i, value) in array.into_iter().enumerate() {
        if i > 0 {
            out.write(b",")?;
        }
        write_value(out, value?, depth).map_err(|error| error.within(&Step::Index(i)))?;
    }

    out.write(b"]")?;
    Ok(())
}

fn write_value(out: &mut Json, value: RawBsonRef<'_>, depth: usize) -> Result<(), PayloadError> {
    match value {
        RawBsonRef::Document(document) => write_document(out, document, depth + 1)?,
        RawBsonRef::Array(array) => write_array(out, array, depth + 1)?,
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => out.write_string(text)?,
        RawBsonRef::Null | RawBsonRef::Undefined => out.write(b"null")?,
        RawBsonRef::Boolean(true) => out.write(b"true")?,
        RawBsonRef::Boolean(false) => out.write(b"false")?,
        RawBsonRef::Int32(number) => out.write_display(format_args!("{number}"))?,
        RawBsonRef::Int64(number) => out.write_display(format_args!("{number}"))?,
        RawBsonRef::Double(number) => write_double(out, number)?,
        RawBsonRef::Decimal128(number) => {
            if let Some(what) = not_a_number(number) {
                return Err(PayloadError::not_json(what));
            }
            out.write_display(format_args!("\"{number}\""))?;
        }
        RawBsonRef::ObjectId(id) => out.write_display(format_args!("\"{id}\""))?,
        RawBsonRef::DateTime(date) if RFC_3339_MILLIS.contains(&date.timestamp_millis()) => {
            let date = date.try_to_rfc3339_string();
            out.write_string(&date.map_err(|_| PayloadError::not_json(BAD_DATE))?)?;
        }
        RawBsonRef::DateTime(_) => return Err(PayloadError::not_json(BAD_DATE)),
        RawBsonRef::Binary(binary) => match (binary.subtype, binary.bytes.try_into()) {
            (bson::spec::BinarySubtype::Uuid, Ok(bytes)) => {
                out.write_display(format_args!("\"{}\"", bson::Uuid::from_bytes(bytes)))?;
            }
            _ => out
                .write_display(format_args!("\"{}\"", Base64Display::new(binary.bytes, &BASE64)))?,
        },
        RawBsonRef::RegularExpression(_) => return Err(PayloadError::not_json("of type regex")),
        RawBsonRef::JavaScriptCode(_) => return Err(PayloadError::not_json("of type javascript")),
        RawBsonRef::JavaScriptCodeWithScope(_) => {
            return Err(PayloadError::not_json("of type javascriptWithScope"));
        }
        RawBsonRef::Timestamp(_) => return Err(PayloadError::not_json("of type timestamp")),
        RawBsonRef::DbPointer(_) => return Err(PayloadError::not_json("of type dbPointer")),
        RawBsonRef::MinKey => return Err(PayloadError::not_json("of type minKey")),
        RawBsonRef::MaxKey => return Err(PayloadError::not_json("of type maxKey")),
    }
    Ok(())
}

/// A double as it stands in JSON, written as `JSON.stringify` does; `None` for NaN and the
/// infinities.
pub fn double(number: f64) -> Option<String> {
    number.is_finite().then(|| ryu_js::Buffer::new().format_finite(number).to_owned())
}

/// As `JSON.stringify` writes it.
fn write_double(out: &mut Json, number: f64) -> Result<(), PayloadError> {
    if number.is_nan() {
        return Err(PayloadError::not_json("NaN"));
    }

    if number.is_infinite() {
        return Err(PayloadError::not_json(if number > 0.0 { "Infinity" } else { "-Infinity" }));
    }

    out.write(ryu_js::Buffer::new().format_finite(number).as_bytes())
}

/// What a decimal is that has no digits. The type's bits 58 to 62 say so.
fn not_a_number(number: Decimal128) -> Option<&'static str> {
    let [.., highest] = number.bytes();
    match (highest & 0x7c, highest & 0x80) {
        (0x7c, _) => Some("a decimal NaN"),
        (0x78, 0) => Some("a decimal Infinity"),
        (0x78, _) => Some("a decimal -Infinity"),
        _ => None,
    }
}

/// The type of a value in MongoDB's own words (`$type` aliases).
pub fn type_name(value: RawBsonRef<'_>) -> &'static str {
    element_type_name(value.element_type())
}

fn bson_type_name(value: &Bson) -> &'static str {
    element_type_name(value.element_type())
}

fn element_type_name(kind: bson::spec::ElementType) -> &'static str {
    use bson::spec::ElementType as T;
    match kind {
        T::Double => "double",
        T::String => "string",
        T::EmbeddedDocument => "document",
        T::Array => "array",
        T::Binary => "binary",
        T::Undefined => "undefined",
        T::ObjectId => "objectId",
        T::Boolean => "bool",
        T::DateTime => "date",
        T::Null => "null",
        T::RegularExpression => "regex",
        T::DbPointer => "dbPointer",
        T::JavaScriptCode => "javascript",
        T::Symbol => "symbol",
        T::JavaScriptCodeWithScope => "javascriptWithScope",
        T::Int32 => "int",
        T::Timestamp => "timestamp",
        T::Int64 => "long",
        T::Decimal128 => "decimal",
        T::MinKey => "minKey",
        T::MaxKey => "maxKey",
    }
}

#[cfg(test)]
mod numbers;
#[cfg(test)]
mod tests;
