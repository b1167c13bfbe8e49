//! What the operator asks of an outbox: bounded reads that leave the relay alone.
//!
//! What is stuck is unlocked, and all of that is in the one partial index; what is locked is only
//! counted. Documents are read leniently: whoever looks for what is wrong must be shown what is
//! wrong.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::Result;
use mongodb::{Client, Collection, Database};
use serde::Serialize;

use super::collections::LEASE;
use super::selection::{Selection, ids};
use crate::config::Config;
use crate::document::layout::Layout;
use crate::document::record::{any_key, shown_id, written_at};
use outboxd_client::field;

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// On its way: the relay's live path owns it.
    Locked,
    /// It was refused and is tried again.
    Failed,
    /// It waits behind an earlier event of its key.
    Parked,
    /// It waits for a person.
    Dead,
}

/// One event, as a line of a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) age_seconds: u64,
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
    /// Age of the oldest event, dead ones included; of the locked ones, the first in the
    /// collection's own order.
    pub(crate) oldest_seconds: Option<u64>,
    /// Stuck events by subject, the most first.
    pub(crate) stuck_by_subject: Vec<Stuck>,
    pub(crate) lease: Option<Holder>,
}

/// Stuck events of a subject.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stuck {
    pub(crate) subject: String,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    pub(crate) oldest_seconds: u64,
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
    pub(super) events: Collection<Document>,
    layout: Arc<Layout>,
}

/// Subjects listed by [`Inspect::stats`].
const SUBJECTS: i64 = 20;

impl Inspect {
    pub(crate) fn new(client: &Client, config: &Config) -> Self {
        let database = client.database(&config.mongodb.database);
        let events = database.collection(&config.mongodb.collection);
        Self { database, events, layout: config.event.layout.clone() }
    }

    /// Where the parts of its events stand.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The selected events, oldest first, and how many there are in all.
    pub(crate) async fn list(
        &self,
        selection: &Selection,
        skip: u64,
        limit: i64,
    ) -> Result<(Vec<Entry>, u64)> {
        let now = self.now().await?;
        let filter = selection.filter(&self.layout, now);
        let shown = doc! { self.layout.payload(): 0, self.layout.headers(): 0, field::FAILURES: { "$slice": -1 } };
        let found = self.events.find(filter.clone()).sort(doc! { field::TS: 1, field::ID: 1 });
        let found = found.skip(skip).limit(limit).projection(shown).await?;
        let entries =
            found.map_ok(|event| Entry::read(&event, &self.layout, now)).try_collect().await?;
        Ok((entries, self.events.count_documents(filter).await?))
    }

