//! The state of an event: which fields of its document decide it, and how MongoDB is asked for it.
//!
//! ```text
//!  Scheduled ── due: moved into the outbox
//!              │
//!              ▼
//!  insert ──▶ Locked ───────── acked ─────────▶ deleted
//!              │   │                               ▲
//!      refused │   │ behind a failed event         │
//!              ▼   ▼ of its key                    │
//!          Failed  Parked ── retried and acked ────┤
//!              │     │                             │
//!              ▼     ▼  refused too often          │
//!              Dead ── an operator retries or ─────┘
//!                      discards it
//! ```
//!
//! Everything else follows from one table, `State::signs`: the filter, the aggregation and the
//! state of a document in memory. To add a state, add its signs, its word and its meaning, and put
//! it into the sets of [`State`] that it belongs to.

use std::fmt;
use std::time::Duration;

use bson::{Bson, Document, doc};
use outboxd_client::field;
use serde::{Serialize, Serializer};

use super::layout::Layout;

/// Where an event is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The event waits for its time in the collection of scheduled events, beside the outbox. An
    /// event there is either scheduled or dead.
    ///
    /// - Entered by the writer, with the insert there.
    /// - Left by the writer, who cancels it; by the relay, which moves it into the outbox once it is
    ///   due, or marks it as dead; or by an operator, who discards it.
    Scheduled,
    /// Sweep and tail bring the event, and the relay publishes it.
    ///
    /// - Entered by the writer, with the insert.
    /// - Left by the relay: it deletes the event on the ack, marks it as failed or dead, or parks
    ///   it.
    Locked,
    /// A publish of the event was refused or got no answer, and the retrier tries it again.
    ///
    /// - Entered by the relay, with the mark of the failure, and by an operator who retries a dead
    ///   event.
    /// - Left by the relay: it deletes the event on the ack, marks it as dead after too many
    ///   refusals, or discards it on an operator's request.
    Failed,
    /// The event waits behind an earlier event of its key and has not failed itself.
    ///
    /// - Entered by the relay, with a park.
    /// - Left by the relay once the events before it are through: it deletes the event on the ack,
    ///   marks it as failed or dead, or discards it on an operator's request.
    Parked,
    /// The event can never be sent, or was refused too often: it waits for an operator.
    ///
    /// - Entered by the relay, with the mark of the last failure.
    /// - Left by an operator, with a retry or a discard.
    Dead,
}

/// A fact about one field of a document. The states are combinations of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// `isLocked` is not false.
    Locked,
    /// `deadAt` is a date. The relay writes it together with `isLocked: false`.
    ///
    /// The contract allows a date, null and no field. The relay marks a document with anything else
    /// as dead, which puts a date there; until then no filter finds the document.
    Dead,
    /// `failures` has an entry.
    Failed,
}

/// The signs that one document shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    pub(super) is_locked: bool,
    pub(super) is_dead: bool,
    pub(super) has_failed: bool,
}

impl State {
    /// Every state of an event in the outbox.
    pub const ALL: [Self; 4] = [Self::Locked, Self::Failed, Self::Parked, Self::Dead];
    /// Everything that is unlocked. The verbs call it stuck; the alert `stuck` means old.
    pub(crate) const UNLOCKED: &[Self] = &[Self::Failed, Self::Parked, Self::Dead];
    /// What the retrier publishes once it is due.
    pub(crate) const WAITING: &[Self] = &[Self::Failed, Self::Parked];
    /// What the relay has yet to deliver.
    pub(crate) const NOT_DEAD: &[Self] = &[Self::Locked, Self::Failed, Self::Parked];

