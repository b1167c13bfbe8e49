//! What a service hands to the outbox: an [`Event`] and the newtypes that make it valid by
//! construction.
//!
//! Everything is checked where it is made, inside the service: a mistake found there costs an error
//! message, and one found by the relay costs a stuck event. The relay runs the same checks on every
//! document that it reads, because any client can write one.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Uuid};
use serde::Serialize;

use crate::payload::{self, PayloadError};

/// Longest subject, in bytes. The server's protocol line holds 4,096; 255 leaves room for a prefix
/// and the reply inbox.
pub const MAX_SUBJECT_BYTES: usize = 255;
/// Longest ordering key, in bytes. A key is an aggregate's id; a longer one is a mistake, and it is
/// kept in memory.
pub const MAX_KEY_BYTES: usize = 255;
/// Longest string `_id`, in bytes. It becomes part of the `Nats-Msg-Id` header.
pub const MAX_ID_BYTES: usize = 255;
/// Most headers on one event.
pub const MAX_HEADERS: usize = 64;
/// Most bytes of all header names and values of one event. JetStream refuses a header block over 64
/// KiB.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Most headers that a relay adds, made of other parts of an event. They don't count among those of
/// the writer.
const MAX_MADE_HEADERS: usize = 64;
/// Most bytes of those. With the writer's, it leaves 16 KiB of what JetStream allows.
const MAX_MADE_HEADER_BYTES: usize = 16 * 1024;
/// The last millisecond of the year 9999, since 1970.
const LATEST_MILLIS: i64 = 253_402_300_799_999;
/// Largest payload as published, in bytes, unless
/// [`Outbox::max_payload_bytes`](crate::Outbox::max_payload_bytes) says otherwise: the default
/// `max_payload` of nats-server (1 MiB) less room for the headers.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 1024 * 1024 - MAX_HEADER_BYTES;

