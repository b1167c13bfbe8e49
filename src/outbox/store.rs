//! Every query the relay makes on the outbox, in one place.
//!
//! Writes are `w: majority` and may be repeated without harm: what was done stays done. Reads that decide about order are
//! taken from one snapshot, so an event is never seen unlocked while the failure it waits behind is not.

use std::time::Duration;

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::error::Result;
use mongodb::{Client, ClientSession, Collection, SessionCursor};

use super::event::{EventId, Key};
use super::record::field;
use crate::relay::publish::Acked;

/// Failures kept on an event; the newest.
const FAILURES_KEPT: i32 = 20;
/// Documents per reply while sweeping: a reply of typical events is about half a megabyte.
const SWEEP_BATCH: u32 = 1000;
/// How long the server waits for something to happen before it answers a quiet tail: the pace at which a stop is seen.
const TAIL_WAIT: Duration = Duration::from_secs(1);

/// The outbox collection, as the relay uses it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    collection: Collection<RawDocumentBuf>,
}

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

/// A mark that the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its place among the marks.
    pub(crate) index: usize,
    pub(crate) error: String,
}

impl Refused {
    fn read(error: &Document) -> Option<Self> {
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

/// The outbox as of one moment, oldest event first.
pub(crate) struct SweepCursor {
    session: ClientSession,
    cursor: SessionCursor<RawDocumentBuf>,
    /// The moment: everything committed up to and including this is in the sweep, everything after it in the tail.
    pub(crate) at: Timestamp,
}

impl SweepCursor {
    /// Moves to the next document and returns it.
    pub(crate) async fn next(&mut self) -> Result<Option<&bson::RawDocument>> {
        let more = self.cursor.advance(&mut self.session).await?;
        Ok(more.then(|| self.cursor.current()))
    }
}

impl Store {
    pub(crate) fn new(client: Client, database: &str, collection: &str) -> Self {
        let collection = client.database(database).collection(collection);
        Self { client, collection }
    }

    /// Starts a sweep. The server picks the snapshot; `ts` orders the events of a key.
    pub(crate) async fn sweep(&self) -> Result<SweepCursor> {
        let mut session = self.client.start_session().snapshot(true).await?;
        let cursor = self
            .collection
            .find(doc! {})
            .sort(doc! { field::TS: 1, field::ID: 1 })
            .projection(doc! { field::FAILURES: 0 })
            .allow_disk_use(true)
            .batch_size(SWEEP_BATCH)
            .session(&mut session)
            .await?;
        let at = session
            .snapshot_time()
            .ok_or_else(|| mongodb::error::Error::custom("the server answered a snapshot read without its time"))?;
        Ok(SweepCursor { session, cursor, at })
    }

    /// Opens a change stream on what commits after `at`. Only inserts: the relay's own marks and deletes don't come back.
    pub(crate) async fn tail(&self, at: Timestamp) -> Result<ChangeStream<RawDocumentBuf>> {
        let stream = self
            .collection
            .watch()
            .pipeline([
                doc! { "$match": { "operationType": { "$in": ["insert", "drop", "rename", "dropDatabase", "invalidate"] } } },
                // `_id` is the resume token and must stay.
                doc! { "$project": { "operationType": 1, "fullDocument": 1 } },
            ])
            // `startAtOperationTime` is inclusive.
            .start_at_operation_time(following(at))
            .max_await_time(TAIL_WAIT)
            .await?;
        Ok(stream.with_type())
    }

    /// Removes delivered events. Only an ack makes an [`Acked`].
    pub(crate) async fn delete(&self, acked: &[Acked]) -> Result<()> {
        let ids: Vec<Bson> = acked.iter().map(|acked| acked.id().clone().into()).collect();
        self.collection.delete_many(doc! { field::ID: { "$in": ids } }).await?;
        Ok(())
    }

    /// Marks failed events, in one command. Returns those the server will never mark, such as one that has no room left
    /// for a failure in its 16 MB.
    pub(crate) async fn mark(&self, marks: &[Mark]) -> Result<Vec<Refused>> {
        let updates: Vec<Document> = marks.iter().map(mark_update).collect();
        let command = doc! {
            "update": self.collection.name(),
            "ordered": false,
            "updates": updates,
            "writeConcern": { "w": "majority" },
        };
        let reply = self.client.database(&self.collection.namespace().db).run_command(command).await?;
        if let Some(error) = reply.get("writeConcernError") {
            return Err(mongodb::error::Error::custom(format!("marking failed events: {error}")));
        }
        let refused = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        Ok(refused.iter().filter_map(bson::Bson::as_document).filter_map(Refused::read).collect())
    }

    /// Hands events that wait behind a failed one to the retrier.
    pub(crate) async fn park(&self, ids: &[EventId]) -> Result<()> {
        let ids: Vec<Bson> = ids.iter().map(|id| id.clone().into()).collect();
        self.collection
            .update_many(
                doc! { field::ID: { "$in": ids }, field::IS_LOCKED: true },
                doc! { "$set": { field::IS_LOCKED: false } },
            )
            .await?;
        Ok(())
    }

    /// The unlocked events that are due: of each key only its oldest, and only if that one is neither dead nor waiting.
    /// At most `limit` documents of each kind, keyed and not.
    pub(crate) async fn due(&self, limit: u32) -> Result<Vec<RawDocumentBuf>> {
        let due = |next: &str| doc! { "$expr": { "$lte": [next, "$$NOW"] } };
        let heads = [
            doc! { "$match": { field::IS_LOCKED: false, field::KEY: { "$exists": true } } },
            doc! { "$sort": { field::KEY: 1, field::TS: 1, field::ID: 1 } },
            doc! { "$group": {
                "_id": "$key",
                "id": { "$first": "$_id" },
                "next": { "$first": "$nextAttemptAt" },
                "dead": { "$first": "$deadAt" },
            } },
            // A field that isn't there compares below every date.
            doc! { "$match": { "dead": null, "$expr": { "$lte": ["$next", "$$NOW"] } } },
            doc! { "$limit": limit },
        ];
        let mut session = self.client.start_session().snapshot(true).await?;
        let mut cursor = self.collection.aggregate(heads).session(&mut session).await?;
        let mut ids = Vec::new();
        while let Some(head) = cursor.next(&mut session).await.transpose()? {
            ids.extend(head.get("id").cloned());
        }
        let keyed = self.collection.find(doc! { field::ID: { "$in": ids } });
        let mut documents = self.read(keyed, &mut session).await?;
        let mut without_key = due("$nextAttemptAt");
        without_key.extend(
            doc! { field::IS_LOCKED: false, field::KEY: { "$exists": false }, field::DEAD_AT: { "$exists": false } },
        );
        let unkeyed = self.collection.find(without_key).sort(doc! { field::TS: 1 }).limit(limit.into());
        documents.extend(self.read(unkeyed, &mut session).await?);
        Ok(documents)
    }

    /// The locked events that are older than `age` by the server's clock, oldest first: those that no tail will bring.
    /// A scan of the collection, which is near-empty while the relay keeps up.
    pub(crate) async fn stray(&self, age: Duration, limit: u32) -> Result<Vec<RawDocumentBuf>> {
        let mut session = self.client.start_session().snapshot(true).await?;
        let now = self.client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let now = now.get_datetime("localTime").map_err(mongodb::error::Error::custom)?.timestamp_millis() / 1000;
        let before = now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let before = Timestamp { time: u32::try_from(before).unwrap_or(0), increment: 0 };
        let find = self
            .collection
            .find(doc! { field::IS_LOCKED: true, field::DEAD_AT: { "$exists": false }, field::TS: { "$lt": before } })
            .sort(doc! { field::TS: 1, field::ID: 1 })
            .limit(limit.into());
        self.read(find, &mut session).await
    }

    /// The oldest unlocked events of one key, oldest first, dead and waiting ones too.
    pub(crate) async fn unlocked(&self, key: &Key, limit: u32) -> Result<Vec<RawDocumentBuf>> {
        let mut session = self.client.start_session().snapshot(true).await?;
        let find = self
            .collection
            .find(doc! { field::IS_LOCKED: false, field::KEY: key.as_str() })
            .sort(doc! { field::TS: 1, field::ID: 1 })
            .limit(limit.into());
        self.read(find, &mut session).await
    }

    async fn read(
        &self,
        find: mongodb::action::Find<'_, RawDocumentBuf>,
        session: &mut ClientSession,
    ) -> Result<Vec<RawDocumentBuf>> {
        let mut cursor = find.projection(doc! { field::FAILURES: 0 }).session(&mut *session).await?;
        let mut documents = Vec::new();
        while cursor.advance(session).await? {
            documents.push(cursor.current().to_owned());
        }
        Ok(documents)
    }
}

/// The next cluster time after `at`.
fn following(at: Timestamp) -> Timestamp {
    match at.increment.checked_add(1) {
        Some(increment) => Timestamp { time: at.time, increment },
        None => Timestamp { time: at.time.saturating_add(1), increment: 0 },
    }
}

/// A pipeline, so that a document whose bookkeeping fields are of the wrong type can be marked too. The filter makes it
/// safe to repeat: one relay makes one failure of an event at one time.
fn mark_update(mark: &Mark) -> Document {
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
