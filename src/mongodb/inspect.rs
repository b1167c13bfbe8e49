//! What an operator asks of an outbox: bounded reads that leave the relay alone.
//!
//! Stuck events are unlocked, and the partial index holds all of those; locked events are only
//! counted. Documents are read leniently: an operator who looks for broken documents must be shown
//! them.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{ErrorKind, Result};
use mongodb::{Collection, Database};
use outboxd_client::{field, scheduled_collection};
use serde::Serialize;

use super::backlog::BacklogStore;
use super::bounded::{QUERY_TIME, small};
use super::collation::simple;
use super::collections::LEASE;
use super::later::LaterStore;
use super::lease::{LAST_RELAY, LONGEST_TTL};
use super::{clock, code};
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};
use crate::document::written::written_at;
use crate::group;
use crate::printable::printable;

/// Characters shown of a text of an event.
const MAX_SHOWN: usize = 2048;
/// In the place of what is too large.
pub(super) const TOO_LARGE: &str = "(too large to be shown)";

/// In a projection: whether the event is in the collection of scheduled events.
pub(super) const IS_SCHEDULED: &str = "outboxdScheduled";

/// One event, as a line of a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    /// `None` when neither `ts` nor the id has a time.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) next_attempt_at: Option<String>,
    pub(crate) dead_at: Option<String>,
    /// Whether it is in the collection of scheduled events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) scheduled: bool,
    /// When it is due, of a scheduled event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deliver_at: Option<String>,
    /// Seconds until then; below zero once it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) due_in_seconds: Option<i64>,
    /// Of its newest failure.
    pub(crate) class: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    /// Of failures that are alike; see `outboxd groups`.
    pub(crate) group: Option<String>,
}

/// Who relays.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Holder {
    pub(crate) holder: String,
    pub(crate) term: i64,
    /// Below zero once it has expired.
    pub(crate) expires_in_seconds: i64,
}

/// An outbox, as an operator sees it.
#[derive(Debug, Clone)]
pub(crate) struct Inspect {
    pub(super) database: Database,
    pub(super) events: Collection<Document>,
    pub(super) scheduled: Collection<Document>,
    pub(super) layout: Arc<Layout>,
    pub(super) backlog: BacklogStore,
    pub(super) later: LaterStore,
}

