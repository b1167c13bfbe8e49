//! The event document as the relay reads it, in the fields that a [`Layout`] names.
//!
//! Every document is hostile input: any client can write one. Reading never panics; what doesn't
//! follow the contract becomes [`Malformed`] with a reason an operator understands. Two things it
//! can't do for such a document: mark one whose `_id` is huge or not UTF-8, and find a `key` behind
//! a field name that isn't UTF-8.

use bson::{Bson, RawBsonRef, RawDocument, Timestamp};

use super::layout::{Layout, Values};
use outboxd_client::payload::{self, type_name};
use outboxd_client::{EventError, EventId, Headers, Key, Subject, field};

/// Largest `_id` of whatever type that is used to mark a document: a thousand marks fit in one
/// command.
pub const MAX_ANY_ID_BYTES: usize = 8 << 10;

/// What every document matches, with a key or without. Unless a query says a word about the key,
/// the server doesn't take the index of what is unlocked: it reads the whole outbox.
pub(crate) fn any_key() -> bson::Document {
    bson::doc! { "$gte": Bson::MinKey }
}

/// What the relay does next with a document, by its bookkeeping fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Custody {
    /// `isLocked: true`: the live path owns it.
    Live,
    /// `isLocked: false`: it failed or was parked; the retrier publishes it once this time (ms
    /// since the epoch) has come.
    Unlocked {
        /// `nextAttemptAt`, or 0 for an event that was parked.
        due_at_ms: i64,
    },
    /// A person asked for it to be removed: it isn't published any more.
    Discarding,
    /// `deadAt` is set: only a person moves it.
    Dead,
}

/// An event document that follows the contract.
#[derive(Debug, Clone)]
pub struct OutboxRecord {
    /// `_id`.
    pub id: EventId,
    /// `ts`, or the time in an ObjectId `_id` when there is none.
    pub ts: Timestamp,
    /// `subject`.
    pub subject: Subject,
    /// `key`.
    pub key: Option<Key>,
    /// `payload`, as published.
    pub payload: Vec<u8>,
    /// `headers`.
    pub headers: Headers,
    /// `attempts`: counted rejections so far.
    pub attempts: u32,
    /// Who owns it now.
    pub custody: Custody,
}

/// A document that can't be published, whatever the broker does.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// `_id` as found, which may be of any type. `None` when it isn't UTF-8 or over
    /// [`MAX_ANY_ID_BYTES`]: such a document can't be marked.
    pub id: Option<Bson>,
    /// `key`, if that much could be read: the events behind it wait.
    pub key: Option<Key>,
    /// Whether it has been marked dead before.
    pub marked: bool,
    /// What is wrong, in words for an operator.
    pub reason: String,
}

impl OutboxRecord {
    /// Reads a document of the outbox.
    ///
    /// # Errors
    /// [`Malformed`] when a field is missing, ill-typed or not allowed on the wire.
    pub fn parse(document: &RawDocument, layout: &Layout) -> Result<Self, Box<Malformed>> {
        read(document, layout).map_err(|reason| {
            let key =
                document.get(layout.key()).ok().flatten().and_then(|key| layout.text(key).ok());
            Box::new(Malformed {
                id: document.get(field::ID).ok().flatten().and_then(small_id),
                key: key.and_then(|key| Key::new(key).ok()),
                marked: matches!(document.get(field::DEAD_AT), Ok(Some(RawBsonRef::DateTime(_)))),
                reason,
            })
        })
    }
}

/// When a document whose fields `get` gives was written, in seconds since 1970, as far as it tells.
pub(crate) fn written_at(get: impl Fn(&str) -> Option<Bson>) -> Option<u32> {
    match (get(field::TS), get(field::ID)) {
        (Some(Bson::Timestamp(ts)), _) => Some(ts.time),
        (_, Some(Bson::ObjectId(id))) => {
            u32::try_from(id.timestamp().timestamp_millis() / 1000).ok()
        }
        _ => None,
    }
}

/// An id as text, for people.
pub(crate) fn shown_id(id: &Bson) -> String {
    match id {
        Bson::ObjectId(id) => id.to_string(),
        Bson::String(id) => id.chars().take(64).collect(),
        other => other.to_string().chars().take(64).collect(),
    }
}

