//! How a payload becomes the bytes of a message.
//!
//! A document or an array is published as plain JSON, the way a consumer in any language expects
//! it: ids and UUIDs as strings, dates as RFC 3339, 128-bit decimals as strings, 64-bit integers as
//! numbers, binary as base64. There is no `{"$oid": …}`. A string or binary payload goes out byte
//! for byte.
//!
//! Types without a plain form in JSON (code, regular expressions, min and max key, …) are refused
//! rather than guessed: a consumer could not tell what they were. So are NaN and the infinities.

use std::io::Write;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::{Bson, RawArray, RawBsonRef, RawDocument};

/// Deepest nesting of documents and arrays in a payload: MongoDB's own limit for a document is 100
/// levels.
pub const MAX_DEPTH: usize = 100;

/// The dates that RFC 3339 can write, in milliseconds since 1970: the years 0 to 9999.
const RFC_3339_MILLIS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;
const BAD_DATE: &str = "date outside the years 0 to 9999";

/// Why a payload can't be turned into bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Neither a document, an array, a string nor binary.
    #[error("it is of type {0}; a payload is a document, an array, a string or binary")]
    Kind(&'static str),
    /// A value inside it has no plain form in JSON.
    #[error("a value of type {0} has no plain form in JSON")]
    NotJson(&'static str),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("it is nested deeper than 100 levels")]
    TooDeep,
    /// Not valid BSON, or could not be serialised to BSON.
    #[error("not valid BSON")]
    Bson(#[from] bson::error::Error),
}

/// The bytes a payload is published as.
///
/// # Errors
/// [`PayloadError`]; never panics, whatever the bytes of `payload` are.
pub fn to_bytes(payload: RawBsonRef<'_>) -> Result<Vec<u8>, PayloadError> {
    match payload {
        RawBsonRef::String(text) => Ok(text.as_bytes().to_vec()),
        RawBsonRef::Binary(binary) => Ok(binary.bytes.to_vec()),
        RawBsonRef::Document(document) => {
            // JSON of typical events is about as long as their BSON.
            let mut out = Vec::with_capacity(document.as_bytes().len());
            write_document(&mut out, document, 1)?;
            Ok(out)
        }
        RawBsonRef::Array(array) => {
            let mut out = Vec::with_capacity(array.as_bytes().len());
            write_array(&mut out, array, 1)?;
            Ok(out)
        }
        other => Err(PayloadError::Kind(type_name(other))),
    }
}

/// The length of a payload as published, in bytes.
pub fn published_len(payload: &Bson) -> Result<usize, PayloadError> {
    match payload {
        Bson::String(text) => Ok(text.len()),
        Bson::Binary(binary) => Ok(binary.bytes.len()),
        Bson::Document(document) => {
            let raw = bson::serialize_to_raw_document_buf(document)?;
            Ok(to_bytes(RawBsonRef::Document(&raw))?.len())
        }
        Bson::Array(_) => {
            let raw = bson::serialize_to_raw_document_buf(&bson::doc! { "array": payload })?;
            match raw.get("array") {
                Ok(Some(array)) => Ok(to_bytes(array)?.len()),
                _ => Err(PayloadError::Kind("array")),
            }
        }
        other => Err(PayloadError::Kind(bson_type_name(other))),
    }
}

fn write_document(
    out: &mut Vec<u8>,
    document: &RawDocument,
    depth: usize,
) -> Result<(), PayloadError> {
    if depth > MAX_DEPTH {
        return Err(PayloadError::TooDeep);
    }

    out.push(b'{');
    for (i, element) in document.iter().enumerate() {
        let (name, value) = element?;
        if i > 0 {
            out.push(b',');
        }

        write_string(out, name.as_str());
        out.push(b':');
        write_value(out, value, depth)?;
    }

    out.push(b'}');
    Ok(())
}

fn write_array(out: &mut Vec<u8>, array: &RawArray, depth: usize) -> Result<(), PayloadError> {
    if depth > MAX_DEPTH {
        return Err(PayloadError::TooDeep);
    }

    out.push(b'[');
    for (i, value) in array.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_value(out, value?, depth)?;
    }

    out.push(b']');
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: RawBsonRef<'_>, depth: usize) -> Result<(), PayloadError> {
    match value {
        RawBsonRef::Document(document) => write_document(out, document, depth + 1)?,
        RawBsonRef::Array(array) => write_array(out, array, depth + 1)?,
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => write_string(out, text),
        RawBsonRef::Null | RawBsonRef::Undefined => out.extend_from_slice(b"null"),
        RawBsonRef::Boolean(true) => out.extend_from_slice(b"true"),
        RawBsonRef::Boolean(false) => out.extend_from_slice(b"false"),
        RawBsonRef::Int32(number) => write_display(out, format_args!("{number}")),
        RawBsonRef::Int64(number) => write_display(out, format_args!("{number}")),
        RawBsonRef::Double(number) if number.is_finite() => write_json(out, &number),
        RawBsonRef::Decimal128(number) => write_display(out, format_args!("\"{number}\"")),
        RawBsonRef::ObjectId(id) => write_display(out, format_args!("\"{id}\"")),
        RawBsonRef::DateTime(date) if RFC_3339_MILLIS.contains(&date.timestamp_millis()) => {
            write_string(
                out,
                &date.try_to_rfc3339_string().map_err(|_| PayloadError::NotJson(BAD_DATE))?,
            );
        }
        RawBsonRef::DateTime(_) => return Err(PayloadError::NotJson(BAD_DATE)),
        RawBsonRef::Binary(binary) => match (binary.subtype, binary.bytes.try_into()) {
            (bson::spec::BinarySubtype::Uuid, Ok(bytes)) => {
                write_display(out, format_args!("\"{}\"", bson::Uuid::from_bytes(bytes)));
            }
            _ => write_display(
                out,
                format_args!("\"{}\"", Base64Display::new(binary.bytes, &BASE64)),
            ),
        },
        other => return Err(PayloadError::NotJson(type_name(other))),
    }
    Ok(())
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    write_json(out, text);
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("text and finite numbers are JSON, and a Vec takes all that is written");
}

fn write_display(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes all that is written");
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
mod tests {
    use bson::{Bson, doc, oid::ObjectId, spec::BinarySubtype};

    use super::*;

    fn published(payload: bson::Document) -> Result<String, PayloadError> {
        let raw = bson::serialize_to_raw_document_buf(&payload).expect("a document is BSON");
        to_bytes(RawBsonRef::Document(&raw))
            .map(|bytes| String::from_utf8(bytes).expect("JSON is UTF-8"))
    }

    #[test]
    fn a_document_is_published_as_the_json_a_consumer_expects() {
        let id = ObjectId::parse_str("6745f0a1b2c3d4e5f6a7b8c9").unwrap();
        let uuid = bson::Uuid::parse_str("67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        let payload = doc! {
            "id": id,
            "uuid": uuid,
            "at": bson::DateTime::from_millis(1_700_000_000_123),
            "price": 5_i32,
            "big": i64::MAX,
            "rate": 0.1,
            "amount": Bson::Decimal128("12.30".parse().unwrap()),
            "blob": Bson::Binary(bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] }),
            "nested": { "list": [1, "two", null, true] },
            "text": "quote \" slash \\ \u{1} é",
        };

        let text = published(payload).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "id": "6745f0a1b2c3d4e5f6a7b8c9",
                "uuid": "67e55044-10b1-426f-9247-bb680e5fe0c8",
                "at": "2023-11-14T22:13:20.123Z",
                "price": 5,
                "big": i64::MAX,
                "rate": 0.1,
                "amount": "12.30",
                "blob": "AP8=",
                "nested": { "list": [1, "two", null, true] },
                "text": "quote \" slash \\ \u{1} é",
            })
        );
    }

    #[test]
    fn what_has_no_plain_form_is_refused() {
        for value in [
            Bson::MinKey,
            Bson::MaxKey,
            Bson::JavaScriptCode("x".into()),
            Bson::Timestamp(bson::Timestamp { time: 1, increment: 1 }),
            Bson::Double(f64::NAN),
            Bson::Double(f64::INFINITY),
            Bson::DateTime(bson::DateTime::MAX),
        ] {
            assert!(
                matches!(published(doc! { "x": value.clone() }), Err(PayloadError::NotJson(_))),
                "{value:?}"
            );
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut payload = doc! {};
        for _ in 1..MAX_DEPTH {
            payload = doc! { "d": payload };
        }
        assert!(published(payload.clone()).is_ok());
        assert!(matches!(published(doc! { "d": payload }), Err(PayloadError::TooDeep)));
    }

    #[test]
    fn text_and_binary_go_out_byte_for_byte() {
        assert_eq!(to_bytes(RawBsonRef::String("{not json")).unwrap(), b"{not json");
        assert_eq!(published_len(&Bson::String("abc".into())).unwrap(), 3);
        assert_eq!(published_len(&Bson::Array(vec![1.into(), 2.into()])).unwrap(), "[1,2]".len());
    }
}