    /// The table: each state has these signs, and no other state has all of them.
    const fn signs(self) -> &'static [(Sign, bool)] {
        match self {
            // Among the scheduled events, which have no other signs.
            Self::Scheduled => &[(Sign::Dead, false)],
            Self::Locked => &[(Sign::Locked, true), (Sign::Dead, false)],
            Self::Failed => &[(Sign::Locked, false), (Sign::Dead, false), (Sign::Failed, true)],
            Self::Parked => &[(Sign::Locked, false), (Sign::Dead, false), (Sign::Failed, false)],
            Self::Dead => &[(Sign::Locked, false), (Sign::Dead, true)],
        }
    }

    /// Its word for people, in tables and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Locked => "locked",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// What the word means, for people.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Scheduled => "waiting for their time",
            Self::Locked => "on their way",
            Self::Failed => "refused, retried",
            Self::Parked => "waiting behind an earlier event of their key",
            Self::Dead => "waiting for an operator",
        }
    }

    /// The state of a document.
    pub(crate) fn of(document: &Document) -> Self {
        Self::with(Signs {
            is_locked: !matches!(document.get_bool(field::IS_LOCKED), Ok(false)),
            is_dead: document.get_datetime(field::DEAD_AT).is_ok(),
            has_failed: document.get_array(field::FAILURES).is_ok_and(|all| !all.is_empty()),
        })
    }

    /// The state with these signs. A document that somebody locked by hand after it had been marked
    /// as dead has the signs of none; it is dead.
    pub(super) fn with(signs: Signs) -> Self {
        let shows = |sign| match sign {
            Sign::Locked => signs.is_locked,
            Sign::Dead => signs.is_dead,
            Sign::Failed => signs.has_failed,
        };

        let has_all = |state: &Self| state.signs().iter().all(|(sign, is)| shows(*sign) == *is);

        Self::ALL.into_iter().find(has_all).unwrap_or(Self::Dead)
    }

    /// In a query: the documents in this state.
    pub(crate) fn filter(self, layout: &Layout) -> Document {
        filter(&[self], layout)
    }

    /// In an aggregation: whether a document is in this state.
    pub(crate) fn expression(self) -> Document {
        let signs = self.signs().iter().map(|(sign, is)| sign.expression(*is));
        doc! { "$and": signs.collect::<Vec<_>>() }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl Sign {
    fn condition(self, is: bool, layout: &Layout) -> (String, Bson) {
        let (name, condition) = match (self, is) {
            (Self::Locked, true) => (field::IS_LOCKED, layout.locked()),
            (Self::Locked, false) => (field::IS_LOCKED, false.into()),
            (Self::Dead, true) => (field::DEAD_AT, is_date()),
            (Self::Dead, false) => (field::DEAD_AT, Bson::Null),
            (Self::Failed, _) => return (first_failure(), doc! { "$exists": is }.into()),
        };
        (name.to_owned(), condition)
    }

    fn expression(self, is: bool) -> Document {
        let expression = match self {
            Self::Locked => doc! { "$ne": [path(field::IS_LOCKED), false] },
            Self::Dead => doc! { "$eq": [{ "$type": path(field::DEAD_AT) }, "date"] },
            Self::Failed => doc! { "$gt": [{ "$size": failures() }, 0] },
        };
        if is {
            expression
        } else {
            doc! { "$not": [expression] }
        }
    }
}

/// In a query: the documents in any of these states. It asks for the signs that the states share,
/// so the set must be all the states that share some; the sets of [`State`] are.
pub(crate) fn filter(states: &[State], layout: &Layout) -> Document {
    let Some((first, others)) = states.split_first() else { return Document::new() };
    let shared = |sign: &&(Sign, bool)| others.iter().all(|state| state.signs().contains(sign));
    let shared = first.signs().iter().filter(shared);

    shared.map(|(sign, is)| sign.condition(*is, layout)).collect()
}

/// Makes the server answer a filter of unlocked events from the index `outboxd_unlocked`.
///
/// That index holds the unlocked events alone, ordered by key. The server considers an index only
/// for a filter with a condition on the index's first field; for any other it reads the whole
/// outbox. So this adds a condition on the key that every document meets, with a key or without. A
/// filter that has a condition on the key already stays as it is.
pub(crate) fn by_index(mut filter: Document, layout: &Layout) -> Document {
    if !filter.contains_key(layout.key()) {
        filter.insert(layout.key(), doc! { "$gte": Bson::MinKey });
    }
    filter
}

/// In an aggregation: the word for the state of a document.
pub(crate) fn word_of_document() -> Document {
    let branch = |state: State| doc! { "case": state.expression(), "then": state.word() };
    doc! { "$switch": {
        "branches": State::ALL.map(branch).to_vec(),
        "default": State::Dead.word(),
    } }
}

/// In a query on events that wait: the time of their next attempt has come. An event without such a
/// time is due: a missing field compares below every date. So is one whose time is further away
/// than `longest`, the longest wait: the server's clock was set back since, or a primary took over
/// whose clock is behind.
pub(crate) fn is_due(longest: Duration) -> Document {
    let next = path(field::NEXT_ATTEMPT_AT);
    let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    let latest = doc! { "$add": ["$$NOW", longest] };

    doc! { "$expr": { "$or": [
        { "$lte": [&next, "$$NOW"] },
        { "$gt": [&next, latest] },
    ] } }
}

/// Every type but dates and null, and arrays: what is in one has its own type here.
const NO_DATE: [&str; 18] = [
    "double",
    "string",
    "object",
    "binData",
    "undefined",
    "objectId",
    "bool",
    "regex",
    "dbPointer",
    "javascript",
    "symbol",
    "javascriptWithScope",
    "int",
    "timestamp",
    "long",
    "decimal",
    "minKey",
    "maxKey",
];

/// In queries: unlocked documents that the retrier never finds, because a field that decides when
/// they are due is neither a date nor left out. They are malformed, and not marked as dead yet. The
/// types are named one by one, so that the server looks for those alone in an index.
pub(crate) fn unlocked_by_mistake() -> [Document; 4] {
    let wrong = || doc! { "$type": NO_DATE.to_vec() }.into();
    let empty = || Bson::Array(Vec::new());
    let dead_at = |is: Bson| doc! { field::IS_LOCKED: false, field::DEAD_AT: is };
    let next_attempt_at = |is: Bson| {
        doc! { field::IS_LOCKED: false, field::DEAD_AT: Bson::Null, field::NEXT_ATTEMPT_AT: is }
    };

    [dead_at(wrong()), dead_at(empty()), next_attempt_at(wrong()), next_attempt_at(empty())]
}

/// In queries: scheduled documents that never come to be due, because a field that decides it is
/// neither a date nor left out. They are malformed, and not marked as dead yet.
pub(crate) fn scheduled_by_mistake() -> [Document; 3] {
    let wrong = || doc! { "$type": NO_DATE.to_vec() };
    [
        doc! { field::DEAD_AT: wrong() },
        doc! { field::DEAD_AT: Bson::Array(Vec::new()) },
        doc! { field::DEAD_AT: Bson::Null, field::DELIVER_AT: wrong() },
    ]
}

/// How long an operator's request to remove an event holds, by the server's clock. After that the
/// relay publishes the event again: the command that asked is gone and could not withdraw it.
pub(crate) const DISCARD_HOLDS: Duration = Duration::from_secs(30);

/// In a query: an operator asked to remove the event less than `within` ago. That is a request, not
/// a state: the relay grants it to an event that it does not hold, and the operator's command
/// removes the event. A time in the future counts as far as one in the past, so that a request
/// lapses although the server's clock was set back. Whatever is no date compares below or above.
pub(crate) fn discard_requested(within: Duration) -> Document {
    let (at, within) = (path(field::DISCARD_REQUESTED_AT), within.as_millis() as i64);
    doc! { "$expr": { "$and": [
        { "$gt": [&at, { "$subtract": ["$$NOW", within] }] },
        { "$lt": [&at, { "$add": ["$$NOW", within] }] },
    ] } }
}

/// In a query: the relay has not granted the request to the command that made it.
pub(crate) fn discard_not_granted() -> Document {
    let (by, to) = (path(field::DISCARD_REQUESTED_BY), path(field::DISCARD_GRANTED_TO));
    doc! { field::DISCARD_REQUESTED_BY: { "$type": "objectId" }, "$nor": [
        { "$expr": { "$eq": [by, to] } },
    ] }
}

/// In an update with a pipeline: what was asked and granted is taken back.
pub(crate) fn discard_withdrawn() -> Document {
    doc! { "$unset": [
        field::DISCARD_REQUESTED_AT,
        field::DISCARD_REQUESTED_BY,
        field::DISCARD_GRANTED_TO,
    ] }
}

/// In a query: the event has failed, whatever has become of it since.
pub(crate) fn has_failed() -> Document {
    doc! { first_failure(): { "$exists": true } }
}

/// In an aggregation: the failures of a document, or none if the field holds something else.
pub(crate) fn failures() -> Document {
    let failures = path(field::FAILURES);
    doc! { "$cond": [{ "$isArray": &failures }, &failures, []] }
}

fn first_failure() -> String {
    format!("{}.0", field::FAILURES)
}

fn is_date() -> Bson {
    doc! { "$type": "date" }.into()
}

fn path(name: &str) -> String {
    format!("${name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of signs.
    fn combinations() -> impl Iterator<Item = Signs> {
        (0..8).map(|bits| Signs {
            is_locked: bits & 1 > 0,
            is_dead: bits & 2 > 0,
            has_failed: bits & 4 > 0,
        })
    }

    fn shows(signs: Signs, sign: Sign) -> bool {
        match sign {
            Sign::Locked => signs.is_locked,
            Sign::Dead => signs.is_dead,
            Sign::Failed => signs.has_failed,
        }
    }

    #[test]
    fn a_document_has_the_signs_of_one_state() {
        for signs in combinations().filter(|signs| !(signs.is_locked && signs.is_dead)) {
            let states = State::ALL
                .into_iter()
                .filter(|state| state.signs().iter().all(|(sign, is)| shows(signs, *sign) == *is));
            assert_eq!(states.collect::<Vec<_>>(), [State::with(signs)], "{signs:?}");
        }
    }

    #[test]
    fn a_set_of_states_shares_signs_that_no_other_state_has() {
        for states in [State::UNLOCKED, State::WAITING, State::NOT_DEAD] {
            let asked = filter(states, &Layout::default());
            assert!(!asked.is_empty(), "{states:?}");

            for state in State::ALL {
                let conditions = state.filter(&Layout::default());
                let found = asked.iter().all(|(name, wanted)| conditions.get(name) == Some(wanted));
                assert_eq!(found, states.contains(&state), "{states:?}: {state}");
            }
        }
    }

    #[test]
    fn the_filters_are_those_of_the_contract() {
        let own = Layout::default();
        let failed = doc! { "isLocked": false, "deadAt": null, "failures.0": { "$exists": true } };
        assert_eq!(State::Locked.filter(&own), doc! { "isLocked": true, "deadAt": null });
        assert_eq!(State::Failed.filter(&own), failed);
        assert_eq!(
            State::Dead.filter(&own),
            doc! { "isLocked": false, "deadAt": { "$type": "date" } }
        );
        assert_eq!(filter(State::UNLOCKED, &own), doc! { "isLocked": false });
        assert_eq!(filter(State::NOT_DEAD, &own), doc! { "deadAt": null });
    }

    #[test]
    fn a_condition_on_the_key_stays() {
        let own = Layout::default();
        let of_one_key = doc! { "isLocked": false, "key": "k" };
        assert_eq!(by_index(of_one_key.clone(), &own), of_one_key);
        assert!(by_index(doc! { "isLocked": false }, &own).contains_key("key"));
    }
}
