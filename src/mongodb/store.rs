//! Every query the relay makes on the outbox, in one place.
//!
//! Writes are `w: majority` and may be repeated without harm: what was done stays done. Reads that
//! decide about order are taken from one snapshot, so an event is never seen unlocked while the
//! failure it waits behind is not.

use std::sync::Arc;
use std::time::Duration;

use bson::{
    Bson, Document, RawArray, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc,
};
use futures_util::StreamExt;
use mongodb::error::Result;
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Collection};

use super::mark::{mark_update, read_refused};
use super::snapshot::{Snapshot, SweepCursor, Written};
use crate::config::{Config, OnDead, Ordering};
use crate::document::layout::Layout;
use crate::document::record::{MAX_ANY_ID_BYTES, OutboxRecord, any_key, shown_id, written_at};
use crate::relay::ports::{
    EventPage, EventStore, EventTail, Mark, Page, Parsed, Refused, Room, StoreResult,
};
use crate::relay::publish::outcome::Acked;
use outboxd_client::{EventId, Key, field};

/// Documents per reply: typical events come to half a megabyte. Without it the server fills 16 MB,
/// of which the driver holds two or three copies.
const BATCH: u32 = 1000;
/// Most events counted to say how many are stuck.
const MAX_COUNTED: u64 = 10_000;
/// Characters shown of a text that anybody may have written.
const MAX_SHOWN: usize = 255;
/// How long the server waits for something to happen before it answers a quiet tail: the pace at
/// which a stop is seen.
const TAIL_WAIT: Duration = Duration::from_secs(1);

/// The outbox collection, as the relay uses it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    collection: Collection<RawDocumentBuf>,
    layout: Arc<Layout>,
    ordering: Ordering,
    on_dead: OnDead,
    /// The newest of this relay's marks and parks.
    written: Written,
}

/// The oldest of the events that have waited for too long.
#[derive(Debug)]
pub(crate) struct Oldest {
    pub(crate) id: String,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) attempts: u32,
    /// The error of its newest failure.
    pub(crate) last_failure: Option<String>,
    pub(crate) age_seconds: u64,
    /// How many there are; counted up to [`MAX_COUNTED`].
    pub(crate) events: u64,
}

impl Store {
    pub(crate) fn new(client: Client, config: &Config) -> Self {
        let Config { mongodb, event, dispatch, .. } = config;
        let collection = client.database(&mongodb.database).collection(&mongodb.collection);
        let (ordering, on_dead) = (dispatch.ordering, dispatch.on_dead);
        Self {
            client,
            collection,
            layout: event.layout.clone(),
            ordering,
            on_dead,
            written: Written::default(),
        }
    }

    /// The same outbox, over connections of its own.
    pub(crate) fn through(&self, client: Client) -> Self {
        let collection =
            client.database(&self.collection.namespace().db).collection(self.collection.name());
        Self { client, collection, ..self.clone() }
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::begin(&self.client, &self.written).await
    }

    /// Each update becomes bytes at once: as documents, a thousand of them are ten times as big.
    async fn update(
        &self,
        updates: impl Iterator<Item = Document>,
        ordered: bool,
    ) -> Result<Vec<Refused>> {
        let mut statements = RawArrayBuf::new();
        for update in updates {
            statements.push(RawDocumentBuf::try_from(&update)?);
        }
        let command = rawdoc! {
            "update": self.collection.name(),
            "ordered": ordered,
            "updates": statements,
            "writeConcern": { "w": "majority" },
        };
        let reply =
            self.client.database(&self.collection.namespace().db).run_raw_command(command).await?;
        if let Some(error) = reply.get("writeConcernError") {
            return Err(mongodb::error::Error::custom(format!(
                "the write concern was not met: {error}"
            )));
        }
        self.written.learn(&reply);
        let refused = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        refused.iter().filter_map(bson::Bson::as_document).map(read_refused).collect()
    }

