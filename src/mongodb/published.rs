//! Kept events: acked events in `<outbox>_published`.
//!
//! The server copies acked events there with `$merge`, and then the relay deletes them in the outbox.
//! A relay that dies in between leaves an event in both. The next leader publishes it again, the
//! stream acks a duplicate, and the copy that is there is replaced: so an event is never in neither,
//! and in both for as long as no relay leads.

use std::ops::Range;
use std::time::Duration;

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt as _;
use mongodb::Collection;
use mongodb::error::{Error, ErrorKind, Result};
use mongodb::options::Hint;
use outboxd_client::field;

use super::collation::{simple, simple_document};
use super::collections::{AUDIT, published};
use super::outbox::Store;
use super::write::{self, Order, Write, is_of_documents, raw};
use super::{clock, code};
use crate::error::mongodb_words;
use crate::relay::kept::{Kept, KeptStore, Republished, place};
use crate::relay::ports::{Refused, Room, StoreResult};
use crate::relay::publish::outcome::Acked;
use crate::relay::watermark::Epoch;

/// The index of migration 0010.
pub(super) const INDEX: &str = "outboxd_place";
/// Kept events that are removed at once.
const MAX_FORGOTTEN: i64 = 1000;

/// When the event was kept, by the server's clock.
pub(super) const PUBLISHED_AT: &str = "publishedAt";
pub(super) const STREAM: &str = "stream";
pub(super) const SEQUENCE: &str = "seq";
pub(super) const PLACE: &str = "place";
pub(super) const MESSAGE_ID: &str = "messageId";

/// What becomes of an event that is kept already.
#[derive(Debug, Clone, Copy)]
enum Matched {
    /// The command fails. It is half as expensive as to replace, and rare.
    Fail,
    Replace,
}

impl Store {
    pub(super) fn published(&self) -> Collection<RawDocumentBuf> {
        self.database().collection(&published(self.collection.name()))
    }

    /// Copies acked events to the kept ones. Returns those that the server will never copy.
    pub(super) async fn keep(&self, acked: &[Acked], epoch: Epoch) -> Result<Vec<Refused>> {
        match self.merge(acked, epoch, Matched::Fail).await {
            Err(error) if is_duplicate(&error) => {}
            Err(error) if is_of_documents(&error) => return self.keep_each(acked, epoch).await,
            kept => return kept.map(|()| Vec::new()),
        }

        // A relay has died between copying them and deleting them.
        match self.merge(acked, epoch, Matched::Replace).await {
            Err(error) if is_of_documents(&error) => self.keep_each(acked, epoch).await,
            kept => kept.map(|()| Vec::new()),
        }
    }

    async fn keep_each(&self, acked: &[Acked], epoch: Epoch) -> Result<Vec<Refused>> {
        let mut refused = Vec::new();
        for (index, one) in acked.iter().enumerate() {
            match self.merge(std::slice::from_ref(one), epoch, Matched::Replace).await {
                Err(error) if is_of_documents(&error) => {
                    refused.push(Refused { index, error: mongodb_words(&error) });
                }
                kept => kept?,
            }
        }

        Ok(refused)
    }

    /// Deletes those acked events that could be kept.
    pub(super) async fn delete_kept(
        &self,
        acked: &[Acked],
        mut refused: Vec<Refused>,
    ) -> Result<Vec<Refused>> {
        let is_kept = |index: &usize| refused.iter().all(|refused| refused.index != *index);
        let places: Vec<_> = (0..acked.len()).filter(is_kept).collect();
        let ids: Vec<_> = places.iter().map(|index| acked[*index].id().clone().into()).collect();

        let undeleted = self.delete_each(&ids, Document::new()).await?;
        let at = |refused: Refused| Refused { index: places[refused.index], ..refused };
        refused.extend(undeleted.into_iter().map(at));
        Ok(refused)
    }

