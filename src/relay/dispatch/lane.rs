//! The lane of one key: what waits in it and what holds it up.

use std::collections::VecDeque;

use outboxd_client::{EventId, Key};

use super::twins::{Began, Origin};
use crate::document::record::OutboxRecord;

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Boxed: it is moved from queue to queue, and twice into its publish.
    pub(crate) record: Box<OutboxRecord>,
    pub(crate) origin: Origin,
    /// When it was committed, by MongoDB's clock, if the change stream brought it.
    pub(crate) committed_ms: Option<i64>,
}

/// An event that holds its lane and a place among those in flight. Only [`Dispatch::next`] makes
/// one, and [`Dispatch::finished`] takes it back.
#[derive(Debug)]
pub(crate) struct Dispatched {
    pub(crate) record: Box<OutboxRecord>,
    pub(crate) origin: Origin,
    pub(crate) committed_ms: Option<i64>,
    pub(super) bytes: usize,
}

/// How a publish ended, as far as the lane is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The stream has it.
    Delivered,
    /// It will be marked; the lane stalls.
    Failed,
    /// Given back untried because this leadership ends: it stays in the outbox as it is, and its
    /// lane stays taken, so that nothing of its key leaves before it.
    Abandoned,
}

/// What a lane read found behind the events it returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing: that was all that is unlocked of the key.
    Nothing,
    /// More of the same.
    More,
    /// An event that is dead or not due, or the read failed: the lane waits for the next tick.
    Held,
}

/// Events to hand to the retrier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Park {
    pub(crate) key: Key,
    pub(crate) ids: Vec<EventId>,
}

/// An event whose mark is being written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marking {
    /// `None` for one that was never offered, because it is malformed.
    pub(crate) id: Option<EventId>,
    /// The id of a malformed one, as BSON: it may be of any type.
    pub(crate) malformed: Option<Vec<u8>>,
    /// The key that waits for it.
    pub(crate) key: Option<Key>,
    pub(crate) dead: bool,
}

/// One key's state. Only [`Dispatch`](super::Dispatch) changes it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Pending>,
    /// Whether an event of the key is being published.
    pub(super) in_flight: bool,
    /// Whether it stands in the queue of lanes with something to publish.
    pub(super) ready: bool,
    /// Whether an event of the key waits in the database, so that later ones are parked behind it.
    pub(super) stalled: bool,
    /// Whether the server refused a mark or a park: what the database says of the key can't be
    /// relied on, so nothing of it leaves before the next start.
    pub(super) blocked: bool,
    /// Marks and parks that aren't settled yet.
    pub(super) writing: usize,
    /// The marks among them.
    pub(super) marking: usize,
    /// Which mark of all was the last of this key.
    pub(super) marked: u64,
    /// Whether something was marked or parked since the last read began, so that the read may have
    /// missed it.
    pub(super) written_since_read: bool,
    /// Whether a read of the key's unlocked events is asked for or under way.
    pub(super) reading: bool,
    pub(super) read_began: Began,
    /// Whether such a read is to be asked for once another mark or park is settled, and no mark is
    /// left.
    pub(super) read_wanted: bool,
}

impl Lane {
    /// Whether it now has to stand among the lanes with something to publish; from then on it does.
    pub(super) fn get_ready(&mut self) -> bool {
        let gets = !self.ready && !self.in_flight && !self.queue.is_empty();
        self.ready |= gets;
        gets
    }

    /// Whether nothing is under way that could bring or send an event of the key.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && !self.in_flight && !self.reading && !self.read_wanted
    }

    /// Whether there is nothing to remember about the key.
    pub(super) fn is_done(&self) -> bool {
        self.is_quiet() && !self.stalled && self.writing == 0
    }
}
