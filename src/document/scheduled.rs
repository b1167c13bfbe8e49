//! A scheduled event: what its document has beside an event's, and what becomes of it when the event
//! is moved into the outbox.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use outboxd_client::field;
use outboxd_client::payload::type_name;

use super::template::BOOKKEEPING;

/// What the server replaces by its cluster time as it inserts a document.
const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };

/// Why a scheduled document is no event, whatever else it holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("not valid BSON: {0}")]
    Bson(#[from] bson::error::Error),
    #[error("`{name}` is missing: a scheduled event needs the date on which it is due", name = field::DELIVER_AT)]
    NotDated,
    #[error("`{name}` is of type {0}; it must be a date", name = field::DELIVER_AT)]
    NoDate(&'static str),
    #[error("`{name}` stands twice in the document", name = field::DELIVER_AT)]
    Twice,
}

/// The document as the outbox gets it. It is the same as that of an event which was never scheduled.
///
/// # Errors
/// [`Fault`] when the document doesn't have one date at which it is due.
pub(crate) fn moved(document: &RawDocument) -> Result<RawDocumentBuf, Fault> {
    let (mut moved, mut is_dated, mut has_ts) = (RawDocumentBuf::new(), false, false);
    for element in document.iter_elements() {
        let element = element?;
        let (name, value) = (element.key(), element.value()?);
        match (name.as_str(), value) {
            (field::DELIVER_AT, _) if is_dated => return Err(Fault::Twice),
            (field::DELIVER_AT, RawBsonRef::DateTime(_)) => is_dated = true,
            (field::DELIVER_AT, other) => return Err(Fault::NoDate(type_name(other))),
            // Filled when the event was scheduled.
            (field::TS, RawBsonRef::Timestamp(_) | RawBsonRef::Null) => {
                moved.append(name, EMPTY);
                has_ts = true;
            }
            // A field of the writer's own that happens to have this name.
            (field::TS, other) => {
                moved.append(name, other);
                has_ts = true;
            }
            // An operator had a dead one published.
            (field::IS_LOCKED, RawBsonRef::Boolean(false)) => moved.append(name, true),
            // Failures are the event's history.
            (field::IS_LOCKED | field::FAILURES, other) => moved.append(name, other),
            // What the relay and operators wrote while it was scheduled.
            (left, _) if BOOKKEEPING.contains(&left) => {}
            (_, other) => moved.append(name, other),
        }
    }

    if !is_dated {
        return Err(Fault::NotDated);
    }

    // The events of a key are in the order of their moves by this. The server fills nothing else.
    if !has_ts {
        moved.append(bson::raw::cstr!("ts"), EMPTY);
    }

    Ok(moved)
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{Bson, DateTime, Document, doc};

    use super::*;

    fn moved_of(document: &Document) -> Result<Document, String> {
        let raw = RawDocumentBuf::try_from(document).expect("a document");
        let moved = moved(&raw).map_err(|fault| fault.to_string())?;
        Ok(Document::try_from(&*moved).expect("a document"))
    }

    #[test]
    fn a_moved_event_is_as_if_it_had_never_been_scheduled() {
        let id = ObjectId::new();
        let due = DateTime::from_millis(1_800_000_000_000);
        let filled = Timestamp { time: 5, increment: 6 };
        let event = |ts: Timestamp| {
            doc! {
                "_id": id, "ts": ts, "subject": "order.expired", "payload": { "a": [1, "é"] },
                "isLocked": true, "failures": [],
            }
        };

        let mut scheduled = event(filled);
        scheduled.insert("deliverAt", due);
        assert_eq!(moved_of(&scheduled), Ok(event(EMPTY)));

        scheduled.remove("ts");
        let mut last = event(EMPTY);
        let ts = last.remove("ts").expect("a time");
        last.insert("ts", ts);
        assert_eq!(moved_of(&scheduled), Ok(last));
    }

    #[test]
    fn a_dead_one_that_an_operator_retries_goes_as_a_new_one_with_its_history() {
        let failure = doc! { "code": "malformed" };
        let retried = doc! {
            "_id": "e1", "deliverAt": DateTime::from_millis(0), "ts": Bson::Null, "isLocked": false,
            "attempts": 0_i64, "deadAt": Bson::Null, "failures": [failure.clone()],
        };
        let moved = doc! { "_id": "e1", "ts": EMPTY, "isLocked": true, "failures": [failure] };
        assert_eq!(moved_of(&retried), Ok(moved));
    }

    #[test]
    fn a_field_of_the_writers_own_stays() {
        let theirs = doc! { "_id": "e1", "deliverAt": DateTime::from_millis(0), "ts": "yesterday" };
        assert_eq!(moved_of(&theirs), Ok(doc! { "_id": "e1", "ts": "yesterday" }));
    }

    #[test]
    fn whatever_has_no_date_says_what_it_has() {
        for (document, reason) in [
            (doc! { "_id": 1 }, "`deliverAt` is missing"),
            (doc! { "_id": 1, "deliverAt": "2026" }, "of type string"),
            (doc! { "_id": 1, "deliverAt": [DateTime::from_millis(0)] }, "of type array"),
            (doc! { "_id": 1, "deliverAt": EMPTY }, "of type timestamp"),
            (doc! { "_id": 1, "deliverAt": Bson::Null }, "of type null"),
        ] {
            let refused = moved_of(&document).expect_err("no date");
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
