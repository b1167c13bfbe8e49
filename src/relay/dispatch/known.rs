//! Which events the relay already has, so that an event found twice is published once.
//!
//! An event is *known* from its offer until its delete, mark or park is settled. A read that began
//! before that may bring the event once more, as it was. So while reads are under way, what settles
//! is remembered with its place in the order of settlements, and a read's result is checked against
//! what settled after it began.
//!
//! A malformed event is known by its raw `_id` until its mark is settled.
//!
//! What the server refused to write is remembered apart: see [`refused`](super::refused).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use bson::Timestamp;
use foldhash::fast::RandomState;
use outboxd_client::EventId;

use super::refused::Refused;
use crate::relay::listing::RawId;

/// Which read brought an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The round of a sweep with this number.
    Sweep(u64),
    /// The change stream, and when the event was committed.
    Tail(Timestamp),
    /// The retrier.
    Retry,
    /// The retrier, from the rest of a key.
    Rest,
    /// The safety sweep.
    SafetySweep,
}

/// When a read began, in settlements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Began(u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    events: HashMap<EventId, Origin, RandomState>,
    /// Of their ids.
    bytes: usize,
    /// Malformed events that are being marked.
    malformed: HashSet<RawId>,
    malformed_bytes: usize,
    /// Events that the server refused to mark or to delete.
    refused: Refused,
    /// Malformed events that the server refused to mark. One that an operator repairs is an event
    /// like any other, so they are apart.
    refused_malformed: Refused,
    /// How many have settled.
    settlements: u64,
    /// Events that settled while a read was under way which may still bring them, and when.
    settled: HashMap<EventId, u64, RandomState>,
    /// Events that an operator's command is granted, was granted while a read was under way, or was
    /// refused. They may stay, if the command has withdrawn its request.
    let_go: HashSet<EventId>,
    /// Settled events that the safety sweep brought: the tail may be about to bring them too. Until
    /// the next sweep.
    before_the_tail: HashSet<EventId>,
    /// Number and beginning of the latest round of the sweep under way.
    sweep: Option<(u64, Began)>,
    /// Whether a sweep has ended.
    swept: bool,
    /// Reads of the retrier under way, by when they began.
    reads: BTreeMap<u64, usize>,
    /// Of the known events, those the retrier brought.
    retried: usize,
}

impl Known {
    /// Events known, the malformed ones not counted.
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// The bytes of their ids.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Malformed events known, and the bytes of their ids.
    pub(super) fn malformed(&self) -> (usize, usize) {
        (self.malformed.len(), self.malformed_bytes)
    }

    /// Events that were left as they are, because the server refused a write.
    pub(super) fn refused(&self) -> Vec<RawId> {
        self.refused.ids().chain(self.refused_malformed.ids()).cloned().collect()
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty() || !self.refused_malformed.is_empty()
    }

    /// The server refused a write of this event for good.
    pub(super) fn refuse(&mut self, id: &EventId) {
        self.remove(id);
        self.refused.insert(RawId::of_event(id));
    }

    /// The server refused to mark this malformed event.
    pub(super) fn refuse_malformed(&mut self, id: &RawId) {
        self.settle_malformed(id);
        self.refused_malformed.insert(id.clone());
    }

    fn was_refused(&self, id: &EventId) -> bool {
        !self.refused.is_empty() && self.refused.contains(&RawId::of_event(id))
    }

    /// A sweep, or another round of it, begins.
    pub(super) fn begin_sweep(&mut self, number: u64) {
        self.before_the_tail.clear();
        self.sweep = Some((number, Began(self.settlements)));
        self.forget_settled();
    }

    /// The sweep is over.
    pub(super) fn end_sweep(&mut self) {
        self.sweep = None;
        self.swept = true;
        self.forget_settled();
    }

    /// Whether a sweep has brought everything there was, and none is under way.
    pub(super) fn has_swept(&self) -> bool {
        self.swept && self.sweep.is_none()
    }

    /// A read of the retrier begins.
    pub(super) fn begin_read(&mut self) -> Began {
        *self.reads.entry(self.settlements).or_default() += 1;
        Began(self.settlements)
    }

    /// A read of the retrier is over, with everything it brought offered.
    pub(super) fn end_read(&mut self, began: Began) {
        if let Entry::Occupied(mut reads) = self.reads.entry(began.0) {
            *reads.get_mut() -= 1;
            if *reads.get() == 0 {
                reads.remove();
            }
        }
        self.forget_settled();
    }

