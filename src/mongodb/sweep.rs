//! What a sweep asks: which events are locked, which keys have unlocked ones, and the documents of
//! some events.
//!
//! As long as the outbox has its indexes, the list and the keys are read from those alone. Without
//! them a list reads every document, and sorts nothing of it but `ts` and `_id`. Two reads look at
//! more documents than they return, because no index of locked events has the key: a list that
//! leaves out the keys with a rest, and the rests of some keys, which passes over the others' events.

use std::collections::HashSet;

use bson::raw::CString;
use bson::spec::ElementType;
use bson::{DateTime, Document, RawBson, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mongodb::ClientSession;
use mongodb::action::Find;
use mongodb::error::{Error, Result};
use mongodb::options::{Hint, ReadConcern};
use mongodb::raw_batch_cursor::{RawBatch, SessionRawBatchCursor};
use outboxd_client::{Key, field};
use tokio::sync::mpsc;

use super::clock;
use super::collation::{simple, simple_document};
use super::index::{By, LOCKED, lacks_index};
use super::outbox::{self, Store, limit};
use super::snapshot::Snapshot;
use crate::config::{OnDead, Ordering};
use crate::document::state::{self, State};
use crate::relay::listing::{self, IdSet, Ids, Listing, Moment, RawId, id_of};
use crate::relay::ports::{Dated, Fetched, Page, RestOf, Room};

/// Ids or keys per reply, of which the driver has several copies for a moment.
const BATCH: u32 = 2500;
/// Keys sent at once: sixty times as many may be between the reader and the relay.
const KEYS: usize = 100;
/// Seconds by which the clocks of two members may differ.
const SKEW: u32 = 3600;
/// Bytes of ids at which a list ends: those of twenty thousand events come to less.
const LIST_BYTES: usize = 2 << 20;

impl Store {
    /// See [`EventStore::list`](crate::relay::ports::EventStore::list).
    pub(super) async fn read_list(
        &self,
        most: usize,
        without: &[Key],
        before: &IdSet,
    ) -> Result<Listing> {
        match self.read_list_by(By::Index, most, without, before).await {
            Err(error) if lacks_index(&error) => {
                self.read_list_by(By::Scan, most, without, before).await
            }
            read => read,
        }
    }

    /// A session, and the time of the newest write. A snapshot of the session has that.
    async fn session_now(&self) -> Result<(ClientSession, Timestamp)> {
        let mut session = self.session().await?;
        let now = clock::cluster_time(&self.database(), &mut session).await?;
        Ok((session, now))
    }

    /// In a query: not the events of these keys.
    fn without(&self, keys: &[Key]) -> Document {
        if keys.is_empty() {
            return Document::new();
        }

        let of = |key: &Key| doc! { self.layout.key(): self.layout.of_key(key.as_str()) };
        doc! { "$nor": keys.iter().map(of).collect::<Vec<_>>() }
    }

    /// See [`EventStore::locked`](crate::relay::ports::EventStore::locked).
    pub(super) async fn read_rests(&self, of: &[RestOf], room: Room) -> Result<Dated> {
        let mut locked = State::Locked.filter(&self.layout);
        let keys: Vec<_> =
            of.iter().flat_map(|rest| self.layout.forms(rest.key.as_str())).collect();
        locked.insert(self.layout.key(), doc! { "$in": keys });

        let first = of.iter().map(|rest| rest.from).min().filter(|from| from.time > 0);
        if let Some(first) = first {
            locked.insert(field::TS, doc! { "$gte": first });
        }

        // An index can't serve `$nor`, so the server doesn't consider one for each key.
        let before =
            of.iter().filter(|rest| rest.from.time > 0 && Some(rest.from) > first).map(|rest| {
                let key = self.layout.of_key(rest.key.as_str());
                doc! { self.layout.key(): key, field::TS: { "$lt": rest.from } }
            });
        let before: Vec<_> = before.collect();
        if !before.is_empty() {
            locked.insert("$nor", before);
        }

        match self.read_rest_by(self.locked(locked.clone()), room).await {
            Err(error) if lacks_index(&error) => {}
            read => return read,
        }

        let in_order = self.collection.find(locked).sort(doc! { field::TS: 1, field::ID: 1 });
        self.read_rest_by(in_order.allow_disk_use(true), room).await
    }

    async fn read_rest_by(&self, find: Find<'_, RawDocumentBuf>, room: Room) -> Result<Dated> {
        let (session, after) = self.session_now().await?;
        let mut snapshot = Snapshot::of(session).await?;
        let page = self.read(find, room, &mut snapshot).await?;

        let session = snapshot.end().await?;
        Ok(Dated { page, moment: Moment { after, until: clock::seen(&session)? } })
    }

    async fn read_list_by(
        &self,
        by: By,
        most: usize,
        without: &[Key],
        before: &IdSet,
    ) -> Result<Listing> {
        let (session, after) = self.session_now().await?;
        let mut list = List { ids: Ids::default(), again: Vec::new(), most, before };
        let mut snapshot = Snapshot::of(session).await?;
        let session = &mut snapshot.session;
        match by {
            By::Index => {
                for mut filter in state::unlocked_by_mistake() {
                    filter.extend(self.without(without));
                    let events = By::Index.find(&self.collection, filter, &self.layout);
                    let events = events.projection(doc! { field::ID: 1 });
                    let events = events.limit(list.limit()).batch_size(BATCH);
                    let cursor = events.session(&mut *session).batch().await?;
                    list.take(cursor, session).await?;
                }

                for mut filter in self.locked_in_parts() {
                    filter.extend(self.without(without));
                    let events = self.locked(filter).projection(doc! { field::ID: 1 });
                    let events = events.limit(list.limit()).batch_size(BATCH);
                    let cursor = events.session(&mut *session).batch().await?;
                    list.take(cursor, session).await?;
                }
            }
            By::Scan => {
                let mut wanted = vec![doc! { field::IS_LOCKED: { "$ne": false } }];
                wanted.extend(state::unlocked_by_mistake());
                let mut wanted = doc! { "$or": wanted };
                wanted.extend(self.without(without));
                let events = self.collection.aggregate(scan(wanted, list.limit()));
                let cursor = events
                    .allow_disk_use(true)
                    .batch_size(BATCH)
                    .collation(simple())
                    .session(&mut *session)
                    .batch()
                    .await?;
                list.take(cursor, session).await?;
            }
        }

        let session = snapshot.end().await?;
        let moment = Moment { after, until: clock::seen(&session)? };
        let is_cut = list.is_full();
        list.ids.truncate(most);
        Ok(Listing { ids: list.ids, again: list.again, is_cut, moment })
    }

    /// In queries: every event that isn't unlocked. The index has the first field's values one
    /// after the other, so a query for more than a few values would sort. What no writer should
    /// have written there is a query of its own, and comes first: there is hardly any.
    fn locked_in_parts(&self) -> [Document; 2] {
        let usual = self.layout.locked_values();
        let unusual: Vec<_> = usual.iter().cloned().chain([false.into()]).collect();
        let is = |condition: Document| doc! { field::IS_LOCKED: condition };
        [is(doc! { "$nin": unusual }), is(doc! { "$in": usual })]
    }

    fn locked(&self, filter: Document) -> Find<'_, RawDocumentBuf> {
        let by_index = Hint::Name(LOCKED.to_owned());
        let in_order = doc! { field::TS: 1, field::ID: 1 };
        self.collection.find(filter).sort(in_order).hint(by_index).collation(simple())
    }

    /// See [`EventStore::passed_over`](crate::relay::ports::EventStore::passed_over).
    pub(super) async fn read_passed_over(
        &self,
        before: Timestamp,
        room: Room,
        without: &[Key],
        except: &[RawId],
    ) -> Result<Page> {
        let mut passed_over = State::Locked.filter(&self.layout);
        passed_over.extend(self.without(without));
        passed_over.extend(outbox::except(except)?);
        self.layout.before(&mut passed_over, before);

        match self.read_once(self.locked(passed_over.clone()), room).await {
            Err(error) if lacks_index(&error) => {}
            read => return read,
        }

        let mut snapshot = self.snapshot().await?;
        let list = self.collection.aggregate(scan(passed_over, limit(room.events + 1)));
        let list = list.allow_disk_use(true).collation(simple());
        let mut list = list.session(&mut snapshot.session).await?;
        let list: Vec<_> = list.stream(&mut snapshot.session).try_collect().await?;
        let ids = list.into_iter().filter_map(|mut event| event.remove(field::ID));

        let passed_over = doc! { field::ID: { "$in": ids.collect::<Vec<_>>() } };
        let passed_over = self.collection.find(passed_over);
        let passed_over = passed_over.sort(doc! { field::TS: 1, field::ID: 1 });
        let page = self.read(passed_over, room, &mut snapshot).await?;
        snapshot.end().await?;
        Ok(page)
    }

    /// See [`EventStore::held`](crate::relay::ports::EventStore::held).
    pub(super) async fn read_held(
        &self,
        since: Timestamp,
        before: Option<Timestamp>,
        keys: &mpsc::Sender<Vec<Key>>,
    ) -> Result<()> {
        if self.ordering == Ordering::None {
            return Ok(());
        }

        match self.read_held_by(By::Index, since, before, keys).await {
            Err(error) if lacks_index(&error) => {
                self.read_held_by(By::Scan, since, before, keys).await
            }
            read => read,
        }
    }

    async fn read_held_by(
        &self,
        by: By,
        since: Timestamp,
        before: Option<Timestamp>,
        found: &mpsc::Sender<Vec<Key>>,
    ) -> Result<()> {
        let mut session = self.session().await?;
        session.advance_operation_time(since);

        for events in self.holding(before) {
            let events = by
                .find(&self.collection, events, &self.layout)
                .projection(doc! { field::ID: 0, self.layout.key(): 1 })
                .read_concern(ReadConcern::majority())
                .batch_size(BATCH);
            let mut cursor = events.session(&mut session).batch().await?;

            while let Some(batch) = cursor.stream(&mut session).next().await.transpose()? {
                // Many events of a page may have one key.
                let mut keys = HashSet::new();
                for event in documents(&batch)? {
                    keys.extend(self.layout.key_of(event?));
                }

                let mut keys = keys.into_iter().peekable();
                while keys.peek().is_some() {
                    if found.send(keys.by_ref().take(KEYS).collect()).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }

        Ok(())
    }

    /// In queries: the unlocked events that hold up later ones of their key. Of dead ones, those
    /// that may have died after `before`, by the clock of any member.
    fn holding(&self, before: Option<Timestamp>) -> Vec<Document> {
        let Some(before) = before.filter(|_| self.on_dead == OnDead::Hold) else {
            return vec![self.unlocked_in_order()];
        };

        let died = i64::from(before.time.saturating_sub(SKEW)) * 1000;
        let mut dead = state::filter(State::UNLOCKED, &self.layout);
        dead.insert(field::DEAD_AT, doc! { "$gte": DateTime::from_millis(died) });
        vec![state::filter(State::WAITING, &self.layout), dead]
    }

    /// See [`EventStore::fetch`](crate::relay::ports::EventStore::fetch). Whole documents: a locked
    /// event has hardly any failures, and a projection would cost mongod 1 µs for each.
    pub(super) async fn read_documents(
        &self,
        ids: &[&[u8]],
        since: Timestamp,
        without: &[Key],
    ) -> Result<Fetched<RawBatch>> {
        let mut wanted = with_ids(ids)?;
        for (name, keys) in self.without(without) {
            wanted.append(CString::try_from(name)?, RawBson::try_from(keys)?);
        }

        let most = i32::try_from(ids.len()).unwrap_or(i32::MAX).saturating_add(1);
        let find = rawdoc! {
            "find": self.collection.name(),
            "filter": wanted,
            "hint": RawDocumentBuf::try_from(&doc! { field::ID: 1 })?,
            "collation": RawDocumentBuf::try_from(&simple_document())?,
            // With one more, a reply that has all of them also ends the cursor.
            "batchSize": most,
            "readConcern": { "level": "majority", "afterClusterTime": since },
        };

        let mut cursor = self.database().run_raw_cursor_command(find).batch().await?;
        let page = cursor.next().await.transpose()?;
        let page = page.ok_or_else(|| Error::custom("the server sent no documents and no end"))?;
        let left = page.as_raw_document().get_document("cursor")?.get_i64("id")?;
        Ok(Fetched { page, is_cut: left != 0 })
    }
}

/// A list while it is read.
struct List<'a> {
    ids: Ids,
    /// Those of `before`.
    again: Vec<u32>,
    /// How many others are wanted.
    most: usize,
    before: &'a IdSet,
}

impl List<'_> {
    /// How many more may be read: with one more than is wanted, it shows whether that was all.
    fn limit(&self) -> i64 {
        let wanted = self.most + 1 + self.before.len();
        limit(wanted.saturating_sub(self.ids.len() + self.again.len()).max(1))
    }

    fn is_full(&self) -> bool {
        self.ids.len() > self.most
            || self.ids.bytes() > LIST_BYTES
            || IdSet::is_full(self.again.len())
    }

    async fn take(
        &mut self,
        mut cursor: SessionRawBatchCursor,
        session: &mut ClientSession,
    ) -> Result<()> {
        while !self.is_full()
            && let Some(batch) = cursor.stream(session).next().await.transpose()?
        {
            for event in documents(&batch)? {
                let id = id_of(event?).ok_or_else(|| Error::custom("an event without an _id"))?;
                if self.is_full() {
                    return Ok(());
                }
                match self.before.place(id) {
                    Some(place) => self.again.push(place),
                    None => self.ids.push(id),
                }
            }
        }

        Ok(())
    }
}

