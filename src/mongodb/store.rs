//! The relay's port to an outbox: the reads of `sweep` and `due`, the tail, and every write.
//!
//! Writes are `w: majority` and may be repeated without harm: what was done stays done. Reads that
//! decide about order are taken from one snapshot, so an event is never seen unlocked while the
//! failure it waits behind is not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::{Bson, Document, RawArray, RawDocument, Timestamp, doc};
use mongodb::options::Hint;
use mongodb::raw_batch_cursor::RawBatch;
use outboxd_client::{EventId, Key, field};
use tokio::sync::mpsc;

use super::clock;
use super::collation::{simple, simple_document};
use super::mark::mark_update;
use super::outbox::Store;
use super::tail::TailCursor;
use super::write::{Order, Write, is_of_documents, raw};
use crate::crash::{self, Point};
use crate::document::state::{self, State};
use crate::relay::listing::{IdSet, Listing, RawId};
use crate::relay::ports::shared::Wanted;
use crate::relay::ports::{
    Dated, EventPage, EventStore, Fetched, Mark, Page, Parsed, Refused, RestOf, Room, StoreResult,
};
use crate::relay::publish::outcome::Acked;
use crate::relay::shared::{Joined, Tail};
use crate::relay::watermark::Epoch;

impl EventStore for Store {
    type Page = RawBatch;
    type Joined = Joined;
    type Tail = Tail<TailCursor>;

    fn parse(&self, document: &RawDocument) -> Parsed {
        self.record(document)
    }

    fn limit_payloads(&self, bytes: usize) {
        self.max_payload.store(bytes, Ordering::Relaxed);
    }

    async fn list(&self, most: usize, without: &[Key], before: &IdSet) -> StoreResult<Listing> {
        Ok(self.read_list(most, without, before).await?)
    }

    async fn held(
        &self,
        since: Timestamp,
        before: Option<Timestamp>,
        keys: mpsc::Sender<Vec<Key>>,
    ) -> StoreResult<()> {
        Ok(self.read_held(since, before, &keys).await?)
    }

    async fn fetch(
        &self,
        ids: &[&[u8]],
        since: Timestamp,
        without: &[Key],
    ) -> StoreResult<Fetched<RawBatch>> {
        Ok(self.read_documents(ids, since, without).await?)
    }

    async fn join(&self) -> StoreResult<Joined> {
        let share = self.changes.join(self.watched(Wanted::Events)).await?;
        Ok(share.map_or(Joined::Own, Joined::Shared))
    }

    async fn tail(&self, joined: Joined, at: Timestamp) -> StoreResult<Self::Tail> {
        Ok(match joined {
            Joined::Own => Tail::Own(TailCursor::open(&self.collection, at).await?),
            Joined::Shared(share) => Tail::shared(share, at),
        })
    }

    async fn locked(&self, of: &[RestOf], room: Room) -> StoreResult<Dated> {
        Ok(self.read_rests(of, room).await?)
    }

    async fn delete(&self, acked: &[Acked], epoch: Epoch) -> StoreResult<Vec<Refused>> {
        if self.is_kept {
            crash::soon(Point::Keeping);
            let refused = self.keep(acked, epoch).await?;
            crash::here(Point::Kept);
            if !refused.is_empty() {
                return Ok(self.delete_kept(acked, refused).await?);
            }
        }

        let ids: Vec<Bson> = acked.iter().map(|acked| acked.id().clone().into()).collect();
        // Without the hint, the server considers the other indexes too, each time.
        let by_id = Hint::Keys(doc! { field::ID: 1 });
        let all = doc! { field::ID: { "$in": &ids } };
        let delete = self.collection.delete_many(all).hint(by_id);
        match delete.collation(simple()).await {
            Err(error) if is_of_documents(&error) => {
                Ok(self.delete_each(&ids, Document::new()).await?)
            }
            deleted => Ok(deleted.map(|_| Vec::new())?),
        }
    }

    async fn mark(&self, marks: &[Mark]) -> StoreResult<Vec<Refused>> {
        let updates: Vec<_> = marks.iter().map(mark_update).collect::<Result<_, _>>()?;
        Ok(self.write(Write::Update, &updates, Order::None).await?)
    }

    async fn park(&self, ids: &[EventId]) -> StoreResult<Option<Refused>> {
        let park = |id: &EventId| {
            let mut locked = doc! { field::ID: Bson::from(id.clone()) };
            locked.extend(State::Locked.filter(&self.layout));
            raw(doc! {
                "q": locked,
                "u": { "$set": { field::IS_LOCKED: false } },
                "collation": simple_document(),
            })
        };
        let updates: Vec<_> = ids.iter().map(park).collect::<Result<_, _>>()?;
        Ok(self.write(Write::Update, &updates, Order::Kept).await?.pop())
    }

    async fn grant_discards(&self, ids: &[EventId]) -> StoreResult<(u64, Vec<Refused>)> {
        let ids: Vec<Bson> = ids.iter().map(|id| id.clone().into()).collect();
        let mut wanted = state::filter(State::UNLOCKED, &self.layout);
        wanted.extend(state::discard_requested(state::DISCARD_HOLDS));
        wanted.extend(state::discard_not_granted());

        let asked_by = format!("${}", field::DISCARD_REQUESTED_BY);
        let grant = vec![doc! { "$set": { field::DISCARD_GRANTED_TO: asked_by } }];
        let with = |id: Bson| {
            let mut query = doc! { field::ID: id };
            query.extend(wanted.clone());
            query
        };

        let all = with(doc! { "$in": &ids }.into());
        match self.collection.update_many(all, grant.clone()).collation(simple()).await {
            Err(error) if is_of_documents(&error) => {}
            granted => return Ok((granted?.modified_count, Vec::new())),
        }

        let update = |id: &Bson| {
            raw(doc! { "q": with(id.clone()), "u": grant.clone(), "collation": simple_document() })
        };
        let updates: Vec<_> = ids.iter().map(update).collect::<Result<_, _>>()?;
        let refused = self.write(Write::Update, &updates, Order::None).await?;
        Ok((ids.len().saturating_sub(refused.len()) as u64, refused))
    }

    async fn due(&self, room: Room, except: &[RawId]) -> StoreResult<Page> {
        Ok(self.read_due(room, except).await?)
    }

    async fn is_empty(&self) -> StoreResult<bool> {
        Ok(self.read_is_empty().await?)
    }

    async fn discards(&self, room: Room) -> StoreResult<Page> {
        Ok(self.read_discards(room).await?)
    }

    async fn passed_over(
        &self,
        age: Duration,
        room: Room,
        without: &[Key],
        except: &[RawId],
    ) -> StoreResult<Page> {
        let now = clock::now(&self.database()).await?;
        Ok(self.read_passed_over(clock::before(now, age), room, without, except).await?)
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
