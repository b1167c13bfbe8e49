//! What an operator asks of an outbox: bounded reads that leave the relay alone.
//!
//! Stuck events are unlocked, and the partial index holds all of those; locked events are only
//! counted. Documents are read leniently: an operator who looks for broken documents must be shown
//! them.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use mongodb::{Collection, Database};
use outboxd_client::field;
use serde::Serialize;

use super::backlog::BacklogStore;
use super::clock;
use super::collation::simple;
use super::collections::LEASE;
use super::selection::{Selection, ids};
use crate::document::layout::Layout;
use crate::document::record::shown_id;
use crate::document::state::{self, State};
use crate::document::written::{written_at, written_at_of_document};

/// Most subjects in [`Stats`].
const SUBJECTS: usize = 20;
/// Most groups of failures.
const GROUPS: i64 = 100;
/// Characters shown of a text of an event.
const MAX_SHOWN: usize = 2048;
/// Characters shown of a subject.
const MAX_SHOWN_SUBJECT: usize = 255;

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
    /// Of its newest failure.
    pub(crate) class: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
}

/// Events that failed alike.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    pub(crate) class: String,
    pub(crate) code: String,
    /// With `#` for numbers.
    pub(crate) error: String,
    /// The error of the sample, as it is.
    pub(crate) example: String,
    pub(crate) events: u64,
    pub(crate) dead: u64,
    pub(crate) first: Option<String>,
    pub(crate) last: Option<String>,
    pub(crate) sample: String,
}

/// The outbox in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Stats {
    /// Everything in it; from the collection's metadata.
    pub(crate) backlog: u64,
    pub(crate) locked: u64,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    /// Age of the oldest event that is not dead; see [`BacklogStore::oldest`].
    pub(crate) oldest_seconds: Option<u64>,
    /// Stuck events by subject, those with the most failures first.
    pub(crate) stuck_by_subject: Vec<Stuck>,
    pub(crate) lease: Option<Holder>,
}

/// The stuck events of a subject.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stuck {
    pub(crate) subject: String,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    /// For how long events of this subject have been stuck: since the first of those counted here,
    /// dead ones included. `None` when the age of none is known.
    pub(crate) oldest_seconds: Option<u64>,
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
    database: Database,
    events: Collection<Document>,
    layout: Arc<Layout>,
    backlog: BacklogStore,
}

impl Inspect {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(database: Database, collection: &str, layout: Arc<Layout>) -> Self {
        Self {
            events: database.collection(collection),
            backlog: BacklogStore::new(database.clone(), collection, layout.clone()),
            database,
            layout,
        }
    }

    /// The selected events, oldest first, and how many there are in all.
    pub(crate) async fn list(
        &self,
        selection: &Selection,
        skip: u64,
        limit: i64,
    ) -> Result<(Vec<Entry>, u64)> {
        let now = clock::now(&self.database).await?;
        let filter = selection.filter(&self.layout, now);
        let shown = doc! {
            self.layout.payload(): 0,
            self.layout.headers(): 0,
            field::FAILURES: { "$slice": -1 },
        };

        let found = self.events.find(filter.clone()).sort(doc! { field::TS: 1, field::ID: 1 });
        let found = found.skip(skip).limit(limit).projection(shown).collation(simple()).await?;
        let entries =
            found.map_ok(|event| Entry::read(&event, &self.layout, now)).try_collect().await?;

        Ok((entries, self.events.count_documents(filter).collation(simple()).await?))
    }