    async fn merge(&self, acked: &[Acked], epoch: Epoch, matched: Matched) -> Result<()> {
        let ids: Vec<Bson> = acked.iter().map(|acked| acked.id().clone().into()).collect();
        let sequences: Vec<_> = acked.iter().map(|acked| sequence(acked.sequence)).collect();
        let places: Vec<_> = acked.iter().map(|acked| place(epoch, acked.sequence)).collect();
        let of = |values: Bson| doc! { "$arrayElemAt": [{ "$literal": values }, "$place"] };

        let mut set = doc! {
            PUBLISHED_AT: "$$NOW",
            STREAM: { "$literal": &*self.stream },
            SEQUENCE: of(sequences.into()),
            PLACE: of(places.into()),
        };

        if acked.iter().any(|acked| acked.is_renamed) {
            let id = |acked: &Acked| match acked.is_renamed {
                true => Bson::from(acked.message_id.clone()),
                false => Bson::Null,
            };
            let ids: Vec<_> = acked.iter().map(id).collect();
            set.insert(MESSAGE_ID, doc! { "$ifNull": [of(ids.into()), "$$REMOVE"] });
        }

        let matched = match matched {
            Matched::Fail => "fail",
            Matched::Replace => "replace",
        };

        let pipeline = vec![
            doc! { "$match": { field::ID: { "$in": &ids } } },
            // Its position among the ids, for a moment.
            doc! { "$set": { PLACE: { "$indexOfArray": [{ "$literal": &ids }, "$_id"] } } },
            doc! { "$set": set },
            doc! { "$merge": {
                "into": published(self.collection.name()),
                "on": field::ID,
                "whenMatched": matched,
                "whenNotMatched": "insert",
            } },
        ];

        let command = doc! {
            "aggregate": self.collection.name(),
            "pipeline": pipeline,
            "cursor": {},
            "hint": { field::ID: 1 },
            "collation": simple_document(),
            "writeConcern": { "w": "majority" },
        };
        self.database().run_command(command).await.map(|_| ())
    }

    pub(super) async fn read_kept(
        &self,
        filter: Document,
        last: bool,
        room: Room,
    ) -> Result<Vec<Kept>> {
        let order = if last { -1 } else { 1 };
        let published = self.published();
        let found = published.find(filter).sort(doc! { PLACE: order });
        let one_more = u32::try_from(room.events + 1).unwrap_or(u32::MAX);
        let mut found = found.batch_size(one_more).collation(simple()).await?;

        let (mut kept, mut bytes) = (Vec::<Kept>::new(), 0);
        while found.advance().await? {
            let document = found.current();
            let Some(next) = self.read_one_kept(document) else { continue };

            // Until the relay notices a loss, it may give an event the place of another. Those that
            // share one are in one page.
            let is_full = kept.len() >= room.events || bytes >= room.bytes;
            if is_full && kept.last().is_some_and(|last| last.place != next.place) {
                break;
            }
            bytes += document.as_bytes().len();
            kept.push(next);
        }

        Ok(kept)
    }

    /// Not what somebody else has put there.
    fn read_one_kept(&self, document: &RawDocument) -> Option<Kept> {
        let sequence = document.get_i64(SEQUENCE).ok();
        Some(Kept {
            place: document.get_i64(PLACE).ok()?,
            stream: document.get_str(STREAM).ok()?.to_owned(),
            sequence: sequence.and_then(|sequence| u64::try_from(sequence).ok()),
            message_id: document.get_str(MESSAGE_ID).ok().map(str::to_owned),
            event: self.record(document),
        })
    }

