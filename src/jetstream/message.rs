//! An event's message as the client sends it.

use async_nats::header::{
    HeaderName, HeaderValue, NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID,
};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use crate::failure::{HEADER, Rejection};
use crate::relay::ports::Message;

/// Bytes that a file store adds to a message with headers.
const RECORD_BYTES: usize = 34;

/// A message of a publish.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) subject: Subject,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// A message as the client sends it.
pub(super) fn part(message: &Message<'_>) -> Result<Part, Rejection> {
    let headers = headers(message).map_err(|error| Rejection::new(HEADER, error))?;
    let subject = message.subject.as_str().to_owned().into();
    Ok(Part { subject, headers, payload: message.payload.clone() })
}

/// All headers of a message, as the client sends them. Uses only constructors that can fail: the
/// client's others panic on a line break.
fn headers(message: &Message<'_>) -> Result<HeaderMap, String> {
    let value = |text: &str| text.parse::<HeaderValue>().map_err(|error| error.to_string());

    let mut headers = HeaderMap::new();
    for (name, text) in message.headers.iter() {
        let name = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
        headers.insert(name, value(text)?);
    }

    headers.insert(NATS_MESSAGE_ID, value(message.id)?);
    headers.insert(NATS_EXPECTED_STREAM, value(message.stream)?);
    if let Some(behind) = message.behind {
        headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, value(behind)?);
    }

    Ok(headers)
}

/// The bytes of a message in a file store; `None` if its headers can't be sent.
pub(super) fn stored_size(message: &Message<'_>) -> Option<usize> {
    let headers = headers(message).ok()?;
    let lines = headers.iter().map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| name.len() + value.as_str().len() + ": \r\n".len()).sum::<usize>()
    });
    let headers = lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len();

    Some(RECORD_BYTES + message.subject.as_str().len() + headers + message.payload.len())
}
