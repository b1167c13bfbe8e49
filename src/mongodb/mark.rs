//! The mark of a failed event: the update of its document.

use bson::{RawDocumentBuf, doc};
use mongodb::error::Result;
use outboxd_client::field;

use super::collation::simple_document;
use super::write::raw;
use crate::document::state;
use crate::relay::ports::{Mark, Next};

/// Most failures kept on an event: the newest ones.
const FAILURES_KEPT: i32 = 20;

/// A pipeline, so that a document whose bookkeeping fields are of the wrong type can be marked too.
/// The filter makes it safe to repeat: a relay records one failure of an event at one time.
pub(super) fn mark_update(mark: &Mark) -> Result<RawDocumentBuf> {
    let failure = doc! {
        "at": mark.at,
        "attempt": i64::from(mark.attempts),
        "class": mark.class,
        "code": &mark.code,
        "error": &mark.error,
        "relay": &mark.relay,
    };

    let failures = doc! { "$concatArrays": [state::failures(), [{ "$literal": failure }]] };
    let mut set = doc! {
        field::IS_LOCKED: false,
        field::ATTEMPTS: i64::from(mark.attempts),
        field::FAILURES: { "$slice": [failures, -FAILURES_KEPT] },
    };

    match mark.next {
        Next::Dead => set.insert(field::DEAD_AT, "$$NOW"),
        Next::RetryAfter(delay) => {
            let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            set.insert(field::NEXT_ATTEMPT_AT, doc! { "$add": ["$$NOW", delay] })
        }
    };

    let made = doc! { "$elemMatch": { "at": mark.at, "relay": &mark.relay } };
    raw(doc! {
        "q": { field::ID: mark.id.to_bson()?, field::FAILURES: { "$not": made } },
        "u": [{ "$set": set }],
        "collation": simple_document(),
    })
}