fn small_id(id: RawBsonRef<'_>) -> Option<Bson> {
    let id = bson::doc! { field::ID: Bson::try_from(id).ok()? };
    let bytes = bson::serialize_to_vec(&id).ok()?.len();
    id.into_iter().map(|(_, id)| id).next().filter(|_| bytes <= MAX_ANY_ID_BYTES)
}

/// Walks the elements once; `get` for each field would walk them once per field.
fn read(document: &RawDocument, layout: &Layout) -> Result<OutboxRecord, String> {
    let (mut id, mut ts, mut key, mut payload, mut headers, mut is_locked) =
        (None, None, None, None, None, None);
    let (mut attempts, mut due_at_ms, mut dead, mut discarding) = (0, 0, false, false);
    let (mut values, mut subject) = (Values::default(), None);
    for element in document.iter() {
        let (name, value) = element.map_err(|error| format!("not valid BSON: {error}"))?;
        let name = name.as_str();
        match name {
            field::ID => once(name, &mut id, || read_id(value))?,
            field::TS => match value {
                RawBsonRef::Timestamp(at) => once(name, &mut ts, || Ok(at))?,
                // Somebody else's.
                _ if !layout.is_own() => {}
                other => return Err(wrong_type(name, "a timestamp", other)),
            },
            field::IS_LOCKED => match value {
                RawBsonRef::Boolean(locked) => once(name, &mut is_locked, || Ok(locked))?,
                other => return Err(wrong_type(name, "a bool", other)),
            },
            field::ATTEMPTS => attempts = read_attempts(value),
            field::NEXT_ATTEMPT_AT => match value {
                RawBsonRef::DateTime(at) => due_at_ms = at.timestamp_millis(),
                RawBsonRef::Null => {}
                other => return Err(wrong_type(name, "a date, or left out", other)),
            },
            field::DISCARD_REQUESTED_AT => discarding = matches!(value, RawBsonRef::DateTime(_)),
            field::DEAD_AT => match value {
                RawBsonRef::DateTime(_) => dead = true,
                RawBsonRef::Null => {}
                other => return Err(wrong_type(name, "a date, or left out", other)),
            },
            _ => {}
        }
        if let Some(place) = layout.place(name) {
            once(name, &mut values[place], || {
                layout.text(value).map_err(|wanted| wrong_type(name, wanted, value))
            })?;
            if subject.is_none()
                && let Ok(text) = layout.subject(&values)
            {
                subject = Some(Subject::new(text).map_err(|error| error.to_string())?);
            }
        }
        if name == layout.key() {
            once(name, &mut key, || {
                let wrong = |wanted| wrong_type(name, &format!("{wanted}, or left out"), value);
                Key::new(layout.text(value).map_err(wrong)?).map_err(|error| error.to_string())
            })?;
        }
        if name == layout.payload() {
            let is_json = matches!(value, RawBsonRef::Document(_) | RawBsonRef::Array(_));
            once(name, &mut payload, || match payload::to_bytes(value) {
                Ok(bytes) => Ok((bytes, is_json)),
                Err(error) => Err(format!("invalid payload: {error}")),
            })?;
        }
        if name == layout.headers() {
            once(name, &mut headers, || read_headers(name, value))?;
        }
    }
    let missing = |name| format!("`{name}` is missing");
    let id = id.ok_or_else(|| missing(field::ID))?;
    // A writer who doesn't know the relay leaves it out.
    let is_locked = is_locked.or((!layout.is_own()).then_some(true));
    let custody = match is_locked.ok_or_else(|| missing(field::IS_LOCKED))? {
        _ if dead => Custody::Dead,
        false if discarding => Custody::Discarding,
        true => Custody::Live,
        false => Custody::Unlocked { due_at_ms },
    };
    let (payload, is_json) = payload.ok_or_else(|| missing(layout.payload()))?;
    let mut record = OutboxRecord {
        ts: ts.unwrap_or_else(|| ts_of_id(&id)),
        id,
        subject: match subject {
            Some(subject) => subject,
            // A part of it is missing, unless it has none.
            None => Subject::new(layout.subject(&values).map_err(missing)?)
                .map_err(|error| error.to_string())?,
        },
        key,
        payload,
        headers: headers.unwrap_or_default(),
        attempts,
        custody,
    };
    layout.complete(&mut record, &values, is_json).map_err(|error| error.to_string())?;
    Ok(record)
}

