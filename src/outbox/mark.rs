//! The mark of a failed event: what is written into its document.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};

use super::record::field;

/// Failures kept on an event; the newest.
const FAILURES_KEPT: i32 = 20;

/// The mark of a failed publish.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) id: Bson,
    pub(crate) at: DateTime,
    pub(crate) attempts: u32,
    pub(crate) class: &'static str,
    pub(crate) code: String,
    pub(crate) error: String,
    pub(crate) relay: String,
    pub(crate) next: Next,
}

/// What MongoDB says of a document that it will never write so: bad value, failed to parse, type
/// mismatch, path not viable, immutable field, validation, parallel arrays, and three of being too
/// large.
const NEVER: [i32; 10] = [2, 9, 14, 28, 66, 121, 171, 10334, 17419, 17420];

/// A mark or a park that the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its place among those of the command.
    pub(crate) index: usize,
    pub(crate) error: String,
}

impl Refused {
    /// Reads one of the `writeErrors`.
    ///
    /// # Errors
    /// When it may pass: the command is to be repeated.
    pub(super) fn read(error: &Document) -> mongodb::error::Result<Self> {
        let said = error.get_str("errmsg").unwrap_or("(no reason given)").to_owned();
        let index = error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
        match (index, error.get_i32("code")) {
            (Some(index), Ok(code)) if NEVER.contains(&code) => Ok(Self { index, error: said }),
            (_, code) => {
                Err(mongodb::error::Error::custom(format!("{said} (code {})", code.unwrap_or(0))))
            }
        }
    }
}

/// What becomes of a failed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The retrier publishes it again after this long.
    RetryAfter(Duration),
    /// Only a person moves it.
    Dead,
}

/// A pipeline, so that a document whose bookkeeping fields are of the wrong type can be marked too.
/// The filter makes it safe to repeat: one relay makes one failure of an event at one time.
pub(super) fn mark_update(mark: &Mark) -> Document {
    let failure = doc! {
        "at": mark.at,
        "attempt": i64::from(mark.attempts),
        "class": mark.class,
        "code": &mark.code,
        "error": &mark.error,
        "relay": &mark.relay,
    };
    let failures = doc! { "$cond": [{ "$isArray": "$failures" }, "$failures", []] };
    let mut set = doc! {
        field::IS_LOCKED: false,
        field::ATTEMPTS: i64::from(mark.attempts),
        field::FAILURES: { "$slice": [{ "$concatArrays": [failures, [{ "$literal": failure }]] }, -FAILURES_KEPT] },
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
    }
}
