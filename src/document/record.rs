//! The event document as the relay reads it, in the fields that a [`Layout`] names.
//!
//! Any client can write a document, so every document is hostile input. Reading never panics. A
//! document that breaks the contract becomes [`Malformed`], with a reason that an operator
//! understands. Two things are impossible for such a document: to mark it when its `_id` is huge or
//! not UTF-8, and to find its `key` behind a field name that is not UTF-8.
//!
//! A document is read in two steps: `walk` takes its elements into a `Raw`, and `check` makes the
//! event of that. Faults of a single element are found first, in the order of the elements; then
//! what is missing.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};

use bson::spec::BinarySubtype;
use bson::{RawBson, RawBsonRef, RawDocument, Timestamp};
use outboxd_client::event::MAX_HEADERS;
use outboxd_client::payload::{self, PayloadError, type_name};
use outboxd_client::{EventError, EventId, Headers, Key, Subject, field};

use super::cloudevents::Facts;
pub use super::ids::MAX_ANY_ID_BYTES;
pub(crate) use super::ids::{
    MAX_SHOWN_ID, digest, digest_of_long, shown_id, size_of_value, small_id,
};
use super::layout::Layout;
use super::state::{DISCARD_HOLDS, Signs, State};
use super::template::Values;
use super::written::{is_filled, ts_of_id};

/// How often id and key of an event are in memory: in its record, among what is known, in its lane.
const COPIES: usize = 3;
/// Memory of a header besides its bytes, also while its message is being sent.
const HEADER: usize = 192;
/// An event document that follows the contract.
#[derive(Debug, Clone)]
pub struct OutboxRecord {
    /// `_id`.
    pub id: EventId,
    /// `ts`, or the time in an ObjectId `_id` when there is none or the server never filled it.
    pub ts: Timestamp,
    /// `subject`.
    pub subject: Subject,
    /// `key`.
    pub key: Option<Key>,
    /// `payload`, as published. Empty if it is over the limit.
    pub payload: Vec<u8>,
    /// The limit that the payload as published is over: it was not made further than that.
    pub over_limit: Option<usize>,
    /// `headers`, and those that the layout adds.
    pub headers: Headers,
    /// `attempts`: counted refusals so far.
    pub attempts: u32,
    /// Where it is on its way.
    pub state: State,
    /// `nextAttemptAt` in milliseconds since 1970: when the retrier may publish a failed or parked
    /// event. 0 if there is none.
    pub due_at_ms: i64,
    /// When an operator asked to remove this failed or parked event, in milliseconds since 1970: it
    /// is not published while the request holds.
    pub discard_requested_at_ms: Option<i64>,
}

/// A document that can't be published, whatever the broker does.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// `_id` as found, which may be of any type. `None` when it isn't UTF-8 or over
    /// [`MAX_ANY_ID_BYTES`]: such a document can't be marked. As bytes, because as a value it may be
    /// a hundred times as big.
    pub id: Option<RawBson>,
    /// `key`, if that much could be read: the events behind it wait.
    pub key: Option<Key>,
    /// Whether it has been marked dead before.
    pub marked: bool,
    /// What is wrong, in words for an operator.
    pub reason: String,
    /// Of the whole document: the same while it is unchanged, also where it has no id to name it.
    pub fingerprint: u64,
}

/// Why a document is no event.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("not valid BSON: {0}")]
    Bson(bson::error::Error),
    #[error("`{0}` stands twice in the document")]
    Twice(String),
    #[error("`{0}` is missing")]
    Missing(String),
    #[error("`{name}` is of type {found}; it must be {wanted}")]
    Type { name: String, found: &'static str, wanted: Cow<'static, str> },
    #[error("`_id` is a UUID of the wrong length")]
    UuidLength,
    #[error(
        "`{0}` is a UUID of binary subtype 3, whose byte order depends on the driver; write subtype \
         4, as drivers do with uuidRepresentation=standard"
    )]
    LegacyUuid(String),
    #[error(transparent)]
    Event(#[from] EventError),
}