    /// The oldest event that isn't dead, if it is older than `age`. The first look ends at the
    /// first such document, which in the order of the collection is near the beginning; only when
    /// there is one are all looked at.
    pub(crate) async fn oldest(&self, age: Duration) -> Result<Option<Oldest>> {
        let before = self.ago(age).await?;
        let mut old = doc! { field::DEAD_AT: Bson::Null };
        self.layout.before(&mut old, before);
        let collection = &self.collection;
        if collection.find_one(old.clone()).projection(doc! { field::TS: 1 }).await?.is_none() {
            return Ok(None);
        }
        let mut shown =
            doc! { field::TS: 1, field::ATTEMPTS: 1, field::FAILURES: { "$slice": -1 } };
        self.layout.project(&mut shown);
        let oldest = self
            .collection
            .find_one(old.clone())
            .sort(doc! { field::TS: 1 })
            .projection(shown)
            .await?;
        // Whatever of it can't be read isn't shown.
        let Some(oldest) = oldest else { return Ok(None) };
        let get = |name: &str| {
            oldest.get(name).ok().flatten().and_then(|value| Bson::try_from(value).ok())
        };
        let cut = |text: String| text.chars().take(MAX_SHOWN).collect();
        let last_failure = get(field::FAILURES)
            .and_then(|failures| failures.as_array()?.first()?.as_document().cloned());
        let waited = before.time.saturating_sub(written_at(get).unwrap_or(before.time));
        Ok(Some(Oldest {
            id: get(field::ID).map_or_else(|| "(unreadable)".to_owned(), |id| shown_id(&id)),
            subject: self.layout.shown_subject(get).map(cut),
            key: self.layout.shown_key(get).map(cut),
            attempts: get(field::ATTEMPTS)
                .and_then(|count| u32::try_from(count.as_i64()?).ok())
                .unwrap_or(0),
            last_failure: last_failure
                .and_then(|failure| Some(failure.get_str("error").ok()?.to_owned())),
            age_seconds: age.as_secs() + u64::from(waited),
            events: collection.count_documents(old).limit(MAX_COUNTED).await?,
        }))
    }

    /// How many events there are, from the collection's metadata; how many are dead, counted up to
    /// [`MAX_COUNTED`]; and the age in seconds of the first in the collection's own order that
    /// isn't.
    pub(crate) async fn backlog(&self) -> Result<(u64, u64, u64)> {
        let now = self.ago(Duration::ZERO).await?;
        let collection = &self.collection;
        let first = collection
            .find_one(doc! { field::DEAD_AT: Bson::Null })
            .projection(doc! { field::TS: 1 })
            .await?;
        let get = |name: &str| Bson::try_from(first.as_ref()?.get(name).ok()??).ok();
        let since = written_at(get).unwrap_or(now.time);
        let mut dead = doc! { field::IS_LOCKED: false, field::DEAD_AT: { "$type": "date" } };
        dead.insert(self.layout.key(), any_key());
        let dead = collection.count_documents(dead).limit(MAX_COUNTED).await?;
        Ok((
            collection.estimated_document_count().await?,
            dead,
            now.time.saturating_sub(since).into(),
        ))
    }

    /// The cluster time that was current this long ago, by the server's clock.
    async fn ago(&self, age: Duration) -> Result<Timestamp> {
        let now = self.client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let now = now
            .get_datetime("localTime")
            .map_err(mongodb::error::Error::custom)?
            .timestamp_millis()
            / 1000;
        let then = now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        Ok(Timestamp { time: u32::try_from(then).unwrap_or(0), increment: 0 })
    }

    /// Parses while it reads, so that no more is in memory than was asked for.
    async fn read(
        &self,
        find: mongodb::action::Find<'_, RawDocumentBuf>,
        room: Room,
        snapshot: &mut Snapshot,
    ) -> Result<Page> {
        let find = find.limit(limit(room.events + 1)).projection(doc! { field::FAILURES: 0 });
        let mut cursor = find.session(&mut snapshot.session).await?;
        snapshot.time()?;
        let (mut page, mut bytes) = (Page::default(), 0);
        while cursor.advance(&mut snapshot.session).await? {
            if page.events.len() >= room.events || bytes >= room.bytes {
                page.more = true;
                break;
            }
            let document = cursor.current();
            bytes += document.as_bytes().len();
            page.events.push(self.parse(document));
        }
        Ok(page)
    }
}

