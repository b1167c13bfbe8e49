//! The mark of a failed event: the update of its document, and which refusals of a mark or a park
//! are final.

use bson::{Document, doc};
use outboxd_client::field;

use super::code;
use super::collation::simple_document;
use crate::document::state;
use crate::relay::ports::{Mark, Next, Refused};

/// Most failures kept on an event: the newest ones.
const FAILURES_KEPT: i32 = 20;

/// The errors of an update that MongoDB will never make of this document, however often it is
/// repeated.
const NEVER: [i32; 11] = [
    code::BAD_VALUE,
    code::FAILED_TO_PARSE,
    code::TYPE_MISMATCH,
    code::PATH_NOT_VIABLE,
    code::IMMUTABLE_FIELD,
    code::DOCUMENT_VALIDATION_FAILURE,
    code::DUPLICATE_KEY,
    code::CANNOT_INDEX_PARALLEL_ARRAYS,
    code::BSON_OBJECT_TOO_LARGE,
    code::UPDATED_TOO_LARGE,
    code::UPSERTED_TOO_LARGE,
];

/// Reads one of the `writeErrors` of a reply.
///
/// # Errors
/// When the refusal may pass: the command has to be repeated.
pub(super) fn read_refused(error: &Document) -> mongodb::error::Result<Refused> {
    let reason = error.get_str("errmsg").unwrap_or("(no reason given)").to_owned();
    let index = error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());

    match (index, error.get_i32("code")) {
        (Some(index), Ok(code)) if NEVER.contains(&code) => Ok(Refused { index, error: reason }),
        (_, code) => {
            let reason = format!("{reason} (code {})", code.unwrap_or(0));
            Err(mongodb::error::Error::custom(reason))
        }
    }
}

/// A pipeline, so that a document whose bookkeeping fields are of the wrong type can be marked too.
/// The filter makes it safe to repeat: a relay records one failure of an event at one time.
pub(super) fn mark_update(mark: &Mark) -> Document {
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
    doc! {
        "q": { field::ID: &mark.id, field::FAILURES: { "$not": made } },
        "u": [{ "$set": set }],
        "collation": simple_document(),
    }
}