    /// The failed and dead events, grouped by how they failed last, the most first.
    pub(crate) async fn groups(&self, selection: &Selection) -> Result<Vec<Group>> {
        let mut filter = selection.filter(&self.layout, clock::now(&self.database).await?);
        filter.extend(state::has_failed());

        let is_dead = State::Dead.expression();
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$project": { "dead": is_dead, "last": { "$last": state::failures() } } },
            // By the errors as they are first, since most are equal: to take the numbers out of
            // each one costs more.
            doc! { "$group": {
                "_id": { "class": "$last.class", "code": "$last.code", "error": "$last.error" },
                "events": { "$sum": 1_i64 },
                "dead": { "$sum": { "$cond": ["$dead", 1_i64, 0_i64] } },
                "first": { "$min": "$last.at" },
                "last": { "$max": "$last.at" },
                "sample": { "$first": "$_id" },
                "example": { "$first": "$last.error" },
            } },
            doc! { "$group": {
                "_id": {
                    "class": "$_id.class",
                    "code": "$_id.code",
                    "error": without_numbers("$_id.error"),
                },
                "events": { "$sum": "$events" },
                "dead": { "$sum": "$dead" },
                "first": { "$min": "$first" },
                "last": { "$max": "$last" },
                "sample": { "$first": "$sample" },
                "example": { "$first": "$example" },
            } },
            doc! { "$sort": { "events": -1 } },
            doc! { "$limit": GROUPS },
        ];

        let groups = self.events.aggregate(pipeline).collation(simple()).await?;
        groups.map_ok(|group| Group::read(&group)).try_collect().await
    }

    /// The outbox in numbers. Reads what is unlocked, and a few documents of the rest.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let now = clock::now(&self.database).await?;
        let mut stats = Stats::default();

        let groups = self.events.aggregate(self.stuck_by_subject()).collation(simple());
        let mut groups = groups.await?;
        while let Some(group) = groups.try_next().await? {
            let stuck = Stuck::read(&group, now);
            stats.failed += stuck.failed;
            stats.parked += stuck.parked;
            stats.dead += stuck.dead;

            if stats.stuck_by_subject.len() < SUBJECTS {
                stats.stuck_by_subject.push(stuck);
            }
        }

        stats.oldest_seconds = self.backlog.oldest(now).await?.and_then(|old| old.age_seconds);
        stats.backlog = self.backlog.size().await?;
        stats.locked = stats.backlog.saturating_sub(stats.failed + stats.parked + stats.dead);
        stats.lease = self.holder(now).await?;

        Ok(stats)
    }

    /// A pipeline that counts the stuck events of each subject by their state.
    fn stuck_by_subject(&self) -> [Document; 4] {
        let stuck = state::by_index(state::filter(State::UNLOCKED, &self.layout), &self.layout);
        let count = |state: State| {
            let is = doc! { "$eq": ["$state", state.word()] };
            doc! { "$sum": { "$cond": [is, 1_i64, 0_i64] } }
        };

        [
            doc! { "$match": stuck },
            doc! { "$project": {
                "subject": self.layout.subject_of_document(),
                "since": written_at_of_document(),
                "state": state::word_of_document(),
            } },
            doc! { "$group": {
                "_id": "$subject",
                "failed": count(State::Failed),
                "parked": count(State::Parked),
                "dead": count(State::Dead),
                "oldest": { "$min": "$since" },
            } },
            doc! { "$sort": { "failed": -1, "dead": -1, "parked": -1, "_id": 1 } },
        ]
    }

    /// The whole document of this id.
    pub(crate) async fn whole(&self, id: &str) -> Result<Option<Document>> {
        let event = self.events.find_one(doc! { field::ID: { "$in": ids(id) } });
        event.collation(simple()).await
    }

    /// The oldest stuck event of the same key, if it is older than this one.
    pub(crate) async fn head(&self, event: &Document) -> Result<Option<Entry>> {
        let Some(earlier) = self.of_its_key(event, "$lt") else { return Ok(None) };
        let now = clock::now(&self.database).await?;

        let head = self.events.find_one(earlier).sort(doc! { field::TS: 1, field::ID: 1 });
        let head = head.projection(doc! { self.layout.payload(): 0 }).collation(simple()).await?;
        Ok(head.map(|head| Entry::read(&head, &self.layout, now)))
    }

    /// How many stuck events of the same key are younger than this one.
    pub(crate) async fn behind(&self, event: &Document) -> Result<u64> {
        let Some(later) = self.of_its_key(event, "$gt") else { return Ok(0) };
        self.events.count_documents(later).collation(simple()).await
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

    /// Seconds since this event was written, if that is known.
    pub(crate) async fn age(&self, event: &Document) -> Result<Option<u64>> {
        Ok(age(event, clock::now(&self.database).await?))
    }

    async fn holder(&self, now: DateTime) -> Result<Option<Holder>> {
        let leases = self.database.collection::<Document>(LEASE);
        let lease = leases.find_one(doc! { "_id": self.events.name() }).collation(simple()).await?;
        Ok(lease.map(|lease| Holder::read(&lease, now)))
    }
}