impl EventStore for Store {
    type Sweep = SweepCursor;
    type Tail = RawBatchCursor;

    fn parse(&self, document: &RawDocument) -> Parsed {
        let mut parsed = OutboxRecord::parse(document, &self.layout);
        if self.ordering == Ordering::None {
            match &mut parsed {
                Ok(record) => record.key = None,
                Err(malformed) => malformed.key = None,
            }
        }
        parsed
    }

    async fn sweep(&self) -> StoreResult<Self::Sweep> {
        let mut snapshot = self.snapshot().await?;
        let cursor = self
            .collection
            .find(doc! {})
            .sort(doc! { field::TS: 1, field::ID: 1 })
            .projection(doc! { field::FAILURES: 0 })
            .allow_disk_use(true)
            .batch_size(BATCH)
            .session(&mut snapshot.session)
            .batch()
            .await?;

        Ok(SweepCursor::new(snapshot, cursor)?)
    }

    async fn tail(&self, at: Timestamp) -> StoreResult<Self::Tail> {
        let stream = self
            .collection
            .aggregate([
                // `startAtOperationTime` is inclusive.
                doc! { "$changeStream": { "startAtOperationTime": following(at) } },
                doc! { "$match": { "$or": [
                    { "operationType": { "$in": ["insert", "drop", "rename", "dropDatabase", "invalidate"] } },
                    { "operationType": "update", "$or": [
                        { "updateDescription.updatedFields.retryRequestedAt": { "$exists": true } },
                        { "updateDescription.updatedFields.discardRequestedAt": { "$exists": true } },
                    ] },
                ] } },
                // `_id` is the resume token and must stay.
                doc! { "$project": { "operationType": 1, "wallTime": 1, "fullDocument": 1 } },
            ])
            .batch_size(BATCH)
            .max_await_time(TAIL_WAIT)
            .batch()
            .await?;

        Ok(stream)
    }

    async fn delete(&self, acked: &[Acked]) -> StoreResult<()> {
        let ids: Vec<Bson> = acked.iter().map(|acked| acked.id().clone().into()).collect();
        // Without the hint, the server looks at the other indexes each time too.
        let by_id = Hint::Keys(doc! { field::ID: 1 });
        self.collection.delete_many(doc! { field::ID: { "$in": ids } }).hint(by_id).await?;
        Ok(())
    }

    async fn mark(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        Ok(self.update(marks.iter().map(mark_update), false).await?)
    }

    async fn park(&self, ids: &[EventId]) -> StoreResult<Option<Refused>> {
        let park = |id: &EventId| {
            doc! {
                "q": { field::ID: Bson::from(id.clone()), field::IS_LOCKED: self.layout.locked() },
                "u": { "$set": { field::IS_LOCKED: false } },
            }
        };
        Ok(self.update(ids.iter().map(park), true).await?.pop())
    }

    async fn discard(&self, ids: &[EventId]) -> StoreResult<()> {
        let ids: Vec<Bson> = ids.iter().map(|id| id.clone().into()).collect();
        let wanted = doc! { field::ID: { "$in": ids }, field::IS_LOCKED: false, field::DISCARD_REQUESTED_AT: { "$type": "date" } };
        self.collection.delete_many(wanted).await?;
        Ok(())
    }

