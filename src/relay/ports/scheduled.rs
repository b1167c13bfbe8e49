//! What the mover needs of the world: the events that are scheduled for later, and a transaction
//! that moves some of them into the outbox.
//!
//! "Due" is the server's word: its clock decides, and the relay's own is never asked.

use std::future::Future;

use bson::RawDocumentBuf;
use outboxd_client::Key;

use super::{Mark, Refused, Room, StoreError, StoreResult};
use crate::relay::listing::RawId;

/// The scheduled events of an outbox.
pub(crate) trait ScheduledStore: Clone + Send + Sync + 'static {
    /// See [`ScheduledStore::mover`].
    type Mover: Mover;
    /// See [`ScheduledStore::alarms`].
    type Alarms: Alarms;

    /// Moves events for the leadership with this number. Ends whatever the mover of an earlier one
    /// has left open, which would keep its events from being moved or cancelled.
    fn mover(&self, term: i64) -> impl Future<Output = StoreResult<Self::Mover>> + Send;

    /// Reports the due times that are written from now on.
    fn alarms(&self) -> impl Future<Output = StoreResult<Self::Alarms>> + Send;

    /// When the next event is due. `None` if none is scheduled.
    fn next_due(
        &self,
        without: &Without,
    ) -> impl Future<Output = StoreResult<Option<NextDue>>> + Send;

    /// Documents that are no scheduled events and never come to be due.
    fn misfits(
        &self,
        room: Room,
        without: &Without,
    ) -> impl Future<Output = StoreResult<Vec<Misfit>>> + Send;

    /// Marks scheduled events as dead. Returns those that can never be marked.
    fn mark_scheduled(
        &self,
        marks: &[Mark],
    ) -> impl Future<Output = StoreResult<Vec<Refused>>> + Send;
}

/// One transaction after the other. What a step did counts only once the move is committed.
pub(crate) trait Mover: Send {
    /// Begins a move: reads, as of one moment, the events that are due, in the order of their due
    /// times.
    fn begin(
        &mut self,
        room: Room,
        without: &Without,
    ) -> impl Future<Output = StoreResult<DuePage>> + Send;

    /// Deletes these scheduled events. None of them can be moved or cancelled by anybody else.
    fn take(&mut self, events: &[Movable]) -> impl Future<Output = Result<(), MoveError>> + Send;

    /// Inserts them into the outbox, in this order.
    fn put(&mut self, events: &[Movable]) -> impl Future<Output = Result<(), MoveError>> + Send;

    /// Makes the move last. After an error nobody knows whether it does: what is still due shows
    /// it.
    fn commit(&mut self) -> impl Future<Output = Result<(), MoveError>> + Send;

    /// Takes everything back that was not committed.
    fn abort(&mut self) -> impl Future<Output = ()> + Send;
}

/// The due times that were written a moment ago. They are hints: one may be missing or wrong.
pub(crate) trait Alarms: Send {
    /// The earliest of those since the last call, in ms since 1970; of a document that has none, the
    /// least number. `None` when there will be no more.
    fn next(&mut self) -> impl Future<Output = StoreResult<Option<i64>>> + Send;
}

/// The events that a read leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Without {
    pub(crate) ids: Vec<RawId>,
    pub(crate) keys: Vec<Key>,
    /// How many documents have an `_id` that can't be named. They are read each time, and a read has
    /// so much more room.
    pub(crate) nameless: usize,
}

/// Times in ms since 1970, by the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextDue {
    pub(crate) at_ms: i64,
    pub(crate) now_ms: i64,
}

/// What is due.
#[derive(Debug, Default)]
pub(crate) struct DuePage {
    pub(crate) events: Vec<Due>,
    /// Documents whose `_id` can't be named, so that they can be neither moved nor marked.
    pub(crate) nameless: usize,
    /// Whether there may be more than there was room for.
    pub(crate) more: bool,
}

/// An event that is due.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) id: RawId,
    pub(crate) key: Option<Key>,
    /// The document as the outbox gets it, or why it is no event.
    pub(crate) document: Result<RawDocumentBuf, String>,
}

/// An event that can be moved.
#[derive(Debug)]
pub(crate) struct Movable {
    pub(crate) id: RawId,
    pub(crate) key: Option<Key>,
    /// As the outbox gets it.
    pub(crate) document: RawDocumentBuf,
}

/// A document that is no scheduled event.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) id: RawId,
    pub(crate) key: Option<Key>,
    pub(crate) reason: String,
}

/// Why a step of a move was not made.
#[derive(Debug)]
pub(crate) enum MoveError {
    /// Somebody else's transaction changes one of the events.
    Conflict,
    /// The outbox will never take one of the events.
    Refused(Refused),
    Failed(StoreError),
}