fn once<T>(
    name: &str,
    slot: &mut Option<T>,
    read: impl FnOnce() -> Result<T, String>,
) -> Result<(), String> {
    if slot.is_some() {
        return Err(format!("`{name}` stands twice in the document"));
    }
    *slot = Some(read()?);
    Ok(())
}

fn read_id(value: RawBsonRef<'_>) -> Result<EventId, String> {
    match value {
        RawBsonRef::ObjectId(id) => Ok(EventId::ObjectId(id)),
        RawBsonRef::String(id) => EventId::string(id).map_err(|error| error.to_string()),
        RawBsonRef::Binary(binary) if binary.subtype == bson::spec::BinarySubtype::Uuid => {
            let bytes = binary
                .bytes
                .try_into()
                .map_err(|_| "`_id` is a UUID of the wrong length".to_owned())?;
            Ok(EventId::Uuid(bson::Uuid::from_bytes(bytes)))
        }
        other => Err(wrong_type(field::ID, "an ObjectId, a UUID or a string", other)),
    }
}

fn read_headers(name: &str, value: RawBsonRef<'_>) -> Result<Headers, String> {
    let RawBsonRef::Document(document) = value else {
        return Err(wrong_type(name, "a document of strings", value));
    };
    let mut headers = Headers::default();
    for element in document.iter() {
        let (name, value) = element.map_err(|error| format!("not valid BSON: {error}"))?;
        let RawBsonRef::String(value) = value else {
            let reason = "its value is not a string";
            return Err(EventError::Header {
                name: name.as_str().chars().take(64).collect(),
                reason,
            }
            .to_string());
        };
        headers.insert(name.as_str(), value).map_err(|error| error.to_string())?;
    }
    Ok(headers)
}

/// Bookkeeping only: a value that isn't a count starts again at 0 rather than holding up the event.
fn read_attempts(value: RawBsonRef<'_>) -> u32 {
    match value {
        RawBsonRef::Int32(count) => u32::try_from(count).unwrap_or(0),
        RawBsonRef::Int64(count) => u32::try_from(count).unwrap_or(0),
        _ => 0,
    }
}

/// A writer that left `ts` out: the second in its ObjectId is the best order there is.
fn ts_of_id(id: &EventId) -> Timestamp {
    let time = match id {
        EventId::ObjectId(id) => {
            u32::try_from(id.timestamp().timestamp_millis() / 1000).unwrap_or(0)
        }
        EventId::Uuid(_) | EventId::String(_) => 0,
    };
    Timestamp { time, increment: 0 }
}

fn wrong_type(name: &str, wanted: &str, found: RawBsonRef<'_>) -> String {
    format!("`{name}` is of type {}; it must be {wanted}", type_name(found))
}

