//! The `_id` of any document: by which it is marked, and how people read it.

use std::borrow::Cow;

use bson::{Bson, RawBson, RawBsonRef};
use outboxd_client::event::MAX_ID_BYTES;
use outboxd_client::field;

/// Largest `_id` of any type by which a document is marked: a thousand marks fit in one command.
pub const MAX_ANY_ID_BYTES: usize = 8 << 10;
/// Characters shown of an id. That of an event is never longer, so what is shown of it can be pasted
/// into a command.
const MAX_SHOWN_ID: usize = MAX_ID_BYTES;

/// An id as text, for people and for the commands that they paste.
///
/// An id that no event may have is shown as extended JSON, which commands take as well. Of one that
/// is too long the beginning is shown, and `…`; no command takes that.
pub(crate) fn shown_id(id: &Bson) -> String {
    let text = match id {
        Bson::ObjectId(id) => return id.to_string(),
        Bson::String(id) if id.bytes().all(|byte| byte.is_ascii_graphic()) => Cow::from(id),
        Bson::String(id) => quoted(id).into(),
        Bson::Binary(binary) => match binary.to_uuid() {
            Ok(id) => return id.to_string(),
            Err(_) => id.clone().into_canonical_extjson().to_string().into(),
        },
        other => other.clone().into_canonical_extjson().to_string().into(),
    };

    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(MAX_SHOWN_ID).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
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