    /// The failed and dead events, grouped by how they failed last, the most first.
    pub(crate) async fn groups(&self, selection: &Selection) -> Result<Vec<Group>> {
        let mut filter = selection.filter(&self.layout, self.now().await?);
        filter.insert("failures.0", doc! { "$exists": true });
        let error = doc! { "$convert": { "input": "$_id.error", "to": "string", "onError": "", "onNull": "" } };
        let numbers = doc! { "$regexFindAll": { "input": error.clone(), "regex": r"\b[0-9]+\b" } };
        let without = doc! { "$replaceAll": { "input": "$$value", "find": "$$this.match", "replacement": "#" } };
        let joined = doc! { "$reduce": { "input": numbers, "initialValue": error, "in": without } };
        let last = doc! { "$cond": [{ "$isArray": "$failures" }, "$failures", []] };
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$project": { "dead": "$deadAt", "last": { "$last": last } } },
            // As they are first, most being equal, and then without their numbers: that costs more.
            doc! { "$group": {
                "_id": { "class": "$last.class", "code": "$last.code", "error": "$last.error" },
                "events": { "$sum": 1_i64 },
                "dead": { "$sum": { "$cond": [{ "$gt": ["$dead", Bson::Null] }, 1_i64, 0_i64] } },
                "first": { "$min": "$last.at" },
                "last": { "$max": "$last.at" },
                "sample": { "$first": "$_id" },
                "example": { "$first": "$last.error" },
            } },
            doc! { "$group": {
                "_id": { "class": "$_id.class", "code": "$_id.code", "error": joined },
                "events": { "$sum": "$events" },
                "dead": { "$sum": "$dead" },
                "first": { "$min": "$first" },
                "last": { "$max": "$last" },
                "sample": { "$first": "$sample" },
                "example": { "$first": "$example" },
            } },
            doc! { "$sort": { "events": -1 } },
            doc! { "$limit": 100 },
        ];
        let groups = self.events.aggregate(pipeline).await?;
        groups
            .map_ok(|group| {
                let by = group.get_document("_id").cloned().unwrap_or_default();
                Group {
                    class: text(&by, "class").unwrap_or_default(),
                    code: text(&by, "code").unwrap_or_default(),
                    error: text(&by, "error").unwrap_or_default(),
                    events: count(&group, "events"),
                    dead: count(&group, "dead"),
                    first: date(&group, "first"),
                    last: date(&group, "last"),
                    sample: group.get("sample").map(shown_id).unwrap_or_default(),
                    example: text(&group, "example").unwrap_or_default(),
                }
            })
            .try_collect()
            .await
    }

    /// The outbox in numbers. Reads what is unlocked and one document of the rest.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let now = self.now().await?;
        let is = |state: State| doc! { "$sum": { "$cond": [{ "$eq": ["$state", state.as_str()] }, 1_i64, 0_i64] } };
        let state = doc! { "$switch": {
            "branches": [
                { "case": { "$gt": ["$deadAt", Bson::Null] }, "then": State::Dead.as_str() },
                { "case": { "$gt": [{ "$size": { "$cond": [{ "$isArray": "$failures" }, "$failures", []] } }, 0] },
                  "then": State::Failed.as_str() },
            ],
            "default": State::Parked.as_str(),
        } };
        let of_id = doc! { "$cond": [{ "$eq": [{ "$type": "$_id" }, "objectId"] }, { "$toDate": "$_id" }, Bson::Null] };
        let since = doc! { "$cond": [
            { "$eq": [{ "$type": "$ts" }, "timestamp"] },
            { "$tsSecond": "$ts" },
            { "$floor": { "$divide": [{ "$toLong": of_id }, 1000] } },
        ] };
        let pipeline = [
            doc! { "$match": { field::IS_LOCKED: false, self.layout.key(): any_key() } },
            doc! { "$project": { "subject": self.layout.subject_of_document(), "since": since, "state": state } },
            doc! { "$group": {
                "_id": "$subject", "failed": is(State::Failed), "parked": is(State::Parked), "dead": is(State::Dead),
                "oldest": { "$min": "$since" },
            } },
            doc! { "$sort": { "failed": -1, "dead": -1, "parked": -1, "_id": 1 } },
        ];
        let mut stats = Stats::default();
        let mut groups = self.events.aggregate(pipeline).await?;
        while let Some(group) = groups.try_next().await? {
            let subject =
                group.get_str("_id").unwrap_or("(not a text)").chars().take(255).collect();
            let (failed, parked, dead) =
                (count(&group, "failed"), count(&group, "parked"), count(&group, "dead"));
            stats.failed += failed;
            stats.parked += parked;
            stats.dead += dead;
            let oldest = match group.get("oldest") {
                Some(Bson::Double(seconds)) => Some(*seconds as i64),
                other => other.and_then(Bson::as_i64),
            };
            let oldest_seconds = seconds_since(oldest, now);
            stats.oldest_seconds = stats.oldest_seconds.max(Some(oldest_seconds));
            if stats.stuck_by_subject.len() < SUBJECTS as usize {
                stats.stuck_by_subject.push(Stuck {
                    subject,
                    failed,
                    parked,
                    dead,
                    oldest_seconds,
                });
            }
        }
        let first = self.events.find_one(doc! {}).projection(doc! { field::TS: 1 }).await?;
        stats.oldest_seconds = stats.oldest_seconds.max(first.map(|first| age(&first, now)));
        stats.backlog = self.events.estimated_document_count().await?;
        stats.locked = stats.backlog.saturating_sub(stats.failed + stats.parked + stats.dead);
        stats.lease = self.holder(now).await?;
        Ok(stats)
    }

    /// The whole document of this id.
    pub(crate) async fn whole(&self, id: &str) -> Result<Option<Document>> {
        self.events.find_one(doc! { field::ID: { "$in": ids(id) } }).await
    }

    /// The oldest stuck event of the same key, if it is older than this one.
    pub(crate) async fn head(&self, event: &Document) -> Result<Option<Entry>> {
        let Some(earlier) = self.of_its_key(event, "$lt") else { return Ok(None) };
        let now = self.now().await?;
        let head = self.events.find_one(earlier).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(head
            .projection(doc! { self.layout.payload(): 0 })
            .await?
            .map(|head| Entry::read(&head, &self.layout, now)))
    }

    /// How many stuck events of the same key are younger than this one.
    pub(crate) async fn behind(&self, event: &Document) -> Result<u64> {
        let Some(later) = self.of_its_key(event, "$gt") else { return Ok(0) };
        self.events.count_documents(later).await
    }

    fn of_its_key(&self, event: &Document, than: &str) -> Option<Document> {
        let key = self.layout.shown_key(|name| event.get(name).cloned())?;
        let mut filter =
            doc! { field::IS_LOCKED: false, self.layout.key(): self.layout.of_key(&key) };
        // Without `ts`, the order is that of the ids.
        let by = if event.get_timestamp(field::TS).is_ok() { field::TS } else { field::ID };
        filter.insert(by, doc! { than: event.get(by)? });
        Some(filter)
    }

    /// Seconds since this event was written.
    pub(crate) async fn age(&self, event: &Document) -> Result<u64> {
        Ok(age(event, self.now().await?))
    }

    /// The server's clock.
    pub(crate) async fn now(&self) -> Result<DateTime> {
        let hello = self.database.run_command(doc! { "hello": 1 }).await?;
        hello.get_datetime("localTime").copied().map_err(mongodb::error::Error::custom)
    }

    async fn holder(&self, now: DateTime) -> Result<Option<Holder>> {
        let leases = self.database.collection::<Document>(LEASE);
        let lease = leases.find_one(doc! { "_id": self.events.name() }).await?;
        Ok(lease.map(|lease| {
            let expires = lease.get_datetime("expiresAt").map_or(0, |at| at.timestamp_millis());
            Holder {
                holder: text(&lease, "holder").unwrap_or_default(),
                term: lease
                    .get("term")
                    .and_then(Bson::as_i64)
                    .or(lease.get_i32("term").ok().map(i64::from))
                    .unwrap_or(0),
                expires_in_seconds: (expires - now.timestamp_millis()).div_euclid(1000),
            }
        }))
    }
}

impl State {
    /// As printed.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// Of a document.
    pub(crate) fn of(event: &Document) -> Self {
        let failures = event.get_array(field::FAILURES).map_or(0, Vec::len);
        match (event.get_bool(field::IS_LOCKED), event.get_datetime(field::DEAD_AT), failures) {
            (_, Ok(_), _) => Self::Dead,
            (Ok(false), _, 0) => Self::Parked,
            (Ok(false), ..) => Self::Failed,
            _ => Self::Locked,
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

/// A text of an event, without what a terminal would obey.
pub(crate) fn text(document: &Document, name: &str) -> Option<String> {
    document.get_str(name).ok().map(plain)
}

fn plain(text: &str) -> String {
    text.chars().take(2048).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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

/// Seconds since an event was written.
fn age(event: &Document, now: DateTime) -> u64 {
    seconds_since(written_at(|name| event.get(name).cloned()).map(i64::from), now)
}

/// 0 when it isn't known.
fn seconds_since(then: Option<i64>, now: DateTime) -> u64 {
    let now = now.timestamp_millis() / 1000;
    u64::try_from(now.saturating_sub(then.unwrap_or(now))).unwrap_or(0)
}