/// The ids of the oldest of these events, for a server that has to read every document. The
/// projection comes before the sort, so the payloads are not sorted.
fn scan(events: Document, limit: i64) -> [Document; 5] {
    [
        doc! { "$match": events },
        doc! { "$project": { field::TS: 1 } },
        doc! { "$sort": { field::TS: 1, field::ID: 1 } },
        doc! { "$limit": limit },
        doc! { "$project": { field::ID: 1 } },
    ]
}

/// In a query: the documents with these ids, which may be of any type and need not be UTF-8.
fn with_ids(ids: &[&[u8]]) -> Result<RawDocumentBuf> {
    let mut elements = Vec::new();
    for (place, id) in ids.iter().enumerate() {
        // An element of an array has its place for its name.
        let (kind, value) = (id[0], &id[1 + field::ID.len() + 1..]);
        add(&mut elements, kind, &place.to_string(), value);
    }

    let array = document(elements)?;
    let among = document(element(ElementType::Array, "$in", array.as_bytes()))?;
    document(element(ElementType::EmbeddedDocument, field::ID, among.as_bytes()))
}

fn element(kind: ElementType, name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    add(&mut bytes, kind as u8, name, value);
    bytes
}

fn add(elements: &mut Vec<u8>, kind: u8, name: &str, value: &[u8]) {
    elements.push(kind);
    elements.extend_from_slice(name.as_bytes());
    elements.push(0);
    elements.extend_from_slice(value);
}

fn document(elements: Vec<u8>) -> Result<RawDocumentBuf> {
    Ok(listing::document(&elements)?)
}

fn documents(batch: &RawBatch) -> Result<impl Iterator<Item = Result<&RawDocument>>> {
    let not_document =
        || Error::custom("a page of the server holds something other than documents");
    Ok(batch
        .doc_slices()?
        .into_iter()
        .map(move |value| value?.as_document().ok_or_else(not_document)))
}

#[cfg(test)]
mod tests {
    use bson::Bson;

    use super::*;

    #[test]
    fn a_filter_has_ids_of_any_type() {
        let ids = [Bson::from("text"), Bson::from(3.5), Bson::from(doc! { "a": [1] }), Bson::Null];
        let events: Vec<_> = ids
            .iter()
            .map(|id| RawDocumentBuf::try_from(&doc! { "a": 1, "_id": id }).expect("a document"))
            .collect();
        let raw: Vec<_> = events.iter().map(|event| id_of(event).expect("an id")).collect();

        let filter = with_ids(&raw).expect("a filter");
        let filter = Document::try_from(filter).expect("a filter");
        assert_eq!(filter, doc! { "_id": { "$in": ids.to_vec() } });
    }
}