impl Inspect {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self {
            events: database.collection(collection),
            scheduled: database.collection(&scheduled_collection(collection)),
            later: LaterStore::new(&database, collection, layout.clone()),
            backlog: BacklogStore::new(database.clone(), collection, layout.clone()),
            database,
            layout,
        }
    }

    /// Whether the outbox exists.
    ///
    /// # Errors
    /// The driver's, and the server's refusal of a user who may not even read it.
    pub(crate) async fn exists(&self) -> Result<bool> {
        // Names alone, and those of collections that the user may use: for that nobody needs a
        // privilege.
        let list = doc! {
            "listCollections": 1, "filter": { "name": self.events.name() },
            "nameOnly": true, "authorizedCollections": true, "cursor": {},
        };
        match self.database.run_cursor_command(list).await {
            Ok(mut found) => {
                if found.try_next().await?.is_some() {
                    return Ok(true);
                }
            }
            Err(error) => match &*error.kind {
                ErrorKind::Command(refused) if code::WITHHELD.contains(&refused.code) => {
                    return Ok(true);
                }
                _ => return Err(error),
            },
        }

        // Not there, or not for this user: then a read is refused.
        let read = self.events.find_one(doc! {}).projection(doc! { field::ID: 1 });
        Ok(read.max_time(QUERY_TIME).await?.is_some())
    }

    /// A projection of what a line of a list shows. A field that is too large is left out, but for
    /// the id, which commands need whole.
    pub(super) fn entry_of_document(&self, is_scheduled: bool) -> Document {
        let mut fields = Document::new();
        self.layout.project(&mut fields);
        let mut own = vec![
            field::TS,
            field::IS_LOCKED,
            field::ATTEMPTS,
            field::NEXT_ATTEMPT_AT,
            field::DEAD_AT,
        ];
        own.extend(is_scheduled.then_some(field::DELIVER_AT));

        let names =
            fields.into_iter().map(|(name, _)| name).chain(own.into_iter().map(str::to_owned));
        let mut entry: Document = names
            .map(|name| (name.clone(), Bson::from(small(format!("${name}"), "$$REMOVE"))))
            .collect();

        let newest = |name: &str| small(format!("$$newest.{name}"), TOO_LARGE);
        let newest = doc! {
            "class": newest("class"), "code": newest("code"), "error": newest("error"),
        };
        let read = doc! { "$let": {
            "vars": { "newest": { "$last": state::failures() } },
            "in": [newest],
        } };
        let has_failed = doc! { "$gt": [{ "$size": state::failures() }, 0] };
        entry.insert(field::FAILURES, doc! { "$cond": [has_failed, read, []] });
        entry.insert(field::ID, 1);
        entry.insert(IS_SCHEDULED, doc! { "$literal": is_scheduled });
        entry
    }

    /// The oldest stuck event of the same key, if it is older than this one.
    pub(crate) async fn head(&self, event: &Document) -> Result<Option<Entry>> {
        let Some(earlier) = self.of_its_key(event, "$lt") else { return Ok(None) };
        let now = clock::now(&self.database).await?;

        let pipeline = [
            doc! { "$match": earlier },
            doc! { "$project": self.entry_of_document(false) },
            doc! { "$sort": { field::TS: 1, field::ID: 1 } },
            doc! { "$limit": 1 },
        ];
        let head = self.events.aggregate(pipeline).max_time(QUERY_TIME).collation(simple());
        let head = head.await?.try_next().await?;
        Ok(head.map(|head| Entry::read(&head, &self.layout, now)))
    }

    /// How many stuck events of the same key are younger than this one.
    pub(crate) async fn behind(&self, event: &Document) -> Result<u64> {
        let Some(later) = self.of_its_key(event, "$gt") else { return Ok(0) };
        let later = self.events.count_documents(later).max_time(QUERY_TIME);
        later.collation(simple()).await
    }

    fn of_its_key(&self, event: &Document, than: &str) -> Option<Document> {
        let key = self.layout.shown_key(|name| event.get(name).cloned())?;
        let mut filter = state::filter(State::UNLOCKED, &self.layout);
        filter.insert(self.layout.key(), self.layout.of_key(&key));

        // As the server sorts by `ts` and `_id`: a field that is missing counts as null.
        let literal = |name: &str| {
            doc! { "$literal": event.get(name).cloned().unwrap_or(Bson::Null) }
        };
        let place = vec![format!("${}", field::TS), format!("${}", field::ID)];
        let this = vec![literal(field::TS), literal(field::ID)];
        filter.insert("$expr", doc! { than: [place, this] });
        Some(filter)
    }

    /// Seconds since this event was written, and until it is due, if that is known.
    pub(crate) async fn times(&self, event: &Document) -> Result<(Option<u64>, Option<i64>)> {
        let now = clock::now(&self.database).await?;
        let due = event.get_datetime(field::DELIVER_AT).ok();
        Ok((age(event, now), due.map(|at| due_in(*at, now))))
    }

    /// The server's time.
    pub(super) async fn now(&self) -> Result<DateTime> {
        clock::now(&self.database).await
    }

    /// Who relays, or did last.
    pub(crate) async fn lease(&self) -> Result<Option<Holder>> {
        self.holder(self.now().await?).await
    }

    pub(super) async fn holder(&self, now: DateTime) -> Result<Option<Holder>> {
        let leases = self.database.collection::<Document>(LEASE);
        let lease = leases.find_one(doc! { "_id": self.events.name() }).collation(simple()).await?;
        // A command that holds the lease for a moment is no relay.
        let relay = lease.and_then(|lease| match lease.get_document(LAST_RELAY) {
            Ok(relay) if relay.is_empty() => None,
            Ok(relay) => Some(relay.clone()),
            Err(_) => Some(lease),
        });
        Ok(relay.map(|relay| Holder::read(&relay, now)))
    }
}