impl Group {
    fn read(group: &Document) -> Self {
        let by = group.get_document("_id").cloned().unwrap_or_default();
        Self {
            class: text(&by, "class").unwrap_or_default(),
            code: text(&by, "code").unwrap_or_default(),
            error: text(&by, "error").unwrap_or_default(),
            events: count(group, "events"),
            dead: count(group, "dead"),
            first: date(group, "first"),
            last: date(group, "last"),
            sample: group.get("sample").map(shown_id).unwrap_or_default(),
            example: text(group, "example").unwrap_or_default(),
        }
    }
}

impl Stuck {
    fn read(group: &Document, now: DateTime) -> Self {
        let subject = group.get_str("_id").unwrap_or("(not a text)");
        let oldest = match group.get("oldest") {
            Some(Bson::Double(seconds)) => Some(*seconds as i64),
            other => other.and_then(Bson::as_i64),
        };

        Self {
            subject: subject.chars().take(MAX_SHOWN_SUBJECT).collect(),
            failed: count(group, "failed"),
            parked: count(group, "parked"),
            dead: count(group, "dead"),
            oldest_seconds: clock::age(oldest, now),
        }
    }
}

impl Holder {
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
    fn read(event: &Document, layout: &Layout, now: DateTime) -> Self {
        let get = |name: &str| event.get(name).cloned();
        let failures = event.get_array(field::FAILURES).ok();
        let failure = failures
            .and_then(|failures| failures.last()?.as_document().cloned())
            .unwrap_or_default();

        Self {
            id: event.get(field::ID).map(shown_id).unwrap_or_default(),
            state: State::of(event),
            subject: layout.shown_subject(get).as_deref().map(plain),
            key: layout.shown_key(get).as_deref().map(plain),
            age_seconds: age(event, now),
            attempts: u32::try_from(count(event, field::ATTEMPTS)).unwrap_or(u32::MAX),
            next_attempt_at: date(event, field::NEXT_ATTEMPT_AT),
            dead_at: date(event, field::DEAD_AT),
            class: text(&failure, "class"),
            code: text(&failure, "code"),
            error: text(&failure, "error"),
        }
    }
}

/// A text of an event, without the characters that a terminal would obey.
pub(crate) fn text(document: &Document, name: &str) -> Option<String> {
    document.get_str(name).ok().map(plain)
}

fn plain(text: &str) -> String {
    text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn count(document: &Document, name: &str) -> u64 {
    match document.get(name) {
        Some(Bson::Int32(count)) => u64::try_from(*count).unwrap_or(0),
        Some(Bson::Int64(count)) => u64::try_from(*count).unwrap_or(0),
        _ => 0,
    }
}

fn date(document: &Document, name: &str) -> Option<String> {
    document.get_datetime(name).ok()?.try_to_rfc3339_string().ok()
}

/// Seconds since an event was written, if that is known.
fn age(event: &Document, now: DateTime) -> Option<u64> {
    clock::age(written_at(|name| event.get(name).cloned()).map(i64::from), now)
}

/// In an aggregation: a text with `#` for each number in it.
fn without_numbers(path: &str) -> Document {
    let text = doc! { "$convert": { "input": path, "to": "string", "onError": "", "onNull": "" } };
    let numbers = doc! { "$regexFindAll": { "input": text.clone(), "regex": r"\b[0-9]+\b" } };
    let replaced = doc! { "$replaceAll": {
        "input": "$$value", "find": "$$this.match", "replacement": "#",
    } };
    doc! { "$reduce": { "input": numbers, "initialValue": text, "in": replaced } }
}
