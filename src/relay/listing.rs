//! What a sweep knows of the events that wait: their ids, in their order, and nothing else.
//!
//! A list may have tens of thousands of them, so they are kept as the bytes of their BSON, one
//! behind the other: 21 bytes for an ObjectId. An id may be of any type and need not be UTF-8. Of
//! what was handed over, only digests are kept.

use std::hash::{BuildHasher, RandomState};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use outboxd_client::{EventId, field};

use crate::crash;
use crate::document::record::shown_id;

/// The oldest locked events as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The oldest first, without those that were handed over before.
    pub(crate) ids: Ids,
    /// Those, as places in the set of what was handed over.
    pub(crate) again: Vec<u32>,
    /// Whether there were more than were asked for.
    pub(crate) is_cut: bool,
    pub(crate) moment: Moment,
}

/// The `_id` of a document as BSON: a malformed one's may be of any type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RawId(Box<[u8]>);

impl RawId {
    pub(crate) fn new(id: &Bson) -> Self {
        let id = bson::serialize_to_vec(&doc! { field::ID: id });
        Self(id.expect("an id that was read from BSON").into())
    }

    pub(crate) fn of_event(id: &EventId) -> Self {
        Self::new(&id.clone().into())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn to_bson(&self) -> bson::error::Result<Bson> {
        let mut id: Document = bson::deserialize_from_slice(&self.0)?;
        Ok(id.remove(field::ID).unwrap_or(Bson::Null))
    }

    /// As people read it.
    pub(crate) fn shown(&self) -> String {
        self.to_bson()
            .map_or_else(|error| format!("one that can't be read ({error})"), |id| shown_id(&id))
    }
}

/// When a list was read. The server doesn't say exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The list has everything that was committed up to this time.
    pub(crate) after: Timestamp,
    /// It has nothing that was committed after this time.
    pub(crate) until: Timestamp,
}

impl Default for Moment {
    fn default() -> Self {
        let zero = Timestamp { time: 0, increment: 0 };
        Self { after: zero, until: zero }
    }
}

/// The `_id`s of documents, in an order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    /// Each id as [`id_of`] returns it.
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Ids {
    /// Adds an id.
    pub(crate) fn push(&mut self, id: &[u8]) {
        self.bytes.extend_from_slice(id);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all ids.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps the first of them.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    pub(crate) fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// Which ids were handed over: 16 bytes for each, however long it is. The digest has keys that
/// nobody else knows, so nobody can choose two ids that have the same one.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    keys: [RandomState; 2],
    /// In their order.
    digests: Vec<u128>,
}

impl IdSet {
    /// The most ids, of which a list may have more: 8 MiB.
    const MOST: usize = 500_000;

    /// Whether so many of them are all that a list can leave out.
    pub(crate) fn is_full(len: usize) -> bool {
        len >= crash::bound("REMEMBERED", Self::MOST)
    }

    pub(crate) fn contains(&self, id: &[u8]) -> bool {
        self.place(id).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }

    pub(crate) fn place(&self, id: &[u8]) -> Option<u32> {
        if self.digests.is_empty() {
            return None;
        }
        let place = self.digests.binary_search(&self.digest(id)).ok()?;
        u32::try_from(place).ok()
    }

    /// Keeps what is in these places, and adds these ids.
    pub(crate) fn renew(&mut self, mut kept: Vec<u32>, ids: &Ids) {
        kept.sort_unstable();
        kept.dedup();
        for (to, from) in kept.iter().enumerate() {
            self.digests[to] = self.digests[*from as usize];
        }

        self.digests.truncate(kept.len());
        self.digests.reserve_exact(ids.len());
        for place in 0..ids.len() {
            let digest = self.digest(ids.get(place));
            self.digests.push(digest);
        }
        self.digests.sort_unstable();
    }

    fn digest(&self, id: &[u8]) -> u128 {
        let [first, second] = self.keys.each_ref().map(|key| u128::from(key.hash_one(id)));
        first << 64 | second
    }
}

/// The `_id` of a document: its type, the field's name and its value, as they stand there.
pub(crate) fn id_of(document: &RawDocument) -> Option<&[u8]> {
    let mut start = size_of::<i32>();
    for element in document.iter_elements() {
        let element = element.ok()?;
        let name = element.key();
        let end = start + 1 + name.len() + 1 + element.size();
        if name.as_str() == field::ID {
            return document.as_bytes().get(start..end);
        }
        start = end;
    }

    None
}

/// The document that has this `_id`, as [`id_of`] returned it, and nothing else.
#[cfg(test)]
pub(crate) fn only_id(id: &[u8]) -> bson::error::Result<RawDocumentBuf> {
    document(id)
}

/// A document or an array of these elements.
pub(crate) fn document(elements: &[u8]) -> bson::error::Result<RawDocumentBuf> {
    // A length over 2 GB doesn't fit the bytes, so it is refused below.
    let length = i32::try_from(elements.len() + 5).unwrap_or(i32::MAX);
    RawDocumentBuf::from_bytes([&length.to_le_bytes()[..], elements, &[0]].concat())
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{Bson, Document, RawDocumentBuf, doc};

    use super::*;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).expect("a document")
    }

    /// One id of each type that MongoDB allows.
    fn ids() -> Vec<Bson> {
        let embedded = doc! { "a": 1, "b": { "c": [1, 2] } };
        vec![
            Bson::from("text"),
            Bson::from(ObjectId::from_bytes([7; 12])),
            Bson::from(bson::Uuid::from_bytes([9; 16])),
            Bson::from(3_i32),
            Bson::from(3_i64),
            Bson::from(3.5),
            Bson::from(embedded),
            Bson::from(true),
            Bson::Null,
            Bson::MinKey,
            Bson::from(bson::DateTime::from_millis(5)),
            Bson::from(Timestamp { time: 1, increment: 2 }),
            Bson::from("x".repeat(100_000)),
        ]
    }

    #[test]
    fn ids_of_every_type_are_kept_and_found() {
        let mut list = Ids::default();
        for id in ids() {
            let event = raw(&doc! { "first": 1, "_id": id, "last": [1] });
            list.push(id_of(&event).expect("an id"));
        }

        for (place, id) in ids().into_iter().enumerate() {
            let only = only_id(list.get(place)).expect("a document");
            assert_eq!(Document::try_from(only).expect("a document"), doc! { "_id": id });
        }

        let mut set = IdSet::default();
        set.renew(Vec::new(), &list);
        for id in ids() {
            assert!(set.contains(id_of(&raw(&doc! { "_id": id })).expect("an id")));
        }
        assert!(!set.contains(id_of(&raw(&doc! { "_id": 4_i32 })).expect("an id")));

        let kept = set.place(list.get(0)).expect("the first");
        let mut one = Ids::default();
        one.push(id_of(&raw(&doc! { "_id": 4_i32 })).expect("an id"));
        set.renew(vec![kept, kept], &one);
        assert_eq!(set.len(), 2);
        assert!([list.get(0), one.get(0)].iter().all(|id| set.contains(id)));
        assert!(!set.contains(list.get(1)));

        list.truncate(2);
        assert_eq!((list.len(), list.get(1)[0]), (2, 0x07));
        assert!(id_of(&raw(&doc! { "id": 1 })).is_none());
    }
}
