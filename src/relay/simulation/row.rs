//! An event as the simulated outbox has it, and its document.

use std::collections::BTreeSet;

use bson::{DateTime, RawDocumentBuf, Timestamp, doc};
use outboxd_client::field;

use crate::document::state::DISCARD_HOLDS;

/// An operator's request to remove an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Discard {
    pub(super) asked_ms: i64,
    pub(super) granted: bool,
}

impl Discard {
    pub(super) fn holds(self, now_ms: i64) -> bool {
        u128::from(self.asked_ms.abs_diff(now_ms)) < DISCARD_HOLDS.as_millis()
    }
}

/// An event as the outbox has it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) key: Option<u8>,
    pub(super) ts: Timestamp,
    pub(super) subject: u8,
    pub(super) locked: bool,
    pub(super) attempts: u32,
    pub(super) due_ms: Option<i64>,
    pub(super) dead: bool,
    pub(super) discard: Option<Discard>,
    /// It doesn't follow the contract, until an operator repairs it.
    pub(super) malformed: bool,
    /// The server will never write a mark or a park of it, until all is well.
    pub(super) cursed: bool,
    pub(super) marks: BTreeSet<i64>,
}

impl Row {
    /// As a service inserts it.
    pub(super) fn new(key: Option<u8>, ts: Timestamp, subject: u8) -> Self {
        Self {
            key,
            ts,
            subject,
            locked: true,
            attempts: 0,
            due_ms: None,
            dead: false,
            discard: None,
            malformed: false,
            cursed: false,
            marks: BTreeSet::new(),
        }
    }
}

/// A row as the document that it is in the outbox.
pub(super) fn document(number: u32, row: &Row) -> RawDocumentBuf {
    let mut event = doc! {
        field::ID: format!("e{number}"),
        field::TS: row.ts,
        field::SUBJECT: if row.malformed { "not a subject".to_owned() } else { format!("made.s{}", row.subject) },
        field::PAYLOAD: { "number": number },
        field::IS_LOCKED: row.locked,
        field::FAILURES: row.marks.iter().take(1).map(|at| doc! { "at": at }).collect::<Vec<_>>(),
        field::ATTEMPTS: i64::from(row.attempts),
    };
    if let Some(key) = row.key {
        event.insert(field::KEY, format!("k{key}"));
    }

    if let Some(due_ms) = row.due_ms {
        event.insert(field::NEXT_ATTEMPT_AT, DateTime::from_millis(due_ms));
    }

    if row.dead {
        event.insert(field::DEAD_AT, DateTime::from_millis(0));
    }

    if let Some(discard) = row.discard {
        event.insert(field::DISCARD_REQUESTED_AT, DateTime::from_millis(discard.asked_ms));
    }

    RawDocumentBuf::try_from(&event).expect("a document")
}

/// The number in an event's id, or in what follows the prefix of a message id.
pub(super) fn number(id: &str) -> u32 {
    let (id, _) = id.split_once('"').unwrap_or((id, ""));
    id.trim_start_matches('e').parse().expect("ids are e and a number")
}