/// The fields of a document as they were found, each of a type that the contract allows.
#[derive(Default)]
struct Raw<'a> {
    id: Option<EventId>,
    ts: Option<Timestamp>,
    subject: Option<Subject>,
    /// `Some(None)` for null, which is a field left out.
    key: Option<Option<Key>>,
    payload: Option<Payload>,
    headers: Option<Headers>,
    /// Those that the templates of the layout name.
    values: Values<'a>,
    is_locked: Option<bool>,
    /// `Some(None)` for null, as with the key.
    dead_at_ms: Option<Option<i64>>,
    has_failed: bool,
    discard_requested_at_ms: Option<i64>,
    attempts: u32,
    due_at_ms: Option<Option<i64>>,
}

struct Payload {
    bytes: Vec<u8>,
    over_limit: Option<usize>,
    is_json: bool,
}

impl Payload {
    fn read(value: RawBsonRef<'_>, name: &str, most: usize) -> Result<Self, Fault> {
        let is_json = matches!(value, RawBsonRef::Document(_) | RawBsonRef::Array(_));
        match payload::to_bytes_within(value, name, most) {
            Ok(bytes) => Ok(Self { bytes, over_limit: None, is_json }),
            Err(PayloadError::TooLong(limit)) => {
                Ok(Self { bytes: Vec::new(), over_limit: Some(limit), is_json })
            }
            Err(error) => Err(EventError::from(error).into()),
        }
    }
}

impl OutboxRecord {
    /// Reads a document of the outbox.
    ///
    /// # Errors
    /// [`Malformed`] when a field is missing, ill-typed or not allowed on the wire.
    pub fn parse(document: &RawDocument, layout: &Layout) -> Result<Self, Box<Malformed>> {
        Self::parse_within(document, layout, usize::MAX)
    }

    /// The same, with a payload that is made up to so many bytes.
    ///
    /// # Errors
    /// [`Malformed`] when a field is missing, ill-typed or not allowed on the wire.
    pub(crate) fn parse_within(
        document: &RawDocument,
        layout: &Layout,
        max_payload: usize,
    ) -> Result<Self, Box<Malformed>> {
        let read = walk(document, layout, max_payload).and_then(|raw| check(raw, layout));
        read.map_err(|fault| Box::new(malformed(document, layout, &fault)))
    }

    /// Memory of what it holds.
    pub(crate) fn bytes(&self) -> usize {
        let id = match &self.id {
            EventId::String(id) => id.len(),
            EventId::ObjectId(_) | EventId::Uuid(_) => 0,
        };
        let key = self.key.as_ref().map_or(0, |key| key.as_str().len());

        self.payload.capacity()
            + self.headers.bytes()
            + self.headers.iter().count() * HEADER
            + COPIES * (id + key)
            + self.subject.as_str().len()
    }

    /// Whether the retrier may publish it: it waits, its time has come, and no operator asked to
    /// remove it.
    pub(crate) fn is_due(&self, now_ms: i64) -> bool {
        State::WAITING.contains(&self.state)
            && !self.is_discard_requested(now_ms)
            && self.due_at_ms <= now_ms
    }

    /// Whether an operator asked to remove it, and the request holds: see
    /// [`discard_requested`](super::state::discard_requested).
    pub(crate) fn is_discard_requested(&self, now_ms: i64) -> bool {
        let holds = DISCARD_HOLDS.as_millis();
        self.discard_requested_at_ms.is_some_and(|at| u128::from(at.abs_diff(now_ms)) < holds)
    }
}

fn malformed(document: &RawDocument, layout: &Layout, fault: &Fault) -> Malformed {
    let get = |name: &str| document.get(name).ok().flatten();
    Malformed {
        id: get(field::ID).and_then(small_id),
        key: layout.key_of(document),
        marked: matches!(get(field::DEAD_AT), Some(RawBsonRef::DateTime(_))),
        reason: fault.to_string(),
        fingerprint: {
            let mut hasher = DefaultHasher::new();
            hasher.write(document.as_bytes());
            hasher.finish()
        },
    }
}

/// Takes each element once; a `get` for each field would walk the document once per field.
fn walk<'a>(
    document: &'a RawDocument,
    layout: &Layout,
    max_payload: usize,
) -> Result<Raw<'a>, Fault> {
    let mut raw = Raw::default();
    for element in document.iter() {
        let (name, value) = element.map_err(Fault::Bson)?;
        raw.take_bookkeeping(name.as_str(), value, layout)?;
        raw.take_part(name.as_str(), value, layout, max_payload)?;
    }

    Ok(raw)
}

