//! The relay's port to an outbox: the reads of `sweep` and `due`, the tail, and every write.
//!
//! Writes are `w: majority` and may be repeated without harm: what was done stays done. Reads that
//! decide about order are taken from one snapshot, so an event is never seen unlocked while the
//! failure it waits behind is not.

use std::time::Duration;

use bson::{
    Bson, Document, RawArray, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc,
};
use mongodb::error::Result;
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;
use outboxd_client::{EventId, Key, field};

use super::clock;
use super::collation::{simple, simple_document};
use super::mark::{mark_update, read_refused};
use super::outbox::Store;
use super::tail::TailCursor;
use crate::document::state::{self, State};
use crate::relay::listing::Listing;
use crate::relay::ports::{
    Dated, EventPage, EventStore, Fetched, Mark, Page, Parsed, Refused, Room, StoreResult,
};
use crate::relay::publish::outcome::Acked;

impl Store {
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
}

impl EventStore for Store {
    type Page = RawBatch;
    type Tail = TailCursor;

    fn parse(&self, document: &RawDocument) -> Parsed {
        self.record(document)
    }

    async fn list(&self, most: usize, without: &[Key]) -> StoreResult<Listing> {
        Ok(self.read_list(most, without).await?)
    }

    async fn held(&self, since: Timestamp, before: Option<Timestamp>) -> StoreResult<Vec<Key>> {
        Ok(self.read_held(since, before).await?)
    }

    async fn fetch(
        &self,
        ids: &[&[u8]],
        since: Timestamp,
        without: &[Key],
    ) -> StoreResult<Fetched<RawBatch>> {
        Ok(self.read_documents(ids, since, without).await?)
    }

    async fn tail(&self, at: Timestamp) -> StoreResult<Self::Tail> {
        Ok(TailCursor::open(&self.collection, at).await?)
    }

    async fn locked(&self, key: &Key, from: Timestamp, room: Room) -> StoreResult<Dated> {
        Ok(self.read_rest(key, from, room).await?)
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
        Ok(self.read_due(room).await?)
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        Ok(self.read_discards(room).await?)
    }

    async fn passed_over(&self, age: Duration, room: Room, without: &[Key]) -> StoreResult<Page> {
        let now = clock::now(&self.database()).await?;
        Ok(self.read_passed_over(clock::before(now, age), room, without).await?)
    }

    async fn unlocked(&self, key: &Key, room: Room) -> StoreResult<Page> {
        let mut unlocked = self.unlocked_in_order();
        unlocked.insert(self.layout.key(), self.layout.of_key(key.as_str()));

        let unlocked = self.collection.find(unlocked).sort(doc! { field::TS: 1, field::ID: 1 });
        Ok(self.read_once(unlocked, room).await?)
    }
}

impl EventPage for RawBatch {
    fn documents(&self) -> StoreResult<&RawArray> {
        Ok(self.doc_slices()?)
    }
}