#[cfg(test)]
mod tests {
    use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};

    use super::*;

    fn event() -> Document {
        doc! {
            "_id": ObjectId::new(), "ts": Timestamp { time: 5, increment: 1 }, "subject": "ticket:created", "key": "t1",
            "payload": { "id": "t1" }, "headers": { "traceparent": "00-1" }, "isLocked": true, "failures": [],
        }
    }

    fn parse(document: &Document) -> Result<OutboxRecord, Box<Malformed>> {
        OutboxRecord::parse(
            &RawDocumentBuf::try_from(document).expect("a document is BSON"),
            &Layout::default(),
        )
    }

    #[test]
    fn an_event_is_read_as_it_will_be_sent() {
        let record = parse(&event()).unwrap();
        assert_eq!(record.subject.as_str(), "ticket:created");
        assert_eq!(record.key.unwrap().as_str(), "t1");
        assert_eq!(record.payload, br#"{"id":"t1"}"#);
        assert_eq!(record.headers.iter().collect::<Vec<_>>(), [("traceparent", "00-1")]);
        assert_eq!(record.custody, Custody::Live);
    }

    #[test]
    fn each_breach_of_the_contract_is_named() {
        for (name, value, said) in [
            ("subject", Bson::Null, "`subject` is of type null; it must be a string"),
            (
                "subject",
                "a b".into(),
                "invalid subject: only printable ASCII without spaces is allowed",
            ),
            ("key", Bson::Null, "`key` is of type null; it must be a string, or left out"),
            (
                "key",
                "".into(),
                "invalid key: it is empty; leave the key out for an event without order",
            ),
            (
                "payload",
                5.into(),
                "invalid payload: it is of type int; a payload is a document, an array, a string or binary",
            ),
            (
                "payload",
                doc! { "x": Bson::MinKey }.into(),
                "invalid payload: a value of type minKey has no plain form in JSON",
            ),
            (
                "headers",
                doc! { "Nats-Msg-Id": "1" }.into(),
                "invalid header \"Nats-Msg-Id\": names that begin with `Nats-` belong to the server",
            ),
            ("headers", doc! { "a": 1 }.into(), "invalid header \"a\": its value is not a string"),
            ("isLocked", "yes".into(), "`isLocked` is of type string; it must be a bool"),
            (
                "nextAttemptAt",
                Bson::Array(vec![]),
                "`nextAttemptAt` is of type array; it must be a date, or left out",
            ),
            ("deadAt", 1.into(), "`deadAt` is of type int; it must be a date, or left out"),
            ("ts", 5.into(), "`ts` is of type int; it must be a timestamp"),
            ("_id", 5.into(), "`_id` is of type int; it must be an ObjectId, a UUID or a string"),
        ] {
            let mut document = event();
            document.insert(name, value);
            assert_eq!(parse(&document).unwrap_err().reason, said);
        }
        for name in ["_id", "subject", "payload", "isLocked"] {
            let mut document = event();
            document.remove(name);
            assert_eq!(parse(&document).unwrap_err().reason, format!("`{name}` is missing"));
        }
    }

    #[test]
    fn a_field_that_stands_twice_is_refused() {
        let mut document = RawDocumentBuf::try_from(&event()).expect("a document is BSON");
        document.append(bson::cstr!("subject"), "other");
        let reason = OutboxRecord::parse(&document, &Layout::default()).unwrap_err().reason;
        assert_eq!(reason, "`subject` stands twice in the document");
    }

    #[test]
    fn a_missing_ts_falls_back_to_the_id() {
        let mut document = event();
        document.remove("ts");
        document.insert("_id", ObjectId::parse_str("6745f0a1b2c3d4e5f6a7b8c9").unwrap());
        assert_eq!(parse(&document).unwrap().ts, Timestamp { time: 0x6745_f0a1, increment: 0 });
    }

    #[test]
    fn bookkeeping_tells_who_owns_it() {
        let mut document = event();
        document.insert("isLocked", false);
        assert_eq!(parse(&document).unwrap().custody, Custody::Unlocked { due_at_ms: 0 });
        document.insert("nextAttemptAt", bson::DateTime::from_millis(7));
        document.insert("attempts", 3);
        let record = parse(&document).unwrap();
        assert_eq!((record.custody, record.attempts), (Custody::Unlocked { due_at_ms: 7 }, 3));
        document.insert("deadAt", bson::DateTime::from_millis(9));
        assert_eq!(parse(&document).unwrap().custody, Custody::Dead);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0_usize..120, at in 0_usize..120, with: u8) {
            if let Ok(raw) = RawDocument::from_bytes(&bytes) {
                let _ = OutboxRecord::parse(raw, &Layout::default());
            }
            // Near-valid documents reach deeper than noise does.
            let mut near = RawDocumentBuf::try_from(&event()).expect("a document is BSON").into_bytes();
            let at = at % near.len();
            near[at] = with;
            if let Ok(raw) = RawDocument::from_bytes(&near) {
                let _ = OutboxRecord::parse(raw, &Layout::default());
            }
            near.truncate(near.len().saturating_sub(cut));
            if let Ok(raw) = RawDocument::from_bytes(&near) {
                let _ = OutboxRecord::parse(raw, &Layout::default());
            }
        }
    }
}
