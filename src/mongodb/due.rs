//! What the retrier asks: which unlocked events are due, and which an operator wants removed.
//!
//! Both look at the events that are neither locked nor dead, and at one more of each key that may
//! go. So dead events cost nothing, however many there are and however large.

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::Result;
use outboxd_client::field;

use super::collation::simple;
use super::index::{By, lacks_index};
use super::outbox::{self, Store, limit};
use super::snapshot::Snapshot;
use crate::config::{OnDead, Ordering};
use crate::document::record::{MAX_ANY_ID_BYTES, size_of_value};
use crate::document::state::{self, State};
use crate::relay::listing::RawId;
use crate::relay::ports::{Page, Room};

/// Bytes of ids at which a read of heads ends. As values, ids that no event has may be a hundred
/// times as big; ids of events come to less.
const HEADS_BYTES: usize = 128 << 10;

impl Store {
    /// See [`EventStore::due`](crate::relay::ports::EventStore::due).
    pub(super) async fn read_due(&self, room: Room, except: &[RawId]) -> Result<Page> {
        match self.read_due_by(By::Index, room, except).await {
            Err(error) if lacks_index(&error) => self.read_due_by(By::Scan, room, except).await,
            read => read,
        }
    }

    /// See [`EventStore::discards`](crate::relay::ports::EventStore::discards).
    pub(super) async fn read_discards(&self, room: Room) -> Result<Page> {
        let wanted = |by: By| {
            let mut wanted = state::filter(State::WAITING, &self.layout);
            wanted.extend(state::discard_requested(state::DISCARD_HOLDS));
            wanted.extend(state::discard_not_granted());
            by.find(&self.collection, wanted, &self.layout)
        };

        match self.read_once(wanted(By::Index), room).await {
            Err(error) if lacks_index(&error) => self.read_once(wanted(By::Scan), room).await,
            read => read,
        }
    }

    /// See [`EventStore::is_empty`](crate::relay::ports::EventStore::is_empty).
    pub(super) async fn read_is_empty(&self) -> Result<bool> {
        let mut snapshot = self.snapshot().await?;
        // An id may have megabytes.
        let any = doc! { field::ID: 0, "any": { "$literal": true } };
        let any = self.collection.find_one(doc! {}).projection(any).collation(simple());
        let any = any.session(&mut snapshot.session).await?;

        snapshot.end().await?;
        Ok(any.is_none())
    }

    async fn read_due_by(&self, by: By, room: Room, except: &[RawId]) -> Result<Page> {
        let mut snapshot = self.snapshot().await?;
        let mut due = state::filter(State::WAITING, &self.layout);
        due.extend(state::is_due(self.longest_wait));
        due.extend(outbox::except(except)?);

        // Without an order, each event stands for itself.
        if self.ordering == Ordering::None {
            let events = by.find(&self.collection, due, &self.layout).sort(doc! { field::TS: 1 });
            let page = self.read(events, room, &mut snapshot).await?;
            snapshot.end().await?;
            return Ok(page);
        }

        // Half of the room each, so that neither kind of event keeps the other waiting.
        let half = Room { events: room.events.div_ceil(2), bytes: room.bytes.div_ceil(2) };

        // With a key: which events may go is known from the heads of the keys, one more than there
        // is room for to know whether there are more. Then those are read in whole.
        let heads = self.due_heads(half.events + 1, by, except, &mut snapshot).await?;
        let keyed = self.collection.find(doc! { field::ID: { "$in": heads } });
        let mut page = self.read(keyed, half, &mut snapshot).await?;

        due.insert(self.layout.key(), Bson::Null);
        let unkeyed = by.find(&self.collection, due, &self.layout).sort(doc! { field::TS: 1 });
        let unkeyed = self.read(unkeyed, half, &mut snapshot).await?;

        snapshot.end().await?;
        page.more |= unkeyed.more;
        page.events.extend(unkeyed.events);
        Ok(page)
    }

    /// Of each key that has unlocked events, the id of the oldest one, if that one is due. Looks at
    /// the events that are not dead, then at the oldest event of each key that may go: dead events
    /// cost nothing, however many there are.
    async fn due_heads(
        &self,
        most: usize,
        by: By,
        except: &[RawId],
        snapshot: &mut Snapshot,
    ) -> Result<Vec<Bson>> {
        let key = self.layout.key();
        let mut waiting = state::filter(State::WAITING, &self.layout);
        waiting.insert(key, doc! { "$ne": Bson::Null });

        // The fields keep their names, so that the filters below fit.
        let first = |name: &str| doc! { "$first": format!("${name}") };
        let heads = doc! { "$group": {
            "_id": format!("${key}"),
            "id": first(field::ID),
            field::NEXT_ATTEMPT_AT: first(field::NEXT_ATTEMPT_AT),
        } };

        let id_bytes = doc! { "$bsonSize": { "id": "$id" } };
        let is_small = doc! { "$expr": { "$lt": [id_bytes, MAX_ANY_ID_BYTES as i64] } };

        let mut pipeline = vec![
            doc! { "$match": waiting },
            doc! { "$sort": { field::TS: 1, field::ID: 1 } },
            heads,
            // A document with a huge `_id` is no event.
            doc! { "$match": is_small },
            doc! { "$match": state::is_due(self.longest_wait) },
        ];
        if let Some(except) = outbox::except(except)?.remove(field::ID) {
            pipeline.push(doc! { "$match": { "id": except } });
        }
        if self.on_dead == OnDead::Hold {
            pipeline.extend(self.unless_behind_a_dead_one());
        }
        pipeline.push(doc! { "$limit": limit(most) });

        let heads = by.aggregate(&self.collection, pipeline).allow_disk_use(true);
        let heads = heads.with_type::<RawDocumentBuf>();
        let mut cursor = heads.session(&mut snapshot.session).await?;

        let (mut ids, mut bytes) = (Vec::new(), 0);
        while bytes < HEADS_BYTES && cursor.advance(&mut snapshot.session).await? {
            // An id that isn't UTF-8 is no event's.
            let id = cursor.current().get("id").ok().flatten();
            bytes += id.map_or(0, size_of_value);
            ids.extend(id.and_then(|id| Bson::try_from(id).ok()));
        }

        Ok(ids)
    }

    /// Leaves out of the heads of keys those that aren't the oldest unlocked event of their key.
    fn unless_behind_a_dead_one(&self) -> [Document; 2] {
        let oldest = vec![
            doc! { "$match": state::filter(State::UNLOCKED, &self.layout) },
            doc! { "$sort": { field::TS: 1, field::ID: 1 } },
            doc! { "$limit": 1 },
            doc! { "$project": { field::ID: 1 } },
        ];
        let oldest = doc! { "$lookup": {
            "from": self.collection.name(),
            "localField": "_id",
            "foreignField": self.layout.key(),
            "pipeline": oldest,
            "as": "oldest",
        } };

        // An array is no key of an event, and has none of its own here.
        let is_oldest = doc! { "$or": [
            { "$isArray": "$_id" },
            { "$eq": [{ "$first": "$oldest._id" }, "$id"] },
        ] };
        [oldest, doc! { "$match": { "$expr": is_oldest } }]
    }
}