/// Why an event, or a part of one, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The subject isn't one that may be published to.
    #[error("invalid subject: {0}")]
    Subject(&'static str),
    /// The ordering key is empty or too long.
    #[error("invalid key: {0}")]
    Key(&'static str),
    /// The time of delivery can't be used.
    #[error("invalid time of delivery: {0}")]
    DeliverAt(&'static str),
    /// The event id can't be used.
    #[error("invalid event id: {0}")]
    Id(&'static str),
    /// A header's name or value can't be sent.
    #[error("invalid header {name:?}: {reason}")]
    Header {
        /// The header's name, shortened and escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The payload can't be turned into bytes.
    #[error("invalid payload: {0}")]
    Payload(#[from] PayloadError),
    /// The payload as published is longer than the limit.
    #[error(
        "payload of {bytes} bytes is over the limit of {limit}; store the content elsewhere and publish a reference"
    )]
    PayloadTooLong {
        /// The payload's length as published.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
}

impl From<Infallible> for EventError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The id of an event: the `_id` of its document. Becomes `<db>.<collection>.<_id>` in
/// `Nats-Msg-Id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventId {
    /// What drivers make by default.
    ObjectId(ObjectId),
    /// A UUID (BSON binary subtype 4).
    Uuid(Uuid),
    /// A string of 1 to [`MAX_ID_BYTES`] printable ASCII characters without spaces.
    String(Box<str>),
}

impl EventId {
    /// Checks a string id: 1 to [`MAX_ID_BYTES`] bytes of printable ASCII, no spaces.
    pub fn string(id: impl Into<String>) -> Result<Self, EventError> {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(EventError::Id("a string id has 1 to 255 bytes"));
        }

        if !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(EventError::Id("a string id is printable ASCII without spaces"));
        }

        Ok(Self::String(id.into()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ObjectId(id) => id.fmt(f),
            Self::Uuid(id) => id.fmt(f),
            Self::String(id) => id.fmt(f),
        }
    }
}

impl From<EventId> for Bson {
    fn from(id: EventId) -> Self {
        match id {
            EventId::ObjectId(id) => id.into(),
            EventId::Uuid(id) => id.into(),
            EventId::String(id) => Bson::String(id.into()),
        }
    }
}

/// A NATS subject that is safe to publish to.
///
/// Tokens of printable ASCII joined by single dots, at most [`MAX_SUBJECT_BYTES`] long; no
/// wildcards, and nothing in the server's own spaces (`$…`, `_INBOX`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

impl Subject {
    /// Checks a subject and takes it.
    pub fn new(subject: impl Into<Box<str>>) -> Result<Self, EventError> {
        let subject = subject.into();
        Self::check(&subject).map_err(EventError::Subject)?;
        Ok(Self(subject))
    }

    fn check(subject: &str) -> Result<(), &'static str> {
        if subject.is_empty() {
            return Err("it is empty");
        }

        if subject.len() > MAX_SUBJECT_BYTES {
            return Err("it is longer than 255 bytes");
        }

        let mut previous = b'.';
        for byte in subject.bytes() {
            match byte {
                b'.' if previous == b'.' => return Err("it has an empty token"),
                b'*' | b'>' => return Err("wildcards are for subscribers"),
                b'!'..=b'~' => {}
                _ => return Err("only printable ASCII without spaces is allowed"),
            }
            previous = byte;
        }

        if previous == b'.' {
            return Err("it has an empty token");
        }

        if subject.starts_with('$') {
            return Err("subjects that begin with `$` belong to the server");
        }

        if subject == "_INBOX" || subject.starts_with("_INBOX.") {
            return Err("`_INBOX` belongs to replies");
        }

        Ok(())
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The ordering key of an event: the id of the aggregate that it is about. Events of one key are
/// published in order.
///
/// Clones share the text: the relay names a key in several places at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a key (1 to [`MAX_KEY_BYTES`] bytes) and takes it.
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self, EventError> {
        let key = key.into();
        match key.len() {
            0 => Err(EventError::Key("it is empty; leave the key out for an event without order")),
            1..=MAX_KEY_BYTES => Ok(Self(key)),
            _ => Err(EventError::Key("it is longer than 255 bytes")),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Key {
    type Error = EventError;

    fn try_from(key: &str) -> Result<Self, EventError> {
        Self::new(key)
    }
}

impl TryFrom<String> for Key {
    type Error = EventError;

    fn try_from(key: String) -> Result<Self, EventError> {
        Self::new(key)
    }
}

impl From<ObjectId> for Key {
    fn from(key: ObjectId) -> Self {
        Self(key.to_hex().into())
    }
}

impl From<Uuid> for Key {
    fn from(key: Uuid) -> Self {
        Self(key.to_string().into())
    }
}

/// When a scheduled event is delivered: a time in the years 1970 to 9999, in milliseconds. One in
/// the past is due at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliverAt(DateTime);

impl DeliverAt {
    /// Checks a time and takes it. Anything below a millisecond is cut off.
    ///
    /// # Errors
    /// [`EventError::DeliverAt`] for a time outside the years 1970 to 9999. It comes of a mistake,
    /// such as microseconds in the place of milliseconds.
    pub fn new(at: impl Into<DateTime>) -> Result<Self, EventError> {
        let at = at.into();
        match at.timestamp_millis() {
            0..=LATEST_MILLIS => Ok(Self(at)),
            _ => Err(EventError::DeliverAt("it is outside the years 1970 to 9999")),
        }
    }

    /// The time as MongoDB keeps it.
    pub fn date(self) -> DateTime {
        self.0
    }
}

/// Extra NATS headers of an event, in the order they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Box<str>, Box<str>)>);

impl Headers {
    /// Adds a header.
    ///
    /// The name is an HTTP token, not one of the server's own (`Nats-…`); the value is printable
    /// ASCII or UTF-8 text without control characters.
    ///
    /// # Errors
    /// [`EventError::Header`] for a bad name or value, or over [`MAX_HEADERS`] or
    /// [`MAX_HEADER_BYTES`] in all.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), EventError> {
        self.insert_within(name, value, MAX_HEADERS, MAX_HEADER_BYTES)
    }

    /// Adds a header that a relay makes of other parts of the event. An event whose writer has used
    /// all the room for headers still has room for these.
    ///
    /// # Errors
    /// As [`Headers::insert`], with bounds that are wider by 64 headers and 16 KiB.
    pub fn insert_made(&mut self, name: &str, value: &str) -> Result<(), EventError> {
        let (most, bytes) = (MAX_MADE_HEADERS, MAX_MADE_HEADER_BYTES);
        self.insert_within(name, value, MAX_HEADERS + most, MAX_HEADER_BYTES + bytes)
    }

    fn insert_within(
        &mut self,
        name: &str,
        value: &str,
        most: usize,
        most_bytes: usize,
    ) -> Result<(), EventError> {
        Self::check_name(name)?;

        let refuse = |reason| refused(name, reason);
        if value.chars().any(char::is_control) {
            return Err(refuse("a value has no control characters or line breaks"));
        }

        if self.0.iter().any(|(taken, _)| taken.eq_ignore_ascii_case(name)) {
            return Err(refuse("it is there twice"));
        }

        if self.0.len() >= most {
            return Err(refuse("an event has at most 64 headers"));
        }

        if self.bytes() + name.len() + value.len() > most_bytes {
            return Err(refuse("all headers together are over 32 KiB"));
        }

        self.0.push((name.into(), value.into()));
        Ok(())
    }

    /// Checks a header's name.
    ///
    /// # Errors
    /// [`EventError::Header`] unless it is an HTTP token and not one of the server's own.
    pub fn check_name(name: &str) -> Result<(), EventError> {
        if name.is_empty() || !name.bytes().all(is_header_name_byte) {
            return Err(refused(name, "a name is letters, digits and !#$%&'*+-.^_`|~"));
        }

        if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-")) {
            return Err(refused(name, "names that begin with `Nats-` belong to the server"));
        }

        Ok(())
    }

    /// The value of a header, whose name may be written in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(taken, _)| taken.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

fn refused(name: &str, reason: &'static str) -> EventError {
    EventError::Header { name: name.chars().take(64).collect(), reason }
}

/// The `token` of RFC 9110, which is also what NATS clients accept.
fn is_header_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An event on its way into the outbox.
///
/// ```
/// use outboxd_client::Event;
///
/// let ticket = serde_json::json!({ "id": "t1", "title": "Concert", "price": 5, "version": 0 });
/// let event = Event::new("ticket.created", &ticket)?.key("t1")?.header("Content-Type", "application/json")?;
/// # Ok::<(), outboxd_client::EventError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub(crate) id: EventId,
    pub(crate) subject: Subject,
    pub(crate) key: Option<Key>,
    pub(crate) payload: Bson,
    pub(crate) published_len: usize,
    pub(crate) headers: Headers,
}

impl Event {
    /// Makes an event with a new ObjectId.
    ///
    /// `payload` is anything that serialises to a BSON document or array (published as JSON), a
    /// string, or [`bson::Binary`] (both published byte for byte).
    ///
    /// # Errors
    /// [`EventError::Subject`] or [`EventError::Payload`]. Its size is checked when it is enqueued.
    pub fn new(
        subject: impl Into<Box<str>>,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<Self, EventError> {
        let payload = bson::serialize_to_bson(payload).map_err(PayloadError::from)?;
        Ok(Self {
            id: EventId::ObjectId(ObjectId::new()),
            subject: Subject::new(subject)?,
            key: None,
            published_len: payload::published_len(&payload)?,
            payload,
            headers: Headers::default(),
        })
    }

    /// Sets the ordering key: the aggregate's id. It is text, an [`ObjectId`] or a [`Uuid`].
    ///
    /// # Errors
    /// [`EventError::Key`] for text that is empty or longer than [`MAX_KEY_BYTES`].
    pub fn key<K>(mut self, key: K) -> Result<Self, EventError>
    where
        K: TryInto<Key>,
        EventError: From<K::Error>,
    {
        self.key = Some(key.try_into()?);
        Ok(self)
    }

    /// Adds a NATS header; see [`Headers::insert`] for what is refused.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, EventError> {
        self.headers.insert(name, value)?;
        Ok(self)
    }

    /// Replaces the id, for a service that derives ids from its own data so that a repeated request
    /// can't enqueue twice.
    pub fn with_id(mut self, id: EventId) -> Result<Self, EventError> {
        if let EventId::String(id) = &id {
            EventId::string(&**id)?;
        }
        self.id = id;
        Ok(self)
    }

    /// The event's id.
    pub fn id(&self) -> &EventId {
        &self.id
    }
}

#[cfg(test)]
mod tests;
