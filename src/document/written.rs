//! When an event was written.
//!
//! The server fills an empty `ts` as it inserts a document, and leaves it empty in an update. So an
//! event has the time of its `ts`, or else that in its ObjectId, or else none: its age is unknown.
//! Everything that shows an age or selects by one asks here.

use bson::{Bson, Document, Timestamp, doc};
use outboxd_client::{EventId, field};

/// The earliest `ts` that is a time. One before it was never filled by the server.
pub(super) const FIRST_TIME: Timestamp = Timestamp { time: 1, increment: 0 };

/// Whether a `ts` is a time. The server replaces `Timestamp(0, 0)` in an insert, not in an update.
pub(super) fn is_filled(ts: Timestamp) -> bool {
    ts >= FIRST_TIME
}

/// Without `ts`, the second in an ObjectId is the best time there is.
pub(super) fn ts_of_id(id: &EventId) -> Timestamp {
    let time = match id {
        EventId::ObjectId(id) => second_of(*id),
        EventId::Uuid(_) | EventId::String(_) => None,
    };
    Timestamp { time: time.unwrap_or(0), increment: 0 }
}

fn second_of(id: bson::oid::ObjectId) -> Option<u32> {
    u32::try_from(id.timestamp().timestamp_millis() / 1000).ok()
}

/// In a query: the documents whose `ts` is a time.
pub(crate) fn has_time() -> Document {
    doc! { field::TS: { "$gte": FIRST_TIME } }
}

/// In a query: the others.
pub(crate) fn has_no_time() -> Document {
    doc! { field::TS: { "$not": { "$gte": FIRST_TIME } } }
}

/// When a document whose fields `get` returns was written, in seconds since 1970: its `ts`, or the
/// time in an ObjectId `_id`. `None` if it has neither: the event is of unknown age.
///
/// `Layout::before` asks the same of the server in a query, and [`written_at_of_document`] in an
/// aggregation.
pub(crate) fn written_at(get: impl Fn(&str) -> Option<Bson>) -> Option<u32> {
    match (get(field::TS), get(field::ID)) {
        (Some(Bson::Timestamp(ts)), _) if is_filled(ts) => Some(ts.time),
        (_, Some(Bson::ObjectId(id))) => second_of(id),
        _ => None,
    }
}

/// In an aggregation: [`written_at`], or null.
pub(crate) fn written_at_of_document() -> Document {
    let (ts, id) = (format!("${}", field::TS), format!("${}", field::ID));
    let is_filled = doc! { "$and": [
        { "$eq": [{ "$type": &ts }, "timestamp"] },
        { "$gte": [&ts, FIRST_TIME] },
    ] };

    let is_object_id = doc! { "$eq": [{ "$type": &id }, "objectId"] };
    let of_id = doc! { "$cond": [is_object_id, { "$toDate": id }, Bson::Null] };
    let second_of_id = doc! { "$floor": { "$divide": [{ "$toLong": of_id }, 1000] } };
    doc! { "$cond": [is_filled, { "$tsSecond": ts }, second_of_id] }
}
