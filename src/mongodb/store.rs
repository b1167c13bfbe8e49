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
use mongodb::error::Result;
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;
use mongodb::{Client, Collection, Database};
use outboxd_client::{EventId, Key, field};

use super::clock;
use super::collation::{simple, simple_document};
use super::mark::{mark_update, read_refused};
use super::snapshot::{Snapshot, SweepCursor, Written};
use super::tail::TailCursor;
use crate::config::{DispatchConfig, OnDead, Ordering};
use crate::document::layout::Layout;
use crate::document::record::{MAX_ANY_ID_BYTES, OutboxRecord};
use crate::document::state::{self, State};
use crate::relay::ports::{
    Documents, EventPage, EventStore, Mark, Page, Parsed, Refused, Room, StoreResult,
};
use crate::relay::publish::outcome::Acked;

/// Documents per reply: typical events come to half a megabyte. Without it the server fills 16 MB,
/// of which the driver holds two or three copies.
const BATCH: u32 = 1000;

/// The outbox collection, as the relay uses it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    collection: Collection<RawDocumentBuf>,
    layout: Arc<Layout>,
    ordering: Ordering,
    on_dead: OnDead,
    /// The cluster time of this relay's newest mark or park.
    written: Written,
}

impl Store {
    /// Of the outbox in `collection` of `database`.
    pub(crate) fn new(
        database: &Database,
        collection: &str,
        layout: Arc<Layout>,
        dispatch: &DispatchConfig,
    ) -> Self {
        Self {
            client: database.client().clone(),
            collection: database.collection(collection),
            layout,
            ordering: dispatch.ordering,
            on_dead: dispatch.on_dead,
            written: Written::default(),
        }
    }

    /// The same outbox, over connections of its own.
    pub(crate) fn through(&self, client: Client) -> Self {
        let database = client.database(&self.collection.namespace().db);
        let collection = database.collection(self.collection.name());
        Self { client, collection, ..self.clone() }
    }

    fn database(&self) -> Database {
        self.client.database(&self.collection.namespace().db)
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

        let reply = self.database().run_raw_command(command).await?;
        if let Some(error) = reply.get("writeConcernError") {
            let message = format!("the write concern was not met: {error}");
            return Err(mongodb::error::Error::custom(message));
        }

        self.written.learn(&reply);

        let refused = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        refused.iter().filter_map(bson::Bson::as_document).map(read_refused).collect()
    }

    /// Parses while it reads, so that no more is in memory than was asked for.
    async fn read(
        &self,
        find: mongodb::action::Find<'_, RawDocumentBuf>,
        room: Room,
        snapshot: &mut Snapshot,
    ) -> Result<Page> {
        let find = find.limit(limit(room.events + 1)).projection(without_most_failures());
        let find = find.collation(simple());
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

    /// Of each key that has unlocked events, the id of the oldest one, if that one is due.
    async fn due_heads(&self, most: usize, snapshot: &mut Snapshot) -> Result<Vec<Bson>> {
        let key = self.layout.key();
        let mut unlocked = self.unlocked_in_order();
        unlocked.insert(key, doc! { "$ne": Bson::Null });

        // The fields keep their names, so that the filters below fit.
        let first = |name: &str| doc! { "$first": format!("${name}") };
        let heads = doc! { "$group": {
            "_id": format!("${key}"),
            "id": first(field::ID),
            field::NEXT_ATTEMPT_AT: first(field::NEXT_ATTEMPT_AT),
            field::DEAD_AT: first(field::DEAD_AT),
        } };

        let id_bytes = doc! { "$bsonSize": { "id": "$id" } };
        let is_small = doc! { "$expr": { "$lt": [id_bytes, MAX_ANY_ID_BYTES as i64] } };
        let mut due = state::filter(State::NOT_DEAD, &self.layout);

        due.extend(state::is_due());

        let pipeline = [
            doc! { "$match": unlocked },
            doc! { "$sort": { key: 1, field::TS: 1, field::ID: 1 } },
            heads,
            // A document with a huge `_id` is no event.
            doc! { "$match": is_small },
            doc! { "$match": due },
            doc! { "$limit": limit(most) },
        ];

        let heads = self.collection.aggregate(pipeline).collation(simple());
        let heads = heads.with_type::<RawDocumentBuf>();
        let mut cursor = heads.session(&mut snapshot.session).await?;
        snapshot.time()?;

        let mut ids = Vec::new();
        while cursor.advance(&mut snapshot.session).await? {
            // An id that isn't UTF-8 is no event's.
            let id = cursor.current().get("id").ok().flatten();
            ids.extend(id.and_then(|id| Bson::try_from(id).ok()));
        }

        Ok(ids)
    }

    /// In a query: the unlocked events that hold up later ones of their key. Dead ones do, unless
    /// they are skipped.
    fn unlocked_in_order(&self) -> Document {
        let states = match self.on_dead {
            OnDead::Hold => State::UNLOCKED,
            OnDead::Skip => State::WAITING,
        };
        state::filter(states, &self.layout)
    }
}

impl EventStore for Store {
    type Sweep = SweepCursor;
    type Tail = TailCursor;

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
            .projection(without_most_failures())
            .collation(simple())
            .allow_disk_use(true)
            .batch_size(BATCH)
            .session(&mut snapshot.session)
            .batch()
            .await?;