    /// Whether an event from the current sweep or the tail is new. The tail brings each event once,
    /// after any sweep.
    pub(super) fn is_new_to_follow(&mut self, id: &EventId, origin: Origin) -> bool {
        match (origin, self.sweep) {
            (Origin::Sweep(_), Some((_, began))) => self.is_new(id, began),
            _ => {
                !self.events.contains_key(id)
                    && !self.before_the_tail.remove(id)
                    && !self.was_refused(id)
            }
        }
    }

    /// Whether an event from a read that began then is new.
    pub(super) fn is_new(&self, id: &EventId, began: Began) -> bool {
        !self.events.contains_key(id)
            && self.settled.get(id).is_none_or(|settled| *settled <= began.0)
            && !self.was_refused(id)
    }

    /// How many have settled.
    pub(super) fn settlements(&self) -> u64 {
        self.settlements
    }

    /// How many of the known events the retrier brought.
    pub(super) fn retried(&self) -> usize {
        self.retried
    }

    /// Adds an event.
    pub(super) fn insert(&mut self, id: EventId, origin: Origin) {
        self.retried += usize::from(origin == Origin::Retry);
        let bytes = bytes_of(&id);
        if self.events.insert(id, origin).is_none() {
            self.bytes += bytes;
        }
    }

    /// Adds an event that an operator's command is granted.
    pub(super) fn let_go(&mut self, id: EventId) {
        self.let_go.insert(id.clone());
        self.insert(id, Origin::Retry);
    }

    /// Whether it is open what becomes of an event that a read returned which began then.
    pub(super) fn is_let_go(&self, id: &EventId, began: Began) -> bool {
        self.let_go.contains(id) && !self.is_new(id, began)
    }

    /// Adds a malformed event. Returns false if it was known.
    pub(super) fn insert_malformed(&mut self, id: RawId) -> bool {
        let bytes = id.bytes();
        let is_new = !self.refused_malformed.contains(&id) && self.malformed.insert(id);
        self.malformed_bytes += if is_new { bytes } else { 0 };
        is_new
    }

    /// Removes an event without remembering that it settled.
    pub(super) fn remove(&mut self, id: &EventId) -> Option<Origin> {
        let origin = self.events.remove(id);
        self.bytes -= origin.map_or(0, |_| bytes_of(id));
        self.retried -= usize::from(origin == Some(Origin::Retry));
        origin
    }

    /// A malformed event is marked.
    pub(super) fn settle_malformed(&mut self, id: &RawId) {
        if self.malformed.remove(id) {
            self.malformed_bytes -= id.bytes();
        }
    }

    /// The delete, mark or park of an event is written.
    pub(super) fn settle(&mut self, id: &EventId) {
        self.settlements += 1;

        let origin = self.remove(id);
        if origin == Some(Origin::SafetySweep) {
            self.before_the_tail.insert(id.clone());
        }

        // A round brings each event once: its own can't come again in it. That keeps the memory of
        // a long one small.
        let from_this_sweep = |number| origin == Some(Origin::Sweep(number));

        if !self.reads.is_empty() || self.sweep.is_some_and(|(number, _)| !from_this_sweep(number))
        {
            self.settled.insert(id.clone(), self.settlements);
        } else {
            self.let_go.remove(id);
        }
    }

    /// Events remembered though they settled.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.settled.len()
    }

    /// Forgets what settled before the oldest read under way began.
    fn forget_settled(&mut self) {
        let sweep = self.sweep.map(|(_, began)| began.0);

        match self.reads.keys().next().copied().into_iter().chain(sweep).min() {
            None => self.settled = HashMap::default(),
            Some(oldest) => self.settled.retain(|_, settled| *settled > oldest),
        }
        let mut let_go = std::mem::take(&mut self.let_go);
        let is_open = |id: &EventId| self.events.contains_key(id) || self.settled.contains_key(id);
        let_go.retain(|id| is_open(id) || self.was_refused(id));
        self.let_go = let_go;
    }
}

/// An id of another type has none besides its own place.
fn bytes_of(id: &EventId) -> usize {
    match id {
        EventId::String(id) => id.len(),
        EventId::ObjectId(_) | EventId::Uuid(_) => 0,
    }
}