impl<'a> Raw<'a> {
    /// Takes the fields whose names no layout changes.
    fn take_bookkeeping(
        &mut self,
        name: &str,
        value: RawBsonRef<'a>,
        layout: &Layout,
    ) -> Result<(), Fault> {
        match name {
            field::ID => once(name, &mut self.id, || read_id(value))?,
            field::TS => match value {
                RawBsonRef::Timestamp(at) => once(name, &mut self.ts, || Ok(at))?,
                // A field of the writer's own that happens to have this name.
                _ if !layout.is_own() => {}
                other => return Err(wrong_type(name, "a timestamp", other)),
            },
            field::IS_LOCKED => match value {
                RawBsonRef::Boolean(locked) => once(name, &mut self.is_locked, || Ok(locked))?,
                RawBsonRef::Null if !layout.is_own() => {}
                other => return Err(wrong_type(name, "a bool", other)),
            },
            field::FAILURES => {
                self.has_failed = matches!(value, RawBsonRef::Array(all) if !all.is_empty());
            }
            field::ATTEMPTS => self.attempts = read_attempts(value),
            field::NEXT_ATTEMPT_AT => once(name, &mut self.due_at_ms, || read_date(name, value))?,
            field::DEAD_AT => once(name, &mut self.dead_at_ms, || read_date(name, value))?,
            field::DISCARD_REQUESTED_AT => {
                self.discard_requested_at_ms = match value {
                    RawBsonRef::DateTime(at) => Some(at.timestamp_millis()),
                    _ => None,
                };
            }
            _ => {}
        }

        Ok(())
    }

    /// Takes what is published. A layout may use one field for several parts.
    fn take_part(
        &mut self,
        name: &str,
        value: RawBsonRef<'a>,
        layout: &Layout,
        max_payload: usize,
    ) -> Result<(), Fault> {
        // Null is a field left out, where a field may be.
        let is_null = matches!(value, RawBsonRef::Null);

        if let Some(place) = layout.place(name)
            && (layout.is_own() || !is_null)
        {
            once(name, &mut self.values[place], || {
                layout.text(value).map_err(|wanted| no_text(name, wanted, value))
            })?;
            // As soon as its last field is there: a subject is refused before what follows it.
            if self.subject.is_none()
                && let Ok(text) = layout.subject(&self.values)
            {
                self.subject = Some(Subject::new(text)?);
            }
        }

        if name == layout.key() {
            once(name, &mut self.key, || {
                let wrong = |wanted| no_text(name, format!("{wanted}, or left out"), value);
                if is_null {
                    return Ok(None);
                }
                Ok(Some(Key::new(layout.text(value).map_err(wrong)?)?))
            })?;
        }

        if name == layout.payload() {
            once(name, &mut self.payload, || Payload::read(value, name, max_payload))?;
        }

        if name == layout.headers() {
            once(name, &mut self.headers, || read_headers(name, value))?;
        }

        Ok(())
    }
}

/// Makes the event, unless a part of it is missing.
fn check(raw: Raw<'_>, layout: &Layout) -> Result<OutboxRecord, Fault> {
    let missing = |name: &str| Fault::Missing(name.to_owned());
    let id = raw.id.ok_or_else(|| missing(field::ID))?;

    // A writer who doesn't know the relay leaves it out.
    let is_locked = raw.is_locked.or((!layout.is_own()).then_some(true));
    let is_locked = is_locked.ok_or_else(|| missing(field::IS_LOCKED))?;
    let signs = Signs {
        is_locked,
        is_dead: raw.dead_at_ms.flatten().is_some(),
        has_failed: raw.has_failed,
    };
    let state = State::with(signs);

    let payload = raw.payload.ok_or_else(|| missing(layout.payload()))?;
    let subject = match raw.subject {
        Some(subject) => subject,
        // A field of its template is missing, unless that names none.
        None => Subject::new(layout.subject(&raw.values).map_err(missing)?)?,
    };

    let ts = raw.ts.filter(|ts| is_filled(*ts)).unwrap_or_else(|| ts_of_id(&id));
    let key = raw.key.flatten();

    let mut headers = raw.headers.unwrap_or_default();
    let facts =
        Facts { id: &id, ts, subject: &subject, key: key.as_ref(), is_json: payload.is_json };
    layout.add_headers(&mut headers, &facts, &raw.values)?;

    Ok(OutboxRecord {
        id,
        ts,
        subject,
        key,
        payload: payload.bytes,
        over_limit: payload.over_limit,
        headers,
        attempts: raw.attempts,
        state,
        due_at_ms: raw.due_at_ms.flatten().unwrap_or(0),
        discard_requested_at_ms: raw
            .discard_requested_at_ms
            .filter(|_| State::WAITING.contains(&state)),
    })
}