    async fn write_republished(&self, events: &[Republished]) -> Result<()> {
        let update = |event: &Republished| {
            let to = event.to.map(|(_, to)| sequence(to));
            let mut set = doc! { SEQUENCE: to, STREAM: &*self.stream };
            set.extend(event.to.map(|(place, _)| (PLACE.to_owned(), place.into())));
            let mut update = Document::new();
            match &event.message_id {
                Some(id) => _ = set.insert(MESSAGE_ID, id),
                None => _ = update.insert("$unset", doc! { MESSAGE_ID: "" }),
            }
            update.insert("$set", set);
            // Its time begins anew, so that times rise as places do.
            if event.to.is_some() {
                update.insert("$currentDate", doc! { PUBLISHED_AT: true });
            }

            let id = Bson::from(event.id.clone());
            let wanted = doc! { field::ID: id, PLACE: event.place };
            raw(doc! { "q": wanted, "u": update, "collation": simple_document() })
        };
        let updates: Vec<_> = events.iter().map(update).collect::<Result<_>>()?;

        let (database, collection) = (self.database(), published(self.collection.name()));
        let written =
            write::all(&database, &collection, Write::Update, &updates, Order::None, |_| {});
        match written.await?.into_iter().next() {
            Some(Refused { error, .. }) => Err(Error::custom(error)),
            None => Ok(()),
        }
    }

    async fn remove_old(&self, age: Duration) -> Result<u64> {
        let published = self.published();
        let now = clock::now(&self.database()).await?.timestamp_millis();
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let until = DateTime::from_millis(now.saturating_sub(age));

        // The oldest of them come first, so this reads no more than it removes, and one of them.
        let oldest = published.find(doc! {}).sort(doc! { PLACE: 1 }).limit(MAX_FORGOTTEN);
        let oldest = oldest.projection(doc! { field::ID: 1, PUBLISHED_AT: 1 });
        let mut oldest = oldest.batch_size(100).collation(simple()).await?;

        let mut ids = Vec::new();
        while let Some(one) = oldest.try_next().await? {
            match one.get_datetime(PUBLISHED_AT) {
                Ok(at) if at >= until => break,
                _ => ids.extend(one.get(field::ID)?.map(Bson::try_from).transpose()?),
            }
        }

        if ids.is_empty() {
            return Ok(0);
        }

        let by_id = Hint::Keys(doc! { field::ID: 1 });
        let remove = published.delete_many(doc! { field::ID: { "$in": ids } }).hint(by_id);
        Ok(remove.collation(simple()).await?.deleted_count)
    }
}

impl KeptStore for Store {
    async fn kept(&self, places: Range<i64>, room: Room) -> StoreResult<Vec<Kept>> {
        Ok(self.read_kept(within(&places), false, room).await?)
    }

    async fn next_held(&self, places: Range<i64>) -> StoreResult<Option<Kept>> {
        let mut acked = within(&places);
        acked.insert(SEQUENCE, doc! { "$type": "long" });
        Ok(self.read_kept(acked, false, Room { events: 1, bytes: 1 }).await?.into_iter().next())
    }

    async fn last_held(&self, places: Range<i64>, room: Room) -> StoreResult<Vec<Kept>> {
        let mut acked = within(&places);
        acked.insert(SEQUENCE, doc! { "$type": "long" });
        Ok(self.read_kept(acked, true, room).await?)
    }

    async fn count_kept(&self, places: Range<i64>) -> StoreResult<u64> {
        let index = Hint::Name(INDEX.to_owned());
        let published = self.published();
        let count = published.count_documents(within(&places)).hint(index);
        Ok(count.collation(simple()).await?)
    }

    async fn republished(&self, events: &[Republished]) -> StoreResult<()> {
        Ok(self.write_republished(events).await?)
    }

    async fn forget(&self, age: Duration) -> StoreResult<u64> {
        Ok(self.remove_old(age).await?)
    }

    async fn record_repair(&self, relay: &str, published: u64, what: String) -> StoreResult<()> {
        let record = doc! {
            "outbox": self.collection.name(),
            "at": DateTime::now(),
            "who": relay,
            "action": "repair",
            "selection": what,
            "events": sequence(published),
        };
        let audit = self.database().collection::<Document>(AUDIT);
        Ok(audit.insert_one(record).await.map(|_| ())?)
    }
}

/// In a query: these places.
fn within(places: &Range<i64>) -> Document {
    doc! { PLACE: { "$gte": places.start, "$lt": places.end } }
}

fn sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn is_duplicate(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(error) if error.code == code::DUPLICATE_KEY)
}