    async fn due(&self, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let key_field = self.layout.key();
        let mut without_key = doc! { field::IS_LOCKED: false, field::DEAD_AT: Bson::Null, "$expr": { "$lte": ["$nextAttemptAt", "$$NOW"] } };
        if self.ordering == Ordering::None {
            without_key.insert(key_field, any_key());
            let unkeyed = self.collection.find(without_key).sort(doc! { field::TS: 1 });
            return Ok(self.read(unkeyed, room, &mut snapshot).await?);
        }
        let half = Room { events: room.events.div_ceil(2), bytes: room.bytes.div_ceil(2) };
        let mut unlocked = doc! { field::IS_LOCKED: false, key_field: { "$exists": true } };
        if self.on_dead == OnDead::Skip {
            unlocked.insert(field::DEAD_AT, Bson::Null);
        }
        let heads = [
            doc! { "$match": unlocked },
            doc! { "$sort": { key_field: 1, field::TS: 1, field::ID: 1 } },
            doc! { "$group": {
                "_id": format!("${key_field}"),
                "id": { "$first": "$_id" },
                "next": { "$first": "$nextAttemptAt" },
                "dead": { "$first": "$deadAt" },
            } },
            // What has a huge `_id` is no event. A field that isn't there compares below every
            // date.
            doc! { "$match": { "$expr": { "$lt": [{ "$bsonSize": { "id": "$id" } }, MAX_ANY_ID_BYTES as i64] } } },
            doc! { "$match": { "dead": Bson::Null, "$expr": { "$lte": ["$next", "$$NOW"] } } },
            doc! { "$limit": limit(half.events + 1) },
        ];
        let heads = self.collection.aggregate(heads).with_type::<RawDocumentBuf>();
        let mut cursor = heads.session(&mut snapshot.session).await?;
        snapshot.time()?;
        let mut ids = Vec::new();
        while cursor.advance(&mut snapshot.session).await? {
            // One that isn't UTF-8 is no event's.
            ids.extend(
                cursor.current().get("id").ok().flatten().and_then(|id| Bson::try_from(id).ok()),
            );
        }
        let keyed = self.collection.find(doc! { field::ID: { "$in": ids } });
        let mut page = self.read(keyed, half, &mut snapshot).await?;
        without_key.insert(key_field, doc! { "$exists": false });
        let unkeyed = self.collection.find(without_key).sort(doc! { field::TS: 1 });
        let unkeyed = self.read(unkeyed, half, &mut snapshot).await?;
        page.more |= unkeyed.more;
        page.events.extend(unkeyed.events);
        Ok(page)
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut wanted = doc! { field::IS_LOCKED: false, field::DISCARD_REQUESTED_AT: { "$type": "date" }, field::DEAD_AT: Bson::Null };
        wanted.insert(self.layout.key(), any_key());
        Ok(self.read(self.collection.find(wanted), room, &mut snapshot).await?)
    }

    async fn stray(&self, age: Duration, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let before = self.ago(age).await?;
        let mut stray = doc! { field::IS_LOCKED: self.layout.locked(), field::DEAD_AT: Bson::Null };
        self.layout.before(&mut stray, before);
        let find = self.collection.find(stray).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(self.read(find, room, &mut snapshot).await?)
    }

    async fn unlocked(&self, key: &Key, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut unlocked =
            doc! { field::IS_LOCKED: false, self.layout.key(): self.layout.of_key(key.as_str()) };
        if self.on_dead == OnDead::Skip {
            unlocked.insert(field::DEAD_AT, Bson::Null);
        }
        let find = self.collection.find(unlocked).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(self.read(find, room, &mut snapshot).await?)
    }
}

impl EventTail for RawBatchCursor {
    type Page = RawBatch;

    async fn next(&mut self) -> StoreResult<Option<RawBatch>> {
        Ok(StreamExt::next(self).await.transpose()?)
    }
}

impl EventPage for RawBatch {
    fn documents(&self) -> StoreResult<&RawArray> {
        Ok(self.doc_slices()?)
    }
}

fn limit(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}

/// The next cluster time after `at`.
fn following(at: Timestamp) -> Timestamp {
    match at.increment.checked_add(1) {
        Some(increment) => Timestamp { time: at.time, increment },
        None => Timestamp { time: at.time.saturating_add(1), increment: 0 },
    }
}