        Ok(SweepCursor::new(snapshot, cursor)?)
    }

    async fn tail(&self, at: Timestamp) -> StoreResult<Self::Tail> {
        Ok(TailCursor::open(&self.collection, at).await?)
    }

    async fn committed(&self, ids: Vec<Bson>, at: Timestamp, room: Room) -> StoreResult<Documents> {
        let mut snapshot = self.snapshot().await?;
        let one_more = u32::try_from(ids.len() + 1).unwrap_or(BATCH);
        let find = self.collection.find(doc! { field::ID: { "$in": ids } });
        // One reply: the moment may be too old for another.
        let find = find.projection(without_most_failures()).batch_size(one_more);
        let find = find.collation(simple());
        let mut cursor = find.session(&mut snapshot.session).await?;
        snapshot.reaches(at)?;

        let (mut found, mut bytes) = (Documents::default(), 0);
        while cursor.advance(&mut snapshot.session).await? {
            if bytes >= room.bytes {
                found.more = true;
                break;
            }

            let document = cursor.current().to_owned();
            bytes += document.as_bytes().len();
            found.documents.push(document);
        }

        Ok(found)
    }

    async fn delete(&self, acked: &[Acked]) -> StoreResult<()> {
        let ids: Vec<Bson> = acked.iter().map(|acked| acked.id().clone().into()).collect();
        // Without the hint, the server considers the other indexes too, each time.
        let by_id = Hint::Keys(doc! { field::ID: 1 });
        let delete = self.collection.delete_many(doc! { field::ID: { "$in": ids } }).hint(by_id);
        delete.collation(simple()).await?;
        Ok(())
    }

    async fn mark(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        Ok(self.update(marks.iter().map(mark_update), false).await?)
    }

    async fn park(&self, ids: &[EventId]) -> StoreResult<Option<Refused>> {
        let park = |id: &EventId| {
            let mut locked = doc! { field::ID: Bson::from(id.clone()) };
            locked.extend(State::Locked.filter(&self.layout));
            doc! {
                "q": locked,
                "u": { "$set": { field::IS_LOCKED: false } },
                "collation": simple_document(),
            }
        };
        Ok(self.update(ids.iter().map(park), true).await?.pop())
    }

    async fn discard(&self, ids: &[EventId]) -> StoreResult<()> {
        let ids: Vec<Bson> = ids.iter().map(|id| id.clone().into()).collect();
        let mut wanted = doc! { field::ID: { "$in": ids } };
        wanted.extend(state::filter(State::UNLOCKED, &self.layout));
        wanted.extend(state::discard_requested());

        self.collection.delete_many(wanted).collation(simple()).await?;
        Ok(())
    }

    async fn due(&self, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut due = state::filter(State::WAITING, &self.layout);
        due.extend(state::is_due());

        // Without an order, each event stands for itself.
        if self.ordering == Ordering::None {
            let due = state::by_index(due, &self.layout);
            let events = self.collection.find(due).sort(doc! { field::TS: 1 });
            return Ok(self.read(events, room, &mut snapshot).await?);
        }

        // Half of the room each, so that neither kind of event keeps the other waiting.
        let half = Room { events: room.events.div_ceil(2), bytes: room.bytes.div_ceil(2) };

        // With a key: which events may go is known from the heads of the keys, one more than there
        // is room for to know whether there are more. Then those are read in whole.
        let heads = self.due_heads(half.events + 1, &mut snapshot).await?;
        let keyed = self.collection.find(doc! { field::ID: { "$in": heads } });
        let mut page = self.read(keyed, half, &mut snapshot).await?;

        due.insert(self.layout.key(), Bson::Null);
        let unkeyed = self.collection.find(due).sort(doc! { field::TS: 1 });
        let unkeyed = self.read(unkeyed, half, &mut snapshot).await?;

        page.more |= unkeyed.more;
        page.events.extend(unkeyed.events);
        Ok(page)
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut wanted = state::filter(State::WAITING, &self.layout);
        wanted.extend(state::discard_requested());

        let wanted = self.collection.find(state::by_index(wanted, &self.layout));
        Ok(self.read(wanted, room, &mut snapshot).await?)
    }

    async fn passed_over(&self, age: Duration, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let now = clock::now(&self.database()).await?;
        let mut passed_over = State::Locked.filter(&self.layout);

        self.layout.before(&mut passed_over, clock::before(now, age));

        let passed_over =
            self.collection.find(passed_over).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(self.read(passed_over, room, &mut snapshot).await?)
    }

    async fn unlocked(&self, key: &Key, room: Room) -> StoreResult<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut unlocked = self.unlocked_in_order();
        unlocked.insert(self.layout.key(), self.layout.of_key(key.as_str()));

        let unlocked = self.collection.find(unlocked).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(self.read(unlocked, room, &mut snapshot).await?)
    }
}

impl EventPage for RawBatch {
    fn documents(&self) -> StoreResult<&RawArray> {
        Ok(self.doc_slices()?)
    }
}

/// One failure is enough to tell a failed event from a parked one.
fn without_most_failures() -> Document {
    doc! { field::FAILURES: { "$slice": 1 } }
}

fn limit(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}
