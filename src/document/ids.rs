//! The `_id` of any document: by which it is marked, and how people read it.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::{Bson, RawBson, RawBsonRef, Uuid};
use outboxd_client::event::MAX_ID_BYTES;
use outboxd_client::field;
use sha2::{Digest, Sha256};

use super::json;

/// Largest `_id` of any type by which a document is marked: a thousand marks fit in one command.
pub const MAX_ANY_ID_BYTES: usize = 8 << 10;
/// Longest id that is shown whole. That of an event is never longer.
pub(crate) const MAX_SHOWN_ID: usize = MAX_ID_BYTES;
/// Characters shown of a longer one, before its digest.
const BEGINNING: usize = 24;
/// Between the two.
const LONG: &str = "…sha256:";
/// Bytes of the digest of a long id.
const DIGEST_BYTES: usize = 8;

/// An id as text, for people and for the commands that they paste: each id has a text of its own.
///
/// An id that no event may have is shown as extended JSON, which commands take as well, and so is a
/// string that reads like an id of another type. Of one that is too long the beginning is shown,
/// and a digest, by which commands find it.
pub(crate) fn shown_id(id: &Bson) -> String {
    let text = match id {
        Bson::ObjectId(id) => return id.to_string(),
        Bson::String(id) if is_plain(id) => Cow::from(id),
        Bson::String(id) => quoted(id).into(),
        Bson::Binary(binary) => match binary.to_uuid() {
            Ok(id) => return id.to_string(),
            Err(_) => json::canonical(id).into(),
        },
        other => json::canonical(other).into(),
    };

    if text.chars().nth(MAX_SHOWN_ID).is_none() {
        return text.into_owned();
    }
    let mut shown: String = text.chars().take(BEGINNING).collect();
    shown += LONG;
    shown += &digest(id);
    shown
}

/// The digest in a text that [`shown_id`] made of a long id.
pub(crate) fn digest_of_long(text: &str) -> Option<&str> {
    let (_, digest) = text.rsplit_once(LONG)?;
    let is_digest = digest.len() == 2 * DIGEST_BYTES
        && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then_some(digest)
}

/// The digest of an id, by which a long one is named.
pub(crate) fn digest(id: &Bson) -> String {
    // What was read as BSON is written as BSON.
    let bytes = bson::serialize_to_vec(&bson::doc! { field::ID: id }).unwrap_or_default();
    let digest = Sha256::digest(bytes);
    digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a string is shown as it is: it is visible, and reads like no id of another type.
fn is_plain(id: &str) -> bool {
    let first = id.bytes().next();
    id.bytes().all(|byte| byte.is_ascii_graphic())
        && !matches!(first, None | Some(b'{' | b'"'))
        && !["null", "true", "false"].contains(&id)
        && ObjectId::parse_str(id).is_err()
        && Uuid::parse_str(id).is_err()
}

/// A text as a JSON string of printable ASCII.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            _ => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                ascii.extend(units.into_iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    ascii
}

/// The `_id`, unless it isn't UTF-8 or is over [`MAX_ANY_ID_BYTES`].
pub(crate) fn small_id(id: RawBsonRef<'_>) -> Option<RawBson> {
    // As a value, an id of many fields may be a hundred times as big.
    if size_of_value(id) > MAX_ANY_ID_BYTES {
        return None;
    }

    let as_value = bson::doc! { field::ID: Bson::try_from(id).ok()? };
    let bytes = bson::serialize_to_vec(&as_value).ok()?.len();
    (bytes <= MAX_ANY_ID_BYTES).then(|| RawBson::from(id))
}

/// About how many bytes a value has in its document.
pub(crate) fn size_of_value(value: RawBsonRef<'_>) -> usize {
    match value {
        RawBsonRef::Document(value) => value.as_bytes().len(),
        RawBsonRef::Array(value) => value.as_bytes().len(),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) | RawBsonRef::JavaScriptCode(text) => {
            text.len()
        }
        RawBsonRef::Binary(binary) => binary.bytes.len(),
        RawBsonRef::JavaScriptCodeWithScope(code) => code.code.len() + code.scope.as_bytes().len(),
        RawBsonRef::RegularExpression(regex) => {
            regex.pattern.as_str().len() + regex.options.as_str().len()
        }
        _ => 0,
    }
}