impl Holder {
    /// Whether a relay may have it: none has a lease that lasts so long.
    pub(crate) fn is_a_relays(&self) -> bool {
        self.expires_in_seconds <= LONGEST_TTL.as_secs() as i64
    }

    fn read(lease: &Document, now: DateTime) -> Self {
        let expires = lease.get_datetime("expiresAt").map_or(0, |at| at.timestamp_millis());
        let term = match lease.get("term") {
            Some(Bson::Int32(term)) => i64::from(*term),
            term => term.and_then(Bson::as_i64).unwrap_or(0),
        };

        Self {
            holder: text(lease, "holder").unwrap_or_default(),
            term,
            expires_in_seconds: (expires - now.timestamp_millis()).div_euclid(1000),
        }
    }
}

impl Entry {
    pub(super) fn read(event: &Document, layout: &Layout, now: DateTime) -> Self {
        let get = |name: &str| event.get(name).cloned();
        let failures = event.get_array(field::FAILURES).ok();
        let failure = failures
            .and_then(|failures| failures.last()?.as_document().cloned())
            .unwrap_or_default();

        let key = layout.shown_key(get).as_deref().map(plain);
        let (code, error) = (text(&failure, "code"), text(&failure, "error"));
        let has_failed = failures.is_some_and(|failures| !failures.is_empty());
        let group = has_failed.then(|| group_of(code.as_deref(), error.as_deref(), key.as_deref()));

        let scheduled = event.get_bool(IS_SCHEDULED).unwrap_or(false);
        let due = event.get_datetime(field::DELIVER_AT).ok().filter(|_| scheduled);

        Self {
            id: event.get(field::ID).map(shown_id).unwrap_or_default(),
            state: if scheduled { state_of_scheduled(event) } else { State::of(event) },
            scheduled,
            deliver_at: due.and_then(|at| at.try_to_rfc3339_string().ok()),
            due_in_seconds: due.map(|at| due_in(*at, now)),
            subject: layout.shown_subject(get).as_deref().map(plain),
            key,
            group,
            age_seconds: age(event, now),
            attempts: u32::try_from(count(event, field::ATTEMPTS)).unwrap_or(u32::MAX),
            next_attempt_at: date(event, field::NEXT_ATTEMPT_AT),
            dead_at: date(event, field::DEAD_AT),
            class: text(&failure, "class"),
            code,
            error,
        }
    }
}

/// The group of an event of this key that has failed.
pub(super) fn group_of(code: Option<&str>, error: Option<&str>, key: Option<&str>) -> String {
    let reason = group::reason(error.unwrap_or_default(), key);
    group::id(code.unwrap_or_default(), &reason)
}

/// The state of an event in the collection of scheduled ones: it has died, or waits for its time.
pub(crate) fn state_of_scheduled(event: &Document) -> State {
    match event.get_datetime(field::DEAD_AT) {
        Ok(_) => State::Dead,
        Err(_) => State::Scheduled,
    }
}

/// Seconds from `now` until this time, rounded up; below zero once it is past.
pub(super) fn due_in(at: DateTime, now: DateTime) -> i64 {
    let millis = at.timestamp_millis().saturating_sub(now.timestamp_millis());
    -(millis.saturating_neg().div_euclid(1000))
}

/// A text of an event, without the characters that a terminal would obey.
pub(crate) fn text(document: &Document, name: &str) -> Option<String> {
    document.get_str(name).ok().map(plain)
}

pub(super) fn plain(text: &str) -> String {
    printable(&text.chars().take(MAX_SHOWN).collect::<String>())
}

pub(super) fn count(document: &Document, name: &str) -> u64 {
    match document.get(name) {
        Some(Bson::Int32(count)) => u64::try_from(*count).unwrap_or(0),
        Some(Bson::Int64(count)) => u64::try_from(*count).unwrap_or(0),
        _ => 0,
    }
}

pub(super) fn date(document: &Document, name: &str) -> Option<String> {
    document.get_datetime(name).ok()?.try_to_rfc3339_string().ok()
}

/// Seconds since an event was written, if that is known.
fn age(event: &Document, now: DateTime) -> Option<u64> {
    clock::age(written_at(|name| event.get(name).cloned()).map(i64::from), now)
}
