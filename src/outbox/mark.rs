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

/// A mark or a park that the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its place among those of the command.
    pub(crate) index: usize,
    pub(crate) error: String,
}

impl Refused {
    pub(super) fn read(error: &Document) -> Option<Self> {
        let index = usize::try_from(error.get_i32("index").ok()?).ok()?;
        Some(Self { index, error: error.get_str("errmsg").unwrap_or("(no reason given)").to_owned() })
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

/// A pipeline, so that a document whose bookkeeping fields are of the wrong type can be marked too. The filter makes it
/// safe to repeat: one relay makes one failure of an event at one time.
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