fn once<T>(
    name: &str,
    slot: &mut Option<T>,
    read: impl FnOnce() -> Result<T, Fault>,
) -> Result<(), Fault> {
    if slot.is_some() {
        return Err(Fault::Twice(name.to_owned()));
    }
    *slot = Some(read()?);
    Ok(())
}

fn read_id(value: RawBsonRef<'_>) -> Result<EventId, Fault> {
    match value {
        RawBsonRef::ObjectId(id) => Ok(EventId::ObjectId(id)),
        RawBsonRef::String(id) => Ok(EventId::string(id)?),
        RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid => {
            let bytes = binary.bytes.try_into().map_err(|_| Fault::UuidLength)?;
            Ok(EventId::Uuid(bson::Uuid::from_bytes(bytes)))
        }
        other => Err(no_text(field::ID, "an ObjectId, a UUID or a string", other)),
    }
}

/// Why a value that may be a UUID, among others, names nothing.
fn no_text(name: &str, wanted: impl Into<Cow<'static, str>>, found: RawBsonRef<'_>) -> Fault {
    let wanted = wanted.into();
    match found {
        RawBsonRef::Binary(binary)
            if binary.subtype == BinarySubtype::UuidOld && wanted.contains("UUID") =>
        {
            Fault::LegacyUuid(name.to_owned())
        }
        _ => wrong_type(name, wanted, found),
    }
}

fn read_headers(name: &str, value: RawBsonRef<'_>) -> Result<Headers, Fault> {
    let mut headers = Headers::default();
    let document = match value {
        RawBsonRef::Document(document) => document,
        RawBsonRef::Null => return Ok(headers),
        other => return Err(wrong_type(name, "a document of strings, or left out", other)),
    };

    for (at, element) in document.iter().enumerate() {
        let (name, value) = element.map_err(Fault::Bson)?;
        let name = name.as_str();
        let refuse = |reason| {
            let name = name.chars().take(64).collect();
            Err(EventError::Header { name, reason }.into())
        };

        match value {
            _ if at == MAX_HEADERS => return refuse("an event has at most 64 headers"),
            RawBsonRef::String(value) => headers.insert(name, value)?,
            RawBsonRef::Null => Headers::check_name(name)?,
            _ => return refuse("its value is not a string"),
        }
    }

    Ok(headers)
}

/// A date in milliseconds since 1970, if there is one.
fn read_date(name: &str, value: RawBsonRef<'_>) -> Result<Option<i64>, Fault> {
    match value {
        RawBsonRef::DateTime(at) => Ok(Some(at.timestamp_millis())),
        RawBsonRef::Null => Ok(None),
        other => Err(wrong_type(name, "a date, or left out", other)),
    }
}

/// A value that isn't a count starts again at 0: bookkeeping must not hold up an event.
fn read_attempts(value: RawBsonRef<'_>) -> u32 {
    match value {
        RawBsonRef::Int32(count) => u32::try_from(count).unwrap_or(0),
        RawBsonRef::Int64(count) => u32::try_from(count).unwrap_or(0),
        _ => 0,
    }
}

fn wrong_type(name: &str, wanted: impl Into<Cow<'static, str>>, found: RawBsonRef<'_>) -> Fault {
    Fault::Type { name: name.to_owned(), found: type_name(found), wanted: wanted.into() }
}

#[cfg(test)]
mod tests;
